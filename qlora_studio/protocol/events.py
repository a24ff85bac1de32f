"""What the engine tells: each step, each evaluation, each word of a chat, each end.

Scripts rely on these names; `metrics.jsonl` holds the same objects.
"""

from __future__ import annotations

import msgspec

from qlora_studio.runs.evaluations import ChangedRow


class Problem(msgspec.Struct, frozen=True):
    """A StudioError on the wire."""

    message: str
    hint: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=False):
    """Anything the engine says."""


class EngineReady(Event, frozen=True, tag="engine_ready"):
    """The engine listens. `memory_bytes` is the card's, or the machine's where there is no card."""

    device: str  # "cuda" | "cpu"
    device_name: str
    memory_bytes: int
    free_bytes: int
    versions: dict[str, str]


class Alive(Event, frozen=True, tag="alive"):
    """Said every 5 s, whatever the engine does: who hears nothing for 30 s knows that it hangs."""


class LoadingProgress(Event, frozen=True, tag="loading_progress"):
    """`done` of `total` tensors; `words` say what is going on, for a person."""

    done: int
    total: int
    words: str


class ModelLoaded(Event, frozen=True, tag="model_loaded"):
    """The base model is on the device."""

    model: str
    parameters: int
    trainable_parameters: int
    seconds: float
    device_name: str
    compute_dtype: str
    notes: tuple[str, ...] = ()  # what runs otherwise than asked, such as an optimizer that isn't paged here


class RunStarted(Event, frozen=True, tag="run_started"):
    """Training begins, or goes on, after `step`."""

    run: str
    step: int
    total_steps: int
    resumed: bool
    time: float
    device_bytes: int = 0  # of the card's memory, or the machine's; 0: not told


class StepFinished(Event, frozen=True, tag="step_finished"):
    """One update of the adapter."""

    step: int
    loss: float | None  # nats per learned token, or of each pair or rated answer; None where it isn't finite
    learning_rate: float
    grad_norm: float | None
    tokens: int  # without padding
    learned_tokens: int
    tokens_per_second: float
    learned_tokens_per_second: float
    rows: tuple[int, ...]  # ids of the rows of the update
    memory: dict[str, int]  # peak bytes of the step by part
    epoch: float
    elapsed_s: float  # of training, over all sittings
    time: float  # unix seconds, for display
    non_finite: str | None = None  # "nan" | "inf"
    others_bytes: int = 0  # most that other programs took of the device meanwhile
    in_ram_bytes: int = 0  # of a paged optimizer's state, what then had no room on the card


class RewardsMeasured(Event, frozen=True, tag="rewards_measured"):
    """How far the adapter prefers the better answers, after a step (dpo, orpo, kto).

    A reward is beta times the log-probability of an answer over the base's; of ORPO the mean of its tokens.

    held_out: measured on the rows held out, after their loss
    better, worse, margin: means in nats, and their difference; None where there was no such answer
    accuracy: the share of pairs whose better answer has the higher reward, equal ones by half; None where
        there are no pairs
    """

    step: int
    held_out: bool
    better: float | None
    worse: float | None
    margin: float | None
    accuracy: float | None


class EvaluationProgress(Event, frozen=True, tag="evaluation_progress"):
    """Rows measured so far; or what `words` say, where something else is counted."""

    step: int
    done: int
    total: int
    words: str = ""


class EvaluationFinished(Event, frozen=True, tag="evaluation_finished"):
    """Loss on the rows held out.

    right: answers to so many `questions`, where they were asked. kind: letters | numbers
    """

    step: int
    loss: float | None
    perplexity: float | None
    rows: int
    learned_tokens: int
    best: bool
    seconds: float
    time: float
    non_finite: str | None = None
    right: int | None = None
    questions: int = 0
    kind: str = ""


class Saving(Event, frozen=True, tag="saving"):
    """A checkpoint is being written."""

    step: int


class CheckpointSaved(Event, frozen=True, tag="checkpoint_saved"):
    """A checkpoint that verifies lies at `path`."""

    step: int
    path: str
    time: float


class SampleReady(Event, frozen=True, tag="sample_ready"):
    """A prompt of the user's, answered at a checkpoint."""

    step: int
    index: int
    prompt: str
    reply: str
    tokens: int
    time: float


class RunFinished(Event, frozen=True, tag="run_finished"):
    """The run ended and is saved. `state`: finished | stopped | paused.

    adapter: its folder, if written
    model:   in its place that of the model, where all weights were trained
    """

    run: str
    step: int
    adapter: str | None
    state: str
    model: str | None = None
    loss: float | None = None
    evaluation_loss: float | None = None
    first_evaluation_loss: float | None = None


class RunFailed(Event, frozen=True, tag="run_failed"):
    """The run ended by an error. `cause`: error | out_of_memory | device | non_finite | disk | died.

    ways: after out of memory, what would take less: recompute | half_rows | eight_bit | without_rows
    rows: that "without_rows" means, as `StepFinished` numbers them
    """

    error: Problem
    run: str | None = None
    step: int = 0
    cause: str = "error"
    ways: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()


class TextGenerated(Event, frozen=True, tag="text_generated"):
    """More text of reply `id`."""

    id: int
    text: str
    tokens: int  # so far


