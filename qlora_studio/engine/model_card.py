"""The README.md of an export: what it was made from and how, and what its check found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from qlora_studio.config.adapter_layers import ALL_LAYERS
from qlora_studio.config.run_config import SAMPLE, SHAPE_PREFIX, LoraConfig, RunConfig
from qlora_studio.errors import StudioError
from qlora_studio.models.elsewhere import Exported, ready_lines
from qlora_studio.models.licence import read_licence
from qlora_studio.models.model_folder import open_folder
from qlora_studio.protocol.events import Verification
from qlora_studio.runs.folder import Run

CARD_FILE = "README.md"

_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as the hub writes them
_LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
_WHAT_OF_ALL = {
    "merged": "A model of which all weights were trained",
    "gguf": "A GGUF file of a model of which all weights were trained",
}
_WHAT = {
    "adapter": "A LoRA adapter",
    "merged": "A model with its LoRA adapter merged in",
    "gguf": "A GGUF file of a model with its LoRA adapter merged in",
}


def model_card(
    run: Run,
    to: str,
    checkpoint: int | None,
    base: Path | None,
    files: Iterable[str],
    check: Verification,
    *,
    has_source: bool = False,
) -> str:
    """Names of files, never their folders: a card is made to be passed on.

    to:         adapter | merged | gguf
    checkpoint: the step that was exported; None: the finished adapter
    base:       folder of the base model, None where there is none
    has_source: the model is an encoder-decoder
    """
    licence = _licence(base)
    names = sorted(files)
    what = _WHAT_OF_ALL if run.record.config.trains_all else _WHAT
    parts = (
        "\n".join(_head(run, to, licence)),
        f"# {_plain(run.record.name)}",
        f"{what[to]}, trained and checked with QLoRA Studio.",
        _table("Made from", _made_from(run, licence)),
        _table("Settings", _settings(run.record.config, has_source)),
        _table("Scores", _scores(run, checkpoint)),
        _table("Checked after writing", _checked(check)),
        *((f"{check.merge_base}",) if check.merge_base else ()),
        *check.problems,
        "## Use\n\n" + "\n".join(_use(run, names, has_source)).rstrip(),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(run: Run, to: str, licence: str | None) -> Iterator[str]:
    """What the hub and peft read, in YAML; strings as JSON writes them are YAML too."""
    yield "---"
    if not run.record.config.model.path.startswith(SHAPE_PREFIX):
        yield f"base_model: {_quoted(_base_name(run))}"
    yield f"library_name: {_LIBRARY[to]}"
    if licence:
        known = _LICENCE_ID.fullmatch(licence)
        yield f"license: {licence}" if known else f"license: other\nlicense_name: {_quoted(licence)}"
    yield "pipeline_tag: text-generation"
    yield "tags:\n- full-finetuning" if run.record.config.trains_all else "tags:\n- qlora\n- lora"
    yield "---"


def _made_from(run: Run, licence: str | None) -> Iterator[tuple[str, str]]:
    record, data = run.record, run.record.config.data
    yield "Base model", _base_name(run)
    yield "Licence of the base", licence or "its folder doesn't say"
    yield "Data", ", ".join("GSM8K, as bundled" if path == SAMPLE else Path(path).name for path in data.paths)
    for what, digest in (
        ("data", record.hashes.data),
        ("base model", record.hashes.model),
        ("chat template", record.hashes.template),
        ("adapter it started from", record.hashes.start),
    ):
        if digest:
            yield f"SHA-256 of the {what}", digest
    prepared = record.prepared
    yield "Rows", f"{prepared.train_rows:,} learned, {prepared.validation_rows:,} held out"
    yield "Tokens learned, an epoch", f"{prepared.learned_tokens:,}"


def _settings(config: RunConfig, has_source: bool) -> Iterator[tuple[str, str]]:
    lora, training, model = config.lora, config.training, config.model
    learned = "the last answer of each chat" if has_source else config.data.train_on
    yield "Method", f"{training.method}, learning {learned}"
    double = ", double quantization" if model.double_quant and model.quantization != "none" else ""
    yield "Base weights", f"{model.quantization}{double}, computed in {model.compute_dtype}"
    if config.trains_all:
        yield "Trained", "all weights, no adapter"
    else:
        yield "Adapter", f"rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}"
        yield from _of_layers(lora)
        if lora.init == "loftq" and not lora.start_from:
            yield "Began as", "what 4 bits lost of the weights (LoftQ)"
        targets = lora.target_modules
        yield "Target layers", targets if isinstance(targets, str) else ", ".join(targets)
    yield "Learning rate", f"{training.learning_rate:g}, {training.schedule}"
    if training.loraplus_ratio != 1:
        yield "LoRA+", f"B's learning rate is {training.loraplus_ratio:g} times A's"
    if training.fp8:
        yield "Products of frozen 4-bit weights", "in fp8 (e4m3), where a card compiled the layers"
    yield "Optimizer", training.optimizer
    epochs = "1 epoch" if training.epochs == 1 else f"{training.epochs:g} epochs"
    yield "Length", f"{training.steps:,} updates" if training.steps else epochs
    yield "An update", f"{training.batch_size} x {training.gradient_accumulation} rows"
    if has_source:
        yield "Source length", f"{config.data.seq_len:,} tokens"
        yield "Target length", f"{config.data.target_len:,} tokens"
    else:
        yield "Sequence length", f"{config.data.seq_len:,} tokens"
    yield "Seed", str(training.seed)


def _of_layers(lora: LoraConfig) -> Iterator[tuple[str, str]]:
    """What single layers have otherwise."""
    if lora.layers != ALL_LAYERS:
        yield "Layers with an adapter", lora.layers
    for what, values in (("Ranks", lora.ranks), ("Alphas", lora.alphas)):
        if values:
            own = ", ".join(f"{name} {value}" for name, value in values.items())
            yield f"{what} of single layers", own


def _scores(run: Run, checkpoint: int | None) -> Iterator[tuple[str, str]]:
    state = run.state
    step = state.step if checkpoint is None else checkpoint
    yield "Exported", f"step {step:,} of {state.total_steps or state.step:,}"
    if state.first_evaluation_loss is not None:
        yield "Evaluation loss before", f"{state.first_evaluation_loss:.4f}"
    if checkpoint is not None and checkpoint == state.best_step and state.best_evaluation_loss is not None:
        yield "Evaluation loss at this step", f"{state.best_evaluation_loss:.4f}"
    elif checkpoint is None and state.evaluation_loss is not None:
        yield "Evaluation loss after", f"{state.evaluation_loss:.4f}"


def _checked(check: Verification) -> Iterator[tuple[str, str]]:
    yield "Result", "answers as it did in training" if check.passed else "DIFFERS from what was trained"
    yield "Read again with", check.with_
    yield "Prompts", f"{check.prompts:,}"
    yield "Likeliest tokens that agree", f"{check.token_agreement:.1%}"
    if check.mean_kl is not None:
        yield "Mean KL", f"{check.mean_kl:.3g} nats a token"
    yield "Largest drift of a log-probability", f"{check.max_logprob_drift:.3g} nats"
    if check.same_replies is not None:
        yield "Replies that are the same", f"{check.same_replies} of {check.prompts}"
    if check.first_difference:
        yield "Where they aren't", check.first_difference.words
    if ran := check.run:
        yield "Run by", ran.with_
        yield "Likeliest tokens that agree there", f"{ran.token_agreement:.1%}"
        yield "Replies that are the same there", f"{ran.same_replies} of {check.prompts}"
        if ran.first_difference:
            yield "Where they aren't", ran.first_difference.words


def _use(run: Run, names: list[str], has_source: bool) -> Iterator[str]:
    """Whoever gets the card has the files elsewhere: they are named from their own folder."""
    name = run.folder.name
    exported = Exported(
        folder=".",
        files=tuple(names),
        base=_base_name(run),
        rank=run.record.config.lora.r,
        name=name,
        has_source=has_source,
    )
    for line in ready_lines(exported):
        yield f"{line.program}:\n\n```\n{line.text}\n```\n"


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {name} | {_plain(value)} |" for name, value in rows]
    return "\n".join((f"## {title}", "", "| | |", "| --- | --- |", *lines))


def _base_name(run: Run) -> str:
    path = run.record.config.model.path
    return run.record.model_name or ("sample" if path == SAMPLE else Path(path).name)


def _licence(base: Path | None) -> str | None:
    if base is None:
        return None
    try:
        return read_licence(open_folder(base))
    except StudioError:
        return None  # the card says so; the export doesn't depend on it


def _plain(text: str) -> str:
    """On one line, and nothing that Markdown would take for its own."""
    return re.sub(r"([|`<>\[\]*_\\#])", r"\\\1", " ".join(text.split()))


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
