"""Export: a run's adapter, or the model with it merged in as folder or GGUF file, compared as trained."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.engine.adapters import CONFIG_FILE, WEIGHTS_FILE, AdaptedModel
from qlora_studio.engine.checkpointing import copy_tokenizer
from qlora_studio.engine.gguf_model import GgufModel, tensor_bytes, write_gguf
from qlora_studio.engine.gguf_reading import check_memory, read_gguf_again, texts_of, token_ids
from qlora_studio.engine.gguf_running import ByLlamaCpp, llama_cpp, run_gguf
from qlora_studio.engine.gguf_tokenizer import GgufTokenizer
from qlora_studio.engine.merged_model import (
    closest_merge,
    copy_licence,
    read_again,
    read_nf4_again,
    write_texts,
)
from qlora_studio.engine.merged_nf4 import NF4_AGAIN, Nf4Weights
from qlora_studio.engine.model_card import CARD_FILE, model_card
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.token_words import TokenWords
from qlora_studio.engine.trained_model import TrainedModel, result_folder
from qlora_studio.engine.verifying import Difference, Reference, difference, greedy_talks, log_probabilities
from qlora_studio.engine.weight_files import write_weights
from qlora_studio.errors import StudioError
from qlora_studio.memory.disk import merged_bytes, merged_nf4_bytes
from qlora_studio.models.check import model_folder
from qlora_studio.models.gguf_support import (
    F16,
    Q8_0,
    QUANTIZER,
    QUANTS,
    closer_quant,
    gguf_bytes,
    quant_problem,
)
from qlora_studio.models.merged import MERGED_INTO, NF4
from qlora_studio.models.shapes import model_shape
from qlora_studio.models.template import template_of
from qlora_studio.protocol.commands import Export
from qlora_studio.protocol.events import (
    ExportFinished,
    ExportProgress,
    LoadingProgress,
    RunByLlamaCpp,
    Verification,
)
from qlora_studio.runs.durable import FOLDER_MODE, sync_file
from qlora_studio.runs.folder import Run, open_run
from qlora_studio.runs.space import require_space, saving
from qlora_studio.runs.staged_folder import bytes_in, staged_folder
from qlora_studio.runs.standing import MODEL_FOLDER
from qlora_studio.runs.trained_template import refuse_other_template

ADAPTER, MERGED, GGUF = "adapter", "merged", "gguf"

# A sound merge in bfloat16 is at 1e-6 to 1e-4 nats; some per cent of its tokens may flip where two are nearly
# equal. The original weights of a model that was trained in NF4 are at 1e-3 to 1e-2.
LEAST_AGREEMENT = 0.95
MOST_KL = 0.01  # nats a token
MOST_KL_QUANTIZED = 0.02  # Q8_0 of the sample model after a run is at 0.0012
_SMALL_FILES = 50_000_000  # bytes: tokenizer and configs

Exporting = Generator[ExportProgress, None, Verification]


def export(
    command: Export, holder: ModelHolder, stopped: Callable[[], bool]
) -> Iterator[LoadingProgress | ExportProgress | ExportFinished]:
    """Raises: StudioError, also when stopped; nothing is left behind then."""
    order = _order(command, stopped)
    with saving("the export", order.out):
        order.out.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    require_space(order.out.parent, order.bytes, order.what)
    order.go_on()
    yield order.progress("Loading the model as it was trained")
    model = TrainedModel(order.run, order.result, holder)
    yield from model.load()
    adapter = model.adapter
    yield order.progress("Answering the prompts with what was trained")
    trained = _reference(order, _held(holder))
    with staged_folder(order.out, order.what.lower(), order.bytes) as staging:
        if order.to == ADAPTER:
            verified = yield from _write_adapter(order, _held(holder), trained, staging)
        elif order.to == GGUF:
            verified = yield from _write_gguf(order, _held(holder), adapter, trained, staging)
        elif order.in_nf4:
            verified = yield from _write_nf4(order, holder, adapter, trained, staging)
        else:
            verified = yield from _write_merged(order, holder, adapter, trained, staging)
        order.go_on()
        _write_card(order, command.checkpoint, staging, verified)
        for file in staging.iterdir():
            sync_file(file)
    files = sorted(file.name for file in order.out.iterdir())
    yield ExportFinished(
        id=command.id,
        folder=str(order.out),
        files=tuple(files),
        bytes=bytes_in(order.out),
        verified=verified,
    )


@dataclass(frozen=True)
class _Order:
    """What is wanted, checked.

    result: the folder of the finished adapter, of a checkpoint that verifies, or of the finished model
    bytes:   that the files will take, about
    gguf:    what a GGUF file says beside its numbers
    modelfile: what goes beside a GGUF file
    """

    id: int
    to: str
    quant: str
    run: Run
    result: Path
    out: Path
    prompts: tuple[tuple[int, ...], ...]
    bytes: int
    stopped: Callable[[], bool]
    gguf: tuple[GgufModel, GgufTokenizer] | None = None
    modelfile: str = ""

    @property
    def what(self) -> str:
        """As it stands at the beginning of a sentence."""
        return {ADAPTER: "The adapter", MERGED: "The merged model", GGUF: "The GGUF file"}[self.to]

    @property
    def in_nf4(self) -> bool:
        """Whether a merged model's linear layers are quantized again."""
        return self.to == MERGED and self.quant == NF4

    def go_on(self) -> None:
        """Raises: StudioError where the export was stopped."""
        if self.stopped():
            raise StudioError("The export was stopped.", hint="What it had written was removed.")

    def progress(self, words: str, done: int = 0, total: int = 0) -> ExportProgress:
        """Bytes, where they are known."""
        return ExportProgress(id=self.id, words=words, done=done, total=total)


