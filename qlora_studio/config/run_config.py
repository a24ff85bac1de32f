"""Every setting of a run, with its default, its limits and its words."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from qlora_studio.config.data_parts import Fix, MixPart
from qlora_studio.config.encodings import ENCODING_WORDS, Encoding
from qlora_studio.config.setting import Setting

SCHEMA_VERSION = 1
SAMPLE = "sample"  # stands for the bundled model or the bundled data, in place of a path
GENERAL = "general"  # stands for the bundled general questions, where something is evaluated
HOST = "host"  # of `recompute`: all layers, and what goes into them lies in the host's memory
SHAPE_PREFIX = "shape:"  # a known model's shapes with random weights, in place of a folder
# What an adapter that is trained on brings with it, whatever the settings say.
OF_THE_START = (
    "lora.r",
    "lora.alpha",
    "lora.target_modules",
    "lora.layers",
    "lora.ranks",
    "lora.alphas",
    "lora.use_rslora",
    "lora.use_dora",
)

PAIRS = frozenset({"dpo", "orpo"})  # methods that learn from a better and a worse answer
PREFERENCES = PAIRS | {"kto"}  # and from answers that were rated good or bad
COMPARES_WITH_BASE = frozenset({"dpo", "kto"})  # by the adapter switched off
ADAPTER, ALL_WEIGHTS = "lora", "full"  # what learns
WRITTEN_TOGETHER = 16  # replies, where right numbers are counted
QUESTION_TOKENS = 2048  # of a question with its examples, as the official code of QLoRA has it
_NOT_BUILT = "it isn't built yet in this version."


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model is finetuned, and how its frozen weights are stored."""

    path: Annotated[
        str,
        Setting(
            label="Model",
            help="A folder with safetensors weights. 'sample' is the bundled SmolLM2-135M-Instruct.",
            simple=True,
        ),
    ] = SAMPLE
    quantization: Annotated[
        Literal["nf4", "fp4", "int8", "none"],
        Setting(
            label="Base weights",
            help="How the frozen weights are stored. NF4 takes a quarter of 16 bit and was made for "
            "weights that are spread like a bell curve, as those of language models are.",
            choices={"nf4": "NF4, 4 bit", "fp4": "FP4, 4 bit", "int8": "int8, 8 bit", "none": "16 bit"},
        ),
    ] = "nf4"
    double_quant: Annotated[
        bool,
        Setting(
            label="Double quantization",
            help="Quantizes the scales of the 4-bit blocks again: 0.37 bit less for each weight.",
        ),
    ] = True
    compute_dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Setting(
            label="Compute in",
            help="The number format of the arithmetic. Auto measures what the device does fastest.",
            choices={
                "auto": "Auto",
                "bfloat16": "bfloat16",
                "float16": "float16",
                "float32": "float32",
            },
        ),
    ] = "auto"


class DataConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is learned from, and which part of it."""

    path: Annotated[
        str,
        Setting(
            label="Data",
            help="A file with conversations or text. 'sample' is the bundled data.",
            simple=True,
        ),
    ] = SAMPLE
    format: Annotated[
        str,
        Setting(label="Format", help="Found from the content; set it where the guess is wrong."),
    ] = "auto"
    encoding: Annotated[
        Encoding,
        Setting(
            label="Encoding",
            help="How letters are stored in the file. Found from the content where it is UTF-8, or UTF-16 "
            "with its mark; any other is chosen by hand.",
            choices=ENCODING_WORDS,
        ),
    ] = "auto"
    alternatives: Annotated[
        Literal["best", "all"],
        Setting(
            label="Several answers",
            help="Where the data holds several answers to one question, as OASST's trees do: "
            "only the best is learned, or each of them.",
            choices={"best": "The best only", "all": "Each of them"},
        ),
    ] = "best"
    seq_len: Annotated[
        int,
        Setting(
            label="Sequence length",
            help="The longest row in tokens, and the size of a packed row. Memory grows with it.",
            minimum=16,
            maximum=131072,
            unit="tokens",
            simple=True,
        ),
    ] = 2048
    target_len: Annotated[
        int,
        Setting(
            label="Target length",
            help="Of encoder-decoder models: the longest target in tokens, beside the sequence length, which "
            "is then that of the source.",
            minimum=1,
            maximum=131072,
            unit="tokens",
        ),
    ] = 256
    packing: Annotated[
        bool,
        Setting(
            label="Pack short chats together",
            help="Fills each row of the batch with several chats that don't see each other: "
            "nothing is computed for padding.",
        ),
    ] = True
    train_on: Annotated[
        Literal["answers", "last_answer", "everything"],
        Setting(
            label="Learn from",
            help="Which tokens the loss counts. A message's own loss_weight wins.",
            choices={
                "answers": "Answers only",
                "last_answer": "The last answer only",
                "everything": "Every token",
            },
        ),
    ] = "answers"
    too_long: Annotated[
        Literal["drop", "truncate", "stop"],
        Setting(
            label="Longer chats",
            help="What happens to a chat that is longer than the sequence length.",
            choices={"drop": "Drop longer", "truncate": "Cut longer", "stop": "Stop if any is longer"},
        ),
    ] = "drop"
    validation: Annotated[
        float | str,
        Setting(
            label="Held out",
            help="The share of chats kept for evaluation, or the path of a file with them. 0: none.",
            minimum=0.0,
            maximum=0.5,
        ),
    ] = 0.05
    validation_encoding: Annotated[
        Encoding,
        Setting(
            label="Encoding of the held-out file",
            help="How letters are stored in a file that is held out. Found from the content where it is "
            "UTF-8, else taken to be that of the data; any other is chosen by hand.",
            choices=ENCODING_WORDS,
        ),
    ] = "auto"
    map: dict[str, str] = {}
    mix: tuple[MixPart, ...] = ()  # in place of `path`, which is then empty
    recipe: tuple[Fix, ...] = ()  # applied to the imported rows, in this order

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the one file or folder, or of each in the mixture."""
        return tuple(part.path for part in self.mix) or (self.path,)


def read_alone(part: MixPart) -> DataConfig:
    """What reads one data set of a mixture by itself."""
    return DataConfig(
        path=part.path,
        format=part.format,
        encoding=part.encoding,
        alternatives=part.alternatives,
        map=part.map,
        recipe=part.recipe,
    )


class LoraConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which adapter is trained, and how large it is."""

    r: Annotated[
        int,
        Setting(
            label="Rank",
            help="Width of the adapter. A higher rank can hold more new behaviour; memory and file "
            "size grow with it. 16 is enough for tone and format, 64 for new skills.",
            minimum=1,
            maximum=512,
            simple=True,
        ),
    ] = 64
    alpha: Annotated[
        int,
        Setting(
            label="Alpha",
            help="The adapter's output is scaled by alpha / rank.",
            minimum=1,
            maximum=1024,
        ),
    ] = 16
    dropout: Annotated[
        float,
        Setting(
            label="Dropout",
            help="The share of the adapter's inputs that is zeroed at random while training.",
            minimum=0.0,
            maximum=0.9,
        ),
    ] = 0.0
    target_modules: Annotated[
        str | tuple[str, ...],
        Setting(
            label="Target layers",
            help="Which layers get an adapter. All linear layers is what the QLoRA paper found "
            "necessary to match 16-bit finetuning.",
            choices={"all-linear": "All linear layers"},
        ),
    ] = "all-linear"
    layers: Annotated[
        str,
        Setting(
            label="Layer numbers",
            help="Which of the model's layers get an adapter, counted from 0: all, or such as 8-23 or "
            "0, 4, 8-11.",
        ),
    ] = "all"
    ranks: Annotated[
        dict[str, int],
        Setting(
            label="Own ranks",
            help="Ranks of single target layers, such as q_proj=16, down_proj=128; 3.mlp.down_proj=128 is "
            "for layer 3 alone. All others have the rank above.",
            minimum=1,
            maximum=512,
        ),
    ] = {}
    alphas: Annotated[
        dict[str, int],
        Setting(
            label="Own alphas",
            help="Alphas of single target layers, written as own ranks are. A layer's output is scaled by "
            "its alpha / its rank.",
            minimum=1,
            maximum=1024,
        ),
    ] = {}
    use_rslora: Annotated[
        bool,
        Setting(label="rsLoRA", help="Scales by alpha / sqrt(rank): steadier at high ranks."),
    ] = False
    use_dora: Annotated[
        bool,
        Setting(
            label="DoRA",
            help="Learns each weight column's length apart from its direction. Slower, sometimes better.",
        ),
    ] = False
    init: Annotated[
        Literal["default", "pissa", "loftq"],
        Setting(
            label="Initialization",
            help="What a new adapter adds to the base. Usually nothing. LoftQ: as much as its rank can "
            "hold of what 4 bits lost of the weights. An adapter that is trained on brings its own.",
            choices={"default": "Adds nothing", "loftq": "LoftQ"},
            missing={
                "pissa": "it takes its part out of the base's weights, and whoever loads this adapter on the "
                "model's own folder would have another model."
            },
        ),
    ] = "default"
    start_from: Annotated[
        str,
        Setting(
            label="Start from",
            help="An adapter that is trained on: a run, or a folder in peft's format. Rank, alpha, target "
            "layers, rsLoRA and DoRA are then those of that adapter. Empty: a new one.",
        ),
    ] = ""

    def shaped_as(self, other: LoraConfig) -> LoraConfig:
        """With all that an adapter which is trained on brings."""
        names = [key.removeprefix("lora.") for key in OF_THE_START]
        return msgspec.structs.replace(self, **{name: getattr(other, name) for name in names})


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What learns, and how."""

    finetuning: Annotated[
        Literal["lora", "full"],
        Setting(
            label="Finetuning",
            help="What learns. An adapter: small, beside frozen weights. All weights: 16 to 18 bytes of "
            "memory for each, no 4 bit, a tenth of the learning rate; the result is a model of its own.",
            choices={"lora": "LoRA adapter", "full": "All weights"},
        ),
    ] = "lora"
    method: Annotated[
        Literal["sft", "dpo", "orpo", "kto", "pretrain"],
        Setting(
            label="Method",
            help="Chats: learn to answer as the chats do. Text: go on with raw text. DPO: prefer the better "
            "of two answers. ORPO: learn it and prefer it, in one. KTO: learn from answers that were rated "
            "good or bad.",
            choices={
                "sft": "Chats (SFT)",
                "pretrain": "Text (pretraining)",
                "dpo": "Pairs of answers (DPO)",
                "orpo": "Pairs of answers (ORPO)",
                "kto": "Rated answers (KTO)",
            },
        ),
    ] = "sft"
    steps: Annotated[
        int,
        Setting(
            label="Updates",
            help="Stops after this many updates. 0: by epochs.",
            minimum=0,
            maximum=10_000_000,
        ),
    ] = 0
    epochs: Annotated[
        float,
        Setting(
            label="Epochs",
            help="How often each chat is seen.",
            minimum=0.01,
            maximum=1000,
            simple=True,
        ),
    ] = 1.0
    batch_size: Annotated[
        int,
        Setting(
            label="Rows per step",
            help="Rows on the device at once. Memory grows with it.",
            minimum=1,
            maximum=1024,
        ),
    ] = 4
    gradient_accumulation: Annotated[
        int,
        Setting(
            label="Accumulate",
            help="Steps whose gradients are summed for one update: a larger batch for no more memory.",
            minimum=1,
            maximum=4096,
        ),
    ] = 4
    learning_rate: Annotated[
        float,
        Setting(
            label="Learning rate",
            help="The size of an update. 2e-4 up to 13 B parameters, 1e-4 above (QLoRA paper).",
            minimum=0.0,
            maximum=1e9,
            simple=True,
        ),
    ] = 2e-4
    loraplus_ratio: Annotated[
        float,
        Setting(
            label="LoRA+ ratio",
            help="How many times faster than A the adapter's B learns (LoRA+). 16 is usual, with a lower "
            "learning rate, which is A's. 1: both alike.",
            minimum=1.0,
            maximum=1000.0,
        ),
    ] = 1.0
    fp8: Annotated[
        bool,
        Setting(
            label="fp8 products",
            help="Frozen 4-bit weights are multiplied in 8-bit floating point (e4m3) where layers are "
            "compiled, but for the first and last two; sums and the adapter are computed as ever. Faster on "
            "Ada, Hopper and later cards, a little less exact.",
        ),
    ] = False
    keep_dequantized: Annotated[
        bool,
        Setting(
            label="Keep dequantized",
            help="Where layers are compiled, frozen 4-bit weights also stay dequantized on the card, 2 bytes "
            "a number (8B: 13 GiB), instead of being dequantized for each product. The same weights in less "
            "time, above all with few tokens at once. Not with fp8 products, nor, with Recompute on Auto, "
            "where layers would have to be recomputed for them.",
        ),
    ] = False
    schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        Setting(
            label="Schedule",
            help="How the learning rate moves over the run, after the warm-up.",
            choices={"constant": "Constant", "linear": "Linear to 0", "cosine": "Cosine to 0"},
        ),
    ] = "constant"
    warmup_steps: Annotated[
        int,
        Setting(
            label="Warm-up",
            help="Updates over which the learning rate rises from 0.",
            minimum=0,
            maximum=1_000_000,
            unit="steps",
        ),
    ] = 0
    optimizer: Annotated[
        Literal["paged_adamw_32bit", "paged_adamw_8bit", "adamw_32bit"],
        Setting(
            label="Optimizer",
            help="Paged: its state may spill to RAM in a spike. On a CPU all run as AdamW in 32 bit.",
            choices={
                "paged_adamw_32bit": "Paged AdamW 32-bit",
                "paged_adamw_8bit": "Paged AdamW 8-bit",
                "adamw_32bit": "AdamW 32-bit",
            },
        ),
    ] = "paged_adamw_32bit"
    max_grad_norm: Annotated[
        float,
        Setting(
            label="Max gradient norm",
            help="Longer gradients are shortened to this. 0: never.",
            minimum=0.0,
            maximum=1e6,
        ),
    ] = 0.3
    weight_decay: Annotated[
        float,
        Setting(
            label="Weight decay",
            help="The share by which each update shrinks the adapter, times the learning rate.",
            minimum=0.0,
            maximum=1.0,
        ),
    ] = 0.0
    neftune_alpha: Annotated[
        float,
        Setting(
            label="NEFTune",
            help="Noise on the embeddings while training; 5 is usual. 0: none.",
            minimum=0.0,
            maximum=100.0,
        ),
    ] = 0.0
    recompute: Annotated[
        int | str,
        Setting(
            label="Recompute",
            help="Layers whose activations are computed again in the backward pass: less memory, "
            "more time. Auto: as many as it takes to fit. With inputs in RAM a card holds the input of a few "
            "layers instead of all, in about the same time.",
            choices={"auto": "Auto", "none": "None", "all": "All layers", HOST: "All, inputs in RAM"},
            minimum=0,
            maximum=1000,
        ),
    ] = "auto"
    embedding_in_ram: Annotated[
        bool,
        Setting(
            label="Embedding in RAM",
            help="The input embedding lies in the machine's memory, where the card reads the rows that a "
            "batch needs: vocabulary x hidden size x 2 bytes less on the card (8B: 1 GiB). Only where the "
            "head is a matrix of its own.",
        ),
    ] = False
    compile: Annotated[
        Literal["auto", "off"],
        Setting(
            label="Compile",
            help="The layers are compiled for the card: the first step takes some seconds more, all others "
            "less time and memory. Off: every layer runs as it is written.",
            choices={"auto": "Auto", "off": "Off"},
        ),
    ] = "auto"
    devices: Annotated[
        str | tuple[int, ...],
        Setting(
            label="Devices",
            help="Auto: one card, or the processor where there is none.",
            choices={"auto": "One card"},
            missing={"all": f"training on several cards: {_NOT_BUILT}"},
        ),
    ] = "auto"
    seed: Annotated[
        int,
        Setting(
            label="Seed",
            help="The same seed gives the same rows, order and noise.",
            minimum=0,
            maximum=2**32 - 1,
        ),
    ] = 0


class PreferenceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers are preferred: for the methods dpo, orpo and kto only."""

    beta: Annotated[
        float,
        Setting(
            label="Beta",
            help="DPO, KTO: how much it costs to move away from the base model; 0.1 is usual, smaller moves "
            "further. ORPO: what the preference weighs beside the better answer itself.",
            minimum=1e-3,
            maximum=100.0,
        ),
    ] = 0.1
    label_smoothing: Annotated[
        float,
        Setting(
            label="Label smoothing",
            help="DPO: the share of pairs that may be the wrong way round.",
            minimum=0.0,
            maximum=0.5,
        ),
    ] = 0.0


class EarlyStoppingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run ends before its last step."""

    patience: Annotated[
        int,
        Setting(
            label="Stop early",
            help="Ends the run after this many evaluations without a better loss. 0: never.",
            minimum=0,
            maximum=1000,
            unit="evaluations",
        ),
    ] = 0


class CheckpointsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is saved and measured on the way."""

    every_steps: Annotated[
        int,
        Setting(
            label="Save every",
            help="A checkpoint each so many updates: what a power cut can cost.",
            minimum=1,
            maximum=1_000_000,
            unit="steps",
        ),
    ] = 100
    keep: Annotated[
        int,
        Setting(
            label="Keep checkpoints",
            help="The newest that are kept, beside the best one.",
            minimum=2,
            maximum=1000,
        ),
    ] = 2
    evaluate_every_steps: Annotated[
        int,
        Setting(
            label="Evaluate every",
            help="Measures the loss on the chats held out, each so many updates. 0: at the end only.",
            minimum=0,
            maximum=1_000_000,
            unit="steps",
        ),
    ] = 100
    evaluate_letters: Annotated[
        bool,
        Setting(
            label="Count right letters",
            help="Where the chats held out are multiple choice, each evaluation also says how many letters "
            "are right. It takes twice as long.",
        ),
    ] = False
    questions: Annotated[
        str,
        Setting(
            label="Questions",
            help="A file of multiple choice that is asked at each evaluation, beside the loss on the chats "
            "held out: how many letters are right. For MMLU 5-shot, one with five examples in each prompt.",
        ),
    ] = ""
    evaluate_numbers: Annotated[
        int,
        Setting(
            label="Count right numbers",
            help="Where the chats held out end in #### and a number, each evaluation also answers so many of "
            "them and says how many numbers are right. Writing takes long. 0: none.",
            minimum=0,
            maximum=1000,
            unit="chats",
        ),
    ] = 0


class SamplePrompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question answered at each checkpoint."""

    prompt: str
    max_tokens: int = 64


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run's settings: the TOML file of DESIGN section 5."""

    schema_version: int = SCHEMA_VERSION
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()
    preference: PreferenceConfig = PreferenceConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    samples: tuple[SamplePrompt, ...] = ()

    @property
    def trains_all(self) -> bool:
        """Whether the weights themselves learn, and no adapter does."""
        return self.training.finetuning == ALL_WEIGHTS
