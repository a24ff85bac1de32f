"""What the engine is asked to do."""

from __future__ import annotations

import msgspec

from qlora_studio.runs.less_memory import Way


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Anything the engine is told."""


class Train(Command, frozen=True, tag="train"):
    """Run the folder from its newest sound checkpoint, or from the start where it has none.

    ways: to take less memory from now on, kept in the run's `less_memory.json`
    """

    run: str
    ways: tuple[Way, ...] = ()


class ExpectTraining(Command, frozen=True, tag="expect_training"):
    """A run is being prepared: get ready for it, as far as nothing else is asked meanwhile."""


class StopTraining(Command, frozen=True, tag="stop_training"):
    """End after the update in hand: save, evaluate, write the adapter."""


class PauseTraining(Command, frozen=True, tag="pause_training"):
    """End after the update in hand and save; the run goes on later as if nothing had happened."""


class SaveNow(Command, frozen=True, tag="save_now"):
    """A checkpoint after the update in hand; training goes on."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen.

    min_p: none that is less likely than this share of the likeliest one's probability; 0: any
    """

    greedy: bool = False
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 40
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    max_tokens: int = 512
    seed: int = 0


class LoadModel(Command, frozen=True, tag="load_model"):
    """The base for chat. `adapters`: name -> folder; they are switched without loading the base again.

    alone: no adapter will be asked for; a merged model is then loaded in its 16 bit, where these fit
    """

    id: int
    model: str
    quantization: str = "nf4"
    double_quant: bool = True
    compute_dtype: str = "auto"
    adapters: dict[str, str] = {}
    alone: bool = False


class Generate(Command, frozen=True, tag="generate"):
    """Answer `prompt_ids` with the base, or with the adapter named. Loads an adapter not seen before.

    base: id of the LoadModel that the prompt was encoded for, loaded again where other work took its place;
          0: whatever is on the device
    """

    id: int
    prompt_ids: tuple[int, ...]
    base: int = 0
    adapter: str | None = None  # folder of a finished adapter or checkpoint; None: the base
    stop_ids: tuple[int, ...] = ()  # that end a reply in this chat template, beside the model's own
    sampling: Sampling = Sampling()


class GenerateTogether(Command, frozen=True, tag="generate_together"):
    """Answer these, all by one base: at once where the device can, else one after the other.

    What is told is told of each; a failure is told of this command and ends all that haven't ended.
    """

    id: int
    replies: tuple[Generate, ...]


class StopGenerating(Command, frozen=True, tag="stop_generating"):
    """End reply `id` where it is."""

    id: int


class Evaluate(Command, frozen=True, tag="evaluate"):
    """Loss and right answers of a run's adapter on rows that the reader prepared.

    with_base: of the base alone too, to compare; that takes twice the time
    """

    id: int
    run: str
    prepared: str
    with_base: bool = True


class StopEvaluating(Command, frozen=True, tag="stop_evaluating"):
    """End evaluation `id`; nothing is reported."""

    id: int


class Export(Command, frozen=True, tag="export"):
    """Write a run's adapter, or the model with it merged in, and compare it with the adapter as trained.

    quant:     how a GGUF file stores its numbers: q8_0 (where it is empty), f16, or a K-quant of llama.cpp
               (q6_k, q5_k_m, q4_k_m); and a merged model: nf4, or in 16 bit where it is empty
    modelfile: what goes beside it for Ollama, less the line that names the file; empty: nothing does
    """

    id: int
    run: str
    to: str  # adapter | merged | gguf
    out: str
    quant: str = ""
    modelfile: str = ""
    checkpoint: int | None = None  # a step; None: the finished adapter
    prompts: tuple[tuple[int, ...], ...] = ()  # token ids, from the reader


class StopExport(Command, frozen=True, tag="stop_export"):
    """Drop what export `id` has written."""

    id: int


class ScanWeights(Command, frozen=True, tag="scan_weights"):
    """Look at every number of a model's weights."""

    id: int
    model: str


class MeasureQuantization(Command, frozen=True, tag="measure_quantization"):
    """What storing the model's linear layers in few bits does to them, and to the loss on a text.

    out:         file that the report is written to (models/quantization_report.py)
    block_size:  weights a scale, where one setting of each type is looked at closely
    prepared:    rows of a text, from the reader; empty: no perplexity
    tokens:      of the text, at most; 0: as many as take a minute or two on such a device
    """

    id: int
    model: str
    out: str
    quant_types: tuple[str, ...] = ("nf4", "fp4", "int4", "int8")
    block_sizes: tuple[int, ...] = (64,)
    block_size: int = 64
    prepared: str = ""
    text: str = ""
    tokens: int = 0


class StopMeasuring(Command, frozen=True, tag="stop_measuring"):
    """End measurement `id`; nothing is reported."""

    id: int


class MakeSampleModel(Command, frozen=True, tag="make_sample_model"):
    """Turn the bundled GGUF into an ordinary model folder, once."""

    id: int


class UnloadModel(Command, frozen=True, tag="unload_model"):
    """Free the device."""


class Heartbeat(Command, frozen=True, tag="heartbeat"):
    """The window is alive; 30 s without one mean save and exit."""


class Quit(Command, frozen=True, tag="quit"):
    """Save and exit; the same as the end of input."""


EngineCommand = (
    Train
    | ExpectTraining
    | StopTraining
    | PauseTraining
    | SaveNow
    | LoadModel
    | Generate
    | GenerateTogether
    | StopGenerating
    | Evaluate
    | StopEvaluating
    | Export
    | StopExport
    | ScanWeights
    | MeasureQuantization
    | StopMeasuring
    | MakeSampleModel
    | UnloadModel
    | Heartbeat
    | Quit
)