class GenerationFinished(Event, frozen=True, tag="generation_finished"):
    """Reply `id` is complete. `ended`: end | length | stopped | context."""

    id: int
    reply: str
    tokens: int
    tokens_per_second: float
    first_token_seconds: float
    ended: str


class BaseComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Right answers of the base alone and with the adapter, to the same questions.

    kind:         what is compared: letters (multiple choice) | numbers (after ####) | answers (each token)
    gained, lost: questions that only the adapter, and only the base answers right
    low, high:    95 % interval of the difference of the shares (paired bootstrap over the questions)
    p_value:      of the exact McNemar test
    changed:      the gained and lost ones in order, the first thousand of them
    """

    kind: str = "letters"
    questions: int
    base_right: int
    adapter_right: int
    gained: int
    lost: int
    low: float
    high: float
    p_value: float
    changed: tuple[ChangedRow, ...] = ()


class EvaluationReport(Event, frozen=True, tag="evaluation_report"):
    """Of the adapter after `step`. `accuracy` where the rows have answers that can be compared."""

    id: int
    step: int
    loss: float | None
    perplexity: float | None
    accuracy: float | None
    rows: int
    learned_tokens: int
    accuracy_rows: int = 0  # that were answered for it; of many rows some, evenly spread
    base_loss: float | None = None  # of the base alone, where that was asked
    comparison: BaseComparison | None = None  # where answers can be compared and the base was asked too


class ExportProgress(Event, frozen=True, tag="export_progress"):
    """Bytes written so far."""

    id: int
    words: str
    done: int
    total: int


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The first token of a greedy reply that isn't the trained model's: the one it was surest of.

    prompt, token: counted from 1
    wanted, found: the tokens, as words of a sentence
    times_likelier: how much likelier the trained model finds its own token; near 1 it is all but a tie
    """

    prompt: int
    token: int
    wanted: str
    found: str
    times_likelier: float

    @property
    def words(self) -> str:
        """A sentence, for the window, the terminal and the model card."""
        likelier = f"{self.times_likelier:.2f}" if self.times_likelier < 100 else "over 100"
        return (
            f"The furthest first difference is token {self.token} of prompt {self.prompt}: "
            f"{self.found} instead of {self.wanted}, "
            f"which the trained model finds {likelier} times as likely."
        )


class RunByLlamaCpp(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file run by llama.cpp itself, against the adapter as trained.

    max_logprob_drift: nats, at the adapter's likeliest tokens; a token that is none of the 40 likeliest there
                       counts as the least likely of these. Not of tokens that end in half a letter
    same_replies:      of the prompts, those that it answers with the very tokens of the adapter
    first_difference:  of the other replies
    """

    with_: str = msgspec.field(name="with")
    token_agreement: float
    max_logprob_drift: float
    same_replies: int
    first_difference: FirstDifference | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The written file against the adapter as trained, on the same prompts.

    same_replies: of the prompts, those that it answers greedily with the very tokens of the adapter
    first_difference: of the other replies
    problems: what differs beside the likeliest tokens, in sentences: probabilities, the chat template or the
              tokenizer of a GGUF file; and what to try instead
    """

    with_: str = msgspec.field(name="with")  # what read the file again
    prompts: int
    token_agreement: float  # share of equal greedy tokens, 0 to 1
    mean_kl: float | None  # nats per token
    max_logprob_drift: float  # nats
    passed: bool
    merge_base: str | None = None  # which weights were merged into, and why
    problems: tuple[str, ...] = ()
    run: RunByLlamaCpp | None = None  # of a GGUF file, where llama.cpp is installed
    same_replies: int | None = None
    first_difference: FirstDifference | None = None


class ExportFinished(Event, frozen=True, tag="export_finished"):
    """All files are written and were read again."""

    id: int
    folder: str
    files: tuple[str, ...]  # relative to `folder`
    bytes: int
    verified: Verification


class WeightsScanned(Event, frozen=True, tag="weights_scanned"):
    """Every number of the weights was looked at. `bad`: the tensors with NaN or Inf."""

    id: int
    tensors: int
    bad: tuple[str, ...]


class QuantizationMeasured(Event, frozen=True, tag="quantization_measured"):
    """The report lies in the file that was asked for."""

    id: int
    report: str


class SampleModelReady(Event, frozen=True, tag="sample_model_ready"):
    """The bundled model is an ordinary folder now."""

    id: int
    folder: str


class CommandFailed(Event, frozen=True, tag="command_failed"):
    """A command other than a run was refused, or failed.

    device_spoiled: for want of the device's memory, or as it failed: only another process can go on
    """

    id: int
    error: Problem
    device_spoiled: bool = False


EngineEvent = (
    EngineReady
    | Alive
    | LoadingProgress
    | ModelLoaded
    | RunStarted
    | StepFinished
    | RewardsMeasured
    | EvaluationProgress
    | EvaluationFinished
    | Saving
    | CheckpointSaved
    | SampleReady
    | RunFinished
    | RunFailed
    | TextGenerated
    | GenerationFinished
    | EvaluationReport
    | ExportProgress
    | ExportFinished
    | WeightsScanned
    | QuantizationMeasured
    | SampleModelReady
    | CommandFailed
)