def _order(command: Export, stopped: Callable[[], bool]) -> _Order:
    out = Path(command.out).expanduser().absolute()
    if os.path.lexists(out):
        raise StudioError(f"{out} exists already.", hint="Choose a folder that doesn't; nothing was changed.")
    if command.to not in (ADAPTER, MERGED, GGUF):
        raise StudioError(f"Nothing can be exported as {command.to!r}; choose {ADAPTER}, {MERGED} or {GGUF}.")
    quant = command.quant or (Q8_0 if command.to == GGUF else "")
    if command.to == GGUF and quant not in QUANTS:
        raise StudioError(f"No GGUF file can be written in {quant!r}; choose {', '.join(QUANTS)}.")
    if command.to == MERGED and quant not in ("", NF4):
        raise StudioError(f"No merged model can be written in {quant!r}; choose {NF4}, or 16 bit by no word.")
    if command.to == GGUF and (missing := quant_problem(quant)):
        raise StudioError(missing, hint=f"Install {QUANTIZER}, or choose Q8_0.")
    if not command.prompts:
        raise StudioError("An export is compared on prompts, and there is none.", hint="Give at least one.")
    run = open_run(Path(command.run))
    model = run.record.config.model.path
    trains_all = run.record.config.trains_all
    if trains_all and command.to == ADAPTER:
        raise StudioError(
            f"{run.folder.name} trained all weights: it has no adapter.",
            hint=f"Its model lies in {run.folder / MODEL_FOLDER}; it can be written as {MERGED} or {GGUF}.",
        )
    if command.to != ADAPTER and model.startswith(SHAPE_PREFIX):
        raise StudioError(f"{model} has random weights; there is no model to merge the adapter into.")
    result = result_folder(run, command.checkpoint)
    if trains_all:
        model = str(result)
    if command.to != ADAPTER:  # whose folder has the trained one beside it
        folder = model_folder(model)
        refuse_other_template(run.folder, run.record.hashes.template, template_of(folder), folder)
    weights = _bytes_as(command.to, quant, result, model)
    return _Order(
        id=command.id,
        to=command.to,
        quant=quant,
        run=run,
        result=result,
        out=out,
        prompts=command.prompts,
        bytes=weights + _SMALL_FILES,
        stopped=stopped,
        gguf=_gguf_of(run, model_folder(model)) if command.to == GGUF else None,
        modelfile=command.modelfile,
    )


def _gguf_of(run: Run, folder: Path) -> tuple[GgufModel, GgufTokenizer]:
    return GgufModel.of(folder), GgufTokenizer.of(folder)


