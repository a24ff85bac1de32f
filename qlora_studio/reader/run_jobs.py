"""Runs: made ready with all that the engine needs, and checked before they go on."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qlora_studio.config.adapter_layers import require_layers
from qlora_studio.config.architecture import LAST_ANSWER, NOT_PACKED, as_trained, require_trainable
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.places import general_questions_file
from qlora_studio.config.run_config import (
    GENERAL,
    HOST,
    SAMPLE,
    SHAPE_PREFIX,
    DataConfig,
    RunConfig,
    read_alone,
)
from qlora_studio.config.setting import check_limits
from qlora_studio.config.toml_file import with_absolute_paths
from qlora_studio.config.unusual import unusual_settings
from qlora_studio.data.data_set import data_set
from qlora_studio.data.dataset import open_dataset
from qlora_studio.data.importing import import_data
from qlora_studio.data.limits import SHOWN_CHARACTERS
from qlora_studio.data.other_file import OF_HELD_OUT, import_alike, import_test
from qlora_studio.data.packing import steps_in
from qlora_studio.data.prepared import PreparedRows, check_content, open_prepared
from qlora_studio.data.preparing import Source, prepare, prepare_for_evaluation, sample_prompts
from qlora_studio.data.random_rows import prepare_random
from qlora_studio.data.report import ImportReport
from qlora_studio.errors import StudioError
from qlora_studio.memory.compiling import LAYERS_FOR_WEIGHTS, not_kept_dequantized
from qlora_studio.memory.correction import correction
from qlora_studio.memory.devices import device_name, ram_reading
from qlora_studio.memory.disk import run_bytes
from qlora_studio.memory.encoder_decoder import ROUGH
from qlora_studio.memory.promise import GIB, Promise, as_promised, promise
from qlora_studio.models.check import check_model, model_folder
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol import reading
from qlora_studio.protocol.smaller_recipe import smaller_recipe
from qlora_studio.reader.model_hash import model_sha256
from qlora_studio.reader.model_text import ModelTexts
from qlora_studio.reader.questions import few_ask_otherwise, prepare_questions, require_questions
from qlora_studio.reader.start import Start, start_of
from qlora_studio.runs.checkpoints import resume_point
from qlora_studio.runs.folder import create_run, open_run
from qlora_studio.runs.less_memory import less_after
from qlora_studio.runs.lock import RunLockedError
from qlora_studio.runs.run_record import Hashes, Prepared, RunRecord, read_record
from qlora_studio.runs.space import require_space
from qlora_studio.runs.trained_template import refuse_other_template

Told = Callable[[int, int, str], None]

_VERSIONS = (
    "qlora-studio",
    "torch",
    "transformers",
    "bitsandbytes",
    "peft",
    "tokenizers",
    "pyarrow",
    "numpy",
)


@dataclass(frozen=True)
class _Ready:
    """Model and rows of a run, checked and prepared."""

    shape: ModelShape
    rows: PreparedRows
    report: ImportReport
    hashes: Hashes
    template: str
    folder: str
    name: str
    notes: tuple[str, ...]
    questions: PreparedRows | None = None


def prepare_run(request: reading.PrepareRun, texts: ModelTexts, told: Told) -> reading.RunPrepared:
    """Raises: StudioError with what is missing or wrong; no run folder is made then."""
    config = _with_full_paths(request.config)
    check_limits(config, "The settings")
    start = start_of(config) if config.lora.start_from else None  # before all that takes its time
    if start is not None:
        config = msgspec.structs.replace(config, lora=start.lora)
    shape = model_shape(config.model.path)
    require_trainable(config, shape)
    require_layers(config, shape)
    if config.model.path.startswith(SHAPE_PREFIX):
        ready = _of_shape(config)
    else:
        ready = _of_folder(config, request.accept_skipped, texts, told)
    if start is not None:
        start.require_storage(config.model)
    config = as_trained(config, ready.shape)
    steps = _steps(config, ready.rows)
    promised = promise(
        ready.shape,
        config,
        device=request.device,
        free_bytes=request.device_memory_bytes or None,
        free_ram_bytes=ram_reading().free_bytes if request.device == "cuda" else None,
        longest_row=ready.rows.info.longest,
        all_tokens=ready.rows.tokens_at_most,
        corrected=correction(device_name(request.device), ready.shape, config.model.quantization),
    )
    _refuse_without_memory(config, promised)
    _refuse_beyond_device(request, ready.shape, promised)
    runs_dir = Path(request.runs_dir)
    require_space(runs_dir, run_bytes(ready.shape, config, request.device), "This run")
    ready = _with_model_hash(ready, told)
    if start is not None:
        start.require_base(config.model.path, ready.hashes.model)
    record = _record(request, config, ready, steps, promised, start)
    return reading.RunPrepared(
        id=request.id,
        run=str(create_run(runs_dir, record, ready.template, start.blocks() if start else None)),
        steps=steps,
        train_rows=ready.rows.info.train_rows,
        validation_rows=ready.rows.info.validation_rows,
        learned_tokens=ready.rows.info.train_learned_tokens,
        report=ready.report,
        promise_bytes=promised.parts,
        notes=record.notes,
    )


def _refuse_without_memory(config: RunConfig, promised: Promise) -> None:
    """Of all weights: no way of taking less memory later would make up for it. And of RAM for inputs of
    layers: it can't be taken from other programs, and a system without any ends this one.

    Raises: StudioError.
    """
    if promised.lacks_ram:
        ways = promised.suggestions[:1]
        hint = ways[0].words if ways else "Close other programs that use RAM, or take fewer rows at once."
        raise StudioError(promised.words, hint=hint)
    if config.trains_all and not promised.fits:
        ways = promised.suggestions[:1]
        hint = ways[0].words if ways else "Finetune a smaller model, or train an adapter."
        raise StudioError(f"Not all weights of this model can be trained here. {promised.words}", hint=hint)


def _refuse_beyond_device(request: reading.PrepareRun, shape: ModelShape, promised: Promise) -> None:
    """More than all there is, whatever else runs: on a processor the system would kill the engine.

    Raises: StudioError.
    """
    total, needed = request.device_total_bytes, promised.total - promised.paged
    if not 0 < total < needed:
        return
    device = "this machine has" if request.device == "cpu" else "the card has"
    ways = [way.words for way in promised.suggestions]
    if not ways:
        room = request.device_memory_bytes or total
        ways = [smaller_recipe(shape, device=request.device, room=room)]
    raise StudioError(
        f"This run needs {needed / GIB:.1f} GiB; {device} {total / GIB:.1f} GiB in all.", hint=" ".join(ways)
    )


def suggest_samples(
    request: reading.SuggestSamples, texts: ModelTexts, told: Told
) -> reading.SamplesSuggested:
    """Prompts that fit no widget are left out (S8). Raises: StudioError."""
    config = _with_full_paths(request.config)
    encoder = texts.of(config.model.path).encoder(config.data, config.training.method)
    prompts = sample_prompts(_source(config, True, told), encoder, config, told)
    shown = tuple(prompt for prompt in prompts if len(prompt) <= SHOWN_CHARACTERS)
    return reading.SamplesSuggested(id=request.id, prompts=shown)


def check_resume(request: reading.CheckResume, texts: ModelTexts, told: Told) -> reading.ResumeReady:
    """Raises: StudioError naming what changed since the run began (R3), or what is damaged (R2)."""
    folder = Path(request.run)
    run = open_run(folder)
    if run.newer:
        raise StudioError(f"{folder} was written by a newer version.", hint="Update QLoRA Studio.")
    if run.locked:
        raise RunLockedError(folder)
    if run.state.state == "finished":
        raise StudioError(f"{folder.name} is finished.", hint="Start a new run to train on.")
    point = resume_point(folder)
    less_after(folder, run.record, request.ways)
    config, hashes = run.record.config, run.record.hashes
    if not config.model.path.startswith(SHAPE_PREFIX):
        _refuse_changed_model(folder, config, hashes, texts, told)
        _refuse_changed_data(config, hashes, told)
    rows_folder = Path(run.record.prepared.folder)
    if not rows_folder.exists():
        _prepare_again(config, rows_folder, texts, told)
    check_content(open_prepared(rows_folder))
    if run.record.prepared.questions:
        require_questions(config, Path(run.record.prepared.questions), texts, told)
    return reading.ResumeReady(id=request.id, run=request.run, step=point.step)


def show_row_lengths(request: reading.ShowRowLengths) -> reading.RowLengthsShown:
    """Raises: StudioError where the run's prepared rows can't be read."""
    prepared = open_prepared(Path(read_record(Path(request.run)).record.prepared.folder))
    tokens = prepared.train.tokens_of(request.rows)
    return reading.RowLengthsShown(id=request.id, tokens=tuple(tokens.get(row, 0) for row in request.rows))


def prepare_evaluation(
    request: reading.PrepareEvaluation, texts: ModelTexts, told: Told
) -> reading.EvaluationPrepared:
    """Raises: StudioError where no row can be evaluated, or the template is another one than in training."""
    record = read_record(Path(request.run)).record
    config = _for_evaluation(record.config)
    if request.path == GENERAL:
        path = str(general_questions_file())
    else:
        path = request.path if request.path == SAMPLE else str(Path(request.path).absolute())
    imported = import_test(path, request.encoding, config.data, told, "--encoding")
    dataset = open_dataset(imported.dataset)
    text = texts.of(config.model.path)
    refuse_other_template(
        Path(request.run), record.hashes.template, text.template.source, model_folder(config.model.path)
    )
    encoder = text.encoder(config.data, config.training.method)
    rows = prepare_for_evaluation(dataset, encoder, config, told)
    skipped = imported.report.skipped_words
    return reading.EvaluationPrepared(
        id=request.id,
        prepared=str(rows.folder),
        rows=rows.info.validation_rows,
        notes=(
            *([skipped] if skipped else []),
            *few_ask_otherwise(rows, dataset, text.tokenizer),
            *rows.info.notes,
        ),
    )


def _for_evaluation(config: RunConfig) -> RunConfig:
    """What prefers answers is asked as what learns them: by the right ones."""
    method = "pretrain" if config.training.method == "pretrain" else "sft"
    return msgspec.structs.replace(config, training=msgspec.structs.replace(config.training, method=method))


def _of_folder(config: RunConfig, accept_skipped: bool, texts: ModelTexts, told: Told) -> _Ready:
    model = check_model(config.model.path, told)  # first: it takes no time
    source = _source(config, accept_skipped, told)
    text = texts.of(config.model.path)
    encoder = text.encoder(config.data, config.training.method)
    rows = prepare(source, encoder, config, told, accept_left_out=accept_skipped)
    notes = [*text.notes, *rows.info.notes]
    questions = prepare_questions(config, texts, told) if config.checkpoints.questions else None
    if questions is not None:
        notes += [f"Questions: {note}" for note in questions.notes]
    if source.validation is not None and (skipped := source.validation.report.skipped_words):
        notes.append(f"Held out: {skipped}")
    if model.shape.decoder is not None:
        notes = [LAST_ANSWER, NOT_PACKED, ROUGH, *notes]
    elif not model.has_template and any(row.messages for row in source.train.rows(0, 1)):
        notes.insert(0, "The model has no chat template; chats are written as 'User: …' and 'Assistant: …'.")
    folder = model_folder(config.model.path)
    return _Ready(
        shape=model.shape,
        rows=rows,
        report=source.train.report,
        hashes=Hashes(
            data=source.train.report.sha256,
            template=text.template.sha256,
            tokenizer=text.tokenizer.sha256,
        ),
        template=text.template.source,
        folder=str(folder),
        name=model.name,
        notes=tuple(notes),
        questions=questions.rows if questions is not None else None,
    )


def _with_model_hash(ready: _Ready, told: Told) -> _Ready:
    """Last: every byte of the weights is read, which takes minutes of a large model."""
    if ready.folder.startswith(SHAPE_PREFIX):
        return ready
    model = model_sha256(Path(ready.folder), told)
    return replace(ready, hashes=msgspec.structs.replace(ready.hashes, model=model))


def _of_shape(config: RunConfig) -> _Ready:
    """Random weights on random rows."""
    shape = model_shape(config.model.path)
    rows = prepare_random(config, shape.vocab_size)
    count = rows.info.train_rows + rows.info.validation_rows
    report = ImportReport(
        path="random tokens",
        rows_in=count,
        imported=count,
        skipped=0,
        merged=0,
        conversations=count,
        format="text",
        encoding="",
        sha256="",
        problems=(),
        findings=(),
    )
    name = config.model.path.removeprefix(SHAPE_PREFIX)
    return _Ready(shape, rows, report, Hashes(), "", config.model.path, name, rows.info.notes)


def _source(config: RunConfig, accept_skipped: bool, told: Told) -> Source:
    train = open_dataset(data_set(config.data, told).dataset)
    _refuse_many_skipped(train.report, accept_skipped)
    data = config.data
    if not isinstance(data.validation, str):
        return Source(train)
    held_out = import_alike(data.validation, data.validation_encoding, data, OF_HELD_OUT, told)
    return Source(train, open_dataset(held_out.dataset))


def _refuse_many_skipped(report: ImportReport, accept_skipped: bool) -> None:
    if report.many_skipped and not accept_skipped:
        first = next(problem for problem in report.problems if not problem.by_design)
        raise StudioError(
            f"{report.unusable:,} of {report.rows_in:,} rows of {report.path} "
            f"{'was' if report.unusable == 1 else 'were'} skipped, the first one in "
            f"line {first.line:,}: {first.reason}.",
            hint="Mend them, or accept that they are left out (--accept-skipped).",
        )


def _steps(config: RunConfig, rows: PreparedRows) -> int:
    training = config.training
    return training.steps or steps_in(
        training.epochs,
        rows.train.lengths,
        seq_len=rows.info.seq_len,
        packing=config.data.packing,
        seed=training.seed,
        batch_size=training.batch_size,
        accumulation=training.gradient_accumulation,
    )


def _record(
    request: reading.PrepareRun,
    config: RunConfig,
    ready: _Ready,
    steps: int,
    promised: Promise,
    start: Start | None,
) -> RunRecord:
    info = ready.rows.info
    training = as_promised(config, promised).training
    if request.device_memory_bytes and training.recompute != HOST:  # else the engine makes the plan
        training = msgspec.structs.replace(training, recompute=promised.recompute_layers)
    return RunRecord(
        name=request.name or _name(config, ready.name),
        created=time.time(),
        config=msgspec.structs.replace(config, training=training),
        model_folder=ready.folder,
        model_name=ready.name,
        device=request.device,
        seed=config.training.seed,
        hashes=msgspec.structs.replace(ready.hashes, start=start.sha256 if start else ""),
        prepared=Prepared(
            folder=str(ready.rows.folder),
            steps=steps,
            train_rows=info.train_rows,
            validation_rows=info.validation_rows,
            questions=str(ready.questions.folder) if ready.questions else "",
            tokens=info.train_tokens,
            learned_tokens=info.train_learned_tokens,
        ),
        versions=_versions(),
        promise_bytes=promised.parts,
        notes=(
            *((start.words,) if start else ()),
            *ready.notes,
            *_notes(config, ready.shape, promised, steps),
        ),
    )


def _notes(config: RunConfig, shape: ModelShape, promised: Promise, steps: int) -> Iterator[str]:
    yield from (words for _, words in unusual_settings(config, steps))
    if promised.gives_up_dequantized:
        yield not_kept_dequantized(LAYERS_FOR_WEIGHTS)
    if promised.verdict in ("tight", "too large"):
        yield " ".join([promised.words, *(way.words for way in promised.suggestions[:1])])
    if shape.decoder is None and config.data.target_len != DataConfig().target_len:
        yield "data.target_len is for encoder-decoders: of this model data.seq_len limits the whole row."
    if config.data.seq_len > shape.max_position_embeddings:
        yield (
            f"The model was made for {shape.max_position_embeddings:,} tokens; "
            f"the sequence length is {config.data.seq_len:,}."
        )


def _name(config: RunConfig, model: str) -> str:
    return f"{' and '.join(Path(path).stem for path in config.data.paths)} {model}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _with_full_paths(config: RunConfig) -> RunConfig:
    """A run may go on from another working folder."""
    return with_absolute_paths(config, Path.cwd())


def _refuse_changed_model(
    run: Path, config: RunConfig, hashes: Hashes, texts: ModelTexts, told: Told
) -> None:
    folder = model_folder(config.model.path)
    text = texts.of(config.model.path)
    for now, then, what in (
        (model_sha256(folder, told), hashes.model, "The weights or the config"),
        (text.tokenizer.sha256, hashes.tokenizer, "The tokenizer"),
    ):
        if now != then:
            raise StudioError(
                f"{what} in {folder} changed since this run began.",
                hint="Put the old files back, or start a new run.",
            )
    way_on = "Put the old file back, or start a new run."
    refuse_other_template(run, hashes.template, text.template.source, folder, way_on)


def _refuse_changed_data(config: RunConfig, hashes: Hashes, told: Told) -> None:
    """A file that is gone has not changed: the prepared rows are what is trained on."""
    sets = [read_alone(part) for part in config.data.mix] or [config.data]
    before = hashes.data.split("+")  # as `mix.py` puts them together
    for alone, then in zip(sets, before, strict=True):
        if alone.path != SAMPLE and not Path(alone.path).exists():
            continue
        if import_data(alone, told).report.sha256 != then:
            raise StudioError(
                f"{alone.path} changed since this run began.",
                hint="Put the old file back, or start a new run.",
            )


def _prepare_again(config: RunConfig, folder: Path, texts: ModelTexts, told: Told) -> None:
    """The cache was cleared; the same data gives the same rows."""
    if config.model.path.startswith(SHAPE_PREFIX):
        rows = prepare_random(config, model_shape(config.model.path).vocab_size)
    else:
        encoder = texts.of(config.model.path).encoder(config.data, config.training.method)
        rows = prepare(_source(config, True, told), encoder, config, told, accept_left_out=True)
    if rows.folder != folder:
        raise StudioError(
            f"The rows of this run are gone from {folder}, and what they were made from has changed.",
            hint="Start a new run.",
        )