def _bytes_as(to: str, quant: str, adapter: Path, model: str) -> int:
    if to == ADAPTER:
        return bytes_in(adapter)
    shape = model_shape(model)
    if to == GGUF:
        return gguf_bytes(shape.parameters, quant, shape.hidden_size)
    return merged_nf4_bytes(shape) if quant == NF4 else merged_bytes(shape)


def _reference(order: _Order, adapted: AdaptedModel) -> Reference:
    talks = greedy_talks(adapted.causal_lm, order.prompts, adapted.base.stop_ids, order.go_on)
    return Reference(talks, [part.cpu() for part in log_probabilities(adapted.causal_lm, talks)])


def _write_adapter(order: _Order, adapted: AdaptedModel, trained: Reference, staging: Path) -> Exporting:
    yield order.progress("Copying the adapter", 0, order.bytes)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        shutil.copyfile(order.result / name, staging / name)
    if not adapted.base.source.startswith(SHAPE_PREFIX):
        copy_tokenizer(Path(adapted.base.source), staging)
    yield order.progress("Reading it again with peft", order.bytes, order.bytes)
    name = adapted.add_with_peft(staging)
    found = difference(trained, log_probabilities(adapted.causal_lm, trained.talks))
    adapted.remove(name)
    words = TokenWords(adapted.base)
    return _verification(found, trained, words, f"peft {metadata.version('peft')}", MOST_KL)


def _write_merged(
    order: _Order, holder: ModelHolder, adapter: str, trained: Reference, staging: Path
) -> Exporting:
    adapted = _held(holder)
    yield order.progress("Measuring which weights to merge into")
    merged, why = closest_merge(adapted, adapter, trained, order.go_on)
    total = merged.bytes
    yield order.progress("Writing the merged model", 0, total)
    says = {MERGED_INTO: merged.base}
    for done in write_weights(staging, merged.tensors, merged.tensor, metadata=says):
        order.go_on()
        yield order.progress("Writing the merged model", done, total)
    write_texts(staging, adapted, merged.dtype)
    yield order.progress("Reading it again", total, total)
    numbers = total // merged.dtype.itemsize
    words = TokenWords(adapted.base)
    del adapted, merged  # it may have to make room
    log_probabilities_again, reader = read_again(staging, holder, trained, numbers)
    found = difference(trained, log_probabilities_again)
    holder.device.empty_cache()
    return _verification(found, trained, words, reader, MOST_KL, why)


def _write_nf4(
    order: _Order, holder: ModelHolder, adapter: str, trained: Reference, staging: Path
) -> Exporting:
    adapted = _held(holder)

    yield order.progress("Measuring which weights to merge into")
    closest, why = closest_merge(
        adapted, adapter, trained, order.go_on, lambda merged: Nf4Weights(merged).computed, NF4_AGAIN
    )
    nf4 = Nf4Weights(closest)
    total = sum(tensor.bytes for tensor in nf4.tensors.values())
    yield order.progress("Writing the merged model", 0, total)
    says = {MERGED_INTO: closest.base}
    for done in write_weights(staging, nf4.tensors, nf4.tensor, metadata=says):
        order.go_on()
        yield order.progress("Writing the merged model", done, total)
    write_texts(staging, adapted, nf4.dtype, nf4.config)
    yield order.progress("Reading it again", total, total)
    words = TokenWords(adapted.base)
    del adapted, closest, nf4  # it may have to make room
    log_probabilities_again, reader = read_nf4_again(staging, holder, trained, total)
    found = difference(trained, log_probabilities_again)
    holder.device.empty_cache()
    verified = _verification(found, trained, words, reader, MOST_KL_QUANTIZED, why)
    if verified.passed:
        return verified
    way_on = "Try 16 bit: rounded to 4 bit once more, a model loses some of what training changed."
    return msgspec.structs.replace(verified, problems=(*verified.problems, way_on))


def _write_gguf(
    order: _Order, adapted: AdaptedModel, adapter: str, trained: Reference, staging: Path
) -> Exporting:
    folder = Path(adapted.base.source)
    assert order.gguf is not None
    model, tokenizer = order.gguf
    dtype = adapted.base.storage.compute_dtype
    check_memory(model_shape(str(folder)).parameters, dtype)
    yield order.progress("Measuring which weights to merge into")
    closest, why = closest_merge(adapted, adapter, trained, order.go_on)
    merged = closest.in_32_bit()
    total = tensor_bytes(merged.shapes, order.quant)
    file = staging / f"{order.run.folder.name}-{order.quant.upper()}.gguf"
    name = order.run.record.name
    yield order.progress("Writing the GGUF file", 0, total)
    for done in write_gguf(file, name, model, tokenizer, order.quant, merged.shapes, merged.tensor):
        order.go_on()
        yield order.progress("Writing the GGUF file", done, total)
    if order.modelfile:
        (staging / "Modelfile").write_text(f"FROM ./{file.name}\n{order.modelfile}", encoding="utf-8")
    copy_licence(folder, staging)
    yield order.progress("Reading it again in a fresh process", total, total)
    texts = texts_of(folder, order.prompts)
    with read_gguf_again(file, trained.talks, texts, dtype, order.go_on) as again:
        found = difference(trained, again.log_probabilities)
        said = again.found
    problems = []
    if said.template != tokenizer.template:
        problems.append("The chat template in the file is another one than in training.")
    wanted = token_ids(folder, again.texts)
    if wrong := sum(own != theirs for own, theirs in zip(wanted, said.ids, strict=True)):
        problems.append(f"The tokenizer in the file cuts {wrong} of {len(wanted)} texts in another way.")
    most_kl = MOST_KL if order.quant == F16 else MOST_KL_QUANTIZED
    ran = None
    if llama_cpp():
        yield order.progress("Running it with llama.cpp", total, total)
        ran = run_gguf(file, trained, order.go_on)
    if isinstance(ran, str):
        problems.append(f"llama.cpp can't run the file: {ran}")
    elif ran is not None and ran.agreement < LEAST_AGREEMENT:
        problems.append(f"In llama.cpp only {ran.agreement:.1%} of the tokens agree.")
    words = TokenWords(adapted.base)
    verified = _verification(found, trained, words, said.reader, most_kl, why, tuple(problems))
    if not verified.passed and (closer := closer_quant(order.quant)):
        way_on = f"Try {closer.upper()}: it is larger and holds more."
        verified = msgspec.structs.replace(verified, problems=(*verified.problems, way_on))
    run = _run(ran, trained, words) if isinstance(ran, ByLlamaCpp) else None
    return msgspec.structs.replace(verified, run=run)


def _write_card(order: _Order, checkpoint: int | None, staging: Path, verified: Verification) -> None:
    path = order.run.record.config.model.path
    base = None if path.startswith(SHAPE_PREFIX) else model_folder(path)
    names = [file.name for file in staging.iterdir()]
    has_source = model_shape(path).decoder is not None
    card = model_card(order.run, order.to, checkpoint, base, names, verified, has_source=has_source)
    (staging / CARD_FILE).write_text(card, encoding="utf-8")


def _verification(
    found: Difference,
    trained: Reference,
    words: TokenWords,
    reader: str,
    most_kl: float,
    merge_base: str | None = None,
    problems: tuple[str, ...] = (),
) -> Verification:
    if not found.mean_kl <= most_kl:  # also where it is no number
        kl = f"Mean KL is {found.mean_kl:.2g} nats a token, of at most {most_kl:g}"
        problems = (*problems, f"{kl}: what it finds likely is not what the trained model finds likely.")
    return Verification(
        with_=reader,
        prompts=len(trained.talks),
        token_agreement=found.agreement,
        mean_kl=found.mean_kl,
        max_logprob_drift=found.drift,
        passed=found.agreement >= LEAST_AGREEMENT and not problems,
        merge_base=merge_base,
        problems=problems,
        same_replies=len(trained.talks) - len(found.partings),
        first_difference=words.of(found.partings),
    )


def _run(ran: ByLlamaCpp, trained: Reference, words: TokenWords) -> RunByLlamaCpp:
    return RunByLlamaCpp(
        with_=llama_cpp(),
        token_agreement=ran.agreement,
        max_logprob_drift=ran.drift,
        same_replies=len(trained.talks) - len(ran.partings),
        first_difference=words.of(ran.partings),
    )


def _held(holder: ModelHolder) -> AdaptedModel:
    assert holder.held is not None
    return holder.held
