"""Export: a run's adapter, or the model with it merged in, compared with the adapter as trained."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.engine.adapters import CONFIG_FILE, WEIGHTS_FILE, AdaptedModel
from qlora_studio.engine.checkpointing import copy_tokenizer
from qlora_studio.engine.merged_model import closest_merge, read_again, write_texts
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.trained_model import adapter_folder, load_trained
from qlora_studio.engine.verifying import Difference, Reference, difference, greedy_talks, log_probabilities
from qlora_studio.engine.weight_files import write_weights
from qlora_studio.errors import StudioError
from qlora_studio.memory.disk import merged_bytes
from qlora_studio.models.merged import MERGED_INTO
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol.commands import Export
from qlora_studio.protocol.events import ExportFinished, ExportProgress, LoadingProgress, Verification
from qlora_studio.runs.durable import FOLDER_MODE, sync_file
from qlora_studio.runs.folder import Run, open_run
from qlora_studio.runs.space import require_space, saving
from qlora_studio.runs.staged_folder import bytes_in, staged_folder

ADAPTER, MERGED = "adapter", "merged"

# A sound merge in bfloat16 is at 1e-6 to 1e-4 nats; some per cent of its tokens may flip where two are nearly
# equal. The original weights of a model that was trained in NF4 are at 1e-3 to 1e-2.
LEAST_AGREEMENT = 0.95
MOST_KL = 0.01  # nats a token
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
    adapter = yield from load_trained(order.run, order.adapter, holder)
    yield order.progress("Answering the prompts with the adapter as trained")
    trained = _reference(order, _held(holder))
    with staged_folder(order.out, order.what.lower(), order.bytes) as staging:
        if order.to == ADAPTER:
            verified = yield from _write_adapter(order, _held(holder), trained, staging)
        else:
            verified = yield from _write_merged(order, holder, adapter, trained, staging)
        order.go_on()
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

    adapter: the folder of the finished adapter, or of a checkpoint that verifies
    bytes:   that the files will take, about
    """

    id: int
    to: str
    run: Run
    adapter: Path
    out: Path
    prompts: tuple[tuple[int, ...], ...]
    bytes: int
    stopped: Callable[[], bool]

    @property
    def what(self) -> str:
        """As it stands at the beginning of a sentence."""
        return "The adapter" if self.to == ADAPTER else "The merged model"

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
    if command.to not in (ADAPTER, MERGED):
        raise StudioError(f"Nothing can be exported as {command.to!r}; choose {ADAPTER} or {MERGED}.")
    if not command.prompts:
        raise StudioError("An export is compared on prompts, and there is none.", hint="Give at least one.")
    run = open_run(Path(command.run))
    model = run.record.config.model.path
    if command.to == MERGED and model.startswith(SHAPE_PREFIX):
        raise StudioError(f"{model} has random weights; there is no model to merge the adapter into.")
    adapter = adapter_folder(run, command.checkpoint)
    weights = bytes_in(adapter) if command.to == ADAPTER else merged_bytes(model_shape(model))
    return _Order(
        id=command.id,
        to=command.to,
        run=run,
        adapter=adapter,
        out=out,
        prompts=command.prompts,
        bytes=weights + _SMALL_FILES,
        stopped=stopped,
    )


def _reference(order: _Order, adapted: AdaptedModel) -> Reference:
    talks = greedy_talks(adapted.causal_lm, order.prompts, adapted.base.stop_ids, order.stopped)
    order.go_on()
    return Reference(talks, [part.cpu() for part in log_probabilities(adapted.causal_lm, talks)])


def _write_adapter(order: _Order, adapted: AdaptedModel, trained: Reference, staging: Path) -> Exporting:
    yield order.progress("Copying the adapter", 0, order.bytes)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        shutil.copyfile(order.adapter / name, staging / name)
    if not adapted.base.source.startswith(SHAPE_PREFIX):
        copy_tokenizer(Path(adapted.base.source), staging)
    yield order.progress("Reading it again with peft", order.bytes, order.bytes)
    name = adapted.add_with_peft(staging)
    found = difference(trained.log_probabilities, log_probabilities(adapted.causal_lm, trained.talks))
    adapted.remove(name)
    return _verification(found, trained, f"peft {metadata.version('peft')}")


def _write_merged(
    order: _Order, holder: ModelHolder, adapter: str, trained: Reference, staging: Path
) -> Exporting:
    adapted = _held(holder)
    yield order.progress("Measuring which weights to merge into")
    merged, why = closest_merge(adapted, adapter, trained, order.go_on)
    total = merged.bytes
    yield order.progress("Writing the merged model", 0, total)
    says = {MERGED_INTO: merged.base}
    for done in write_weights(staging, merged.shapes, merged.dtype, merged.tensor, metadata=says):
        order.go_on()
        yield order.progress("Writing the merged model", done, total)
    write_texts(staging, adapted, merged.dtype)
    yield order.progress("Reading it again", total, total)
    numbers = total // merged.dtype.itemsize
    del adapted, merged  # it may have to make room
    log_probabilities_again, reader = read_again(staging, holder, trained, numbers)
    found = difference(trained.log_probabilities, log_probabilities_again)
    holder.device.empty_cache()
    return _verification(found, trained, reader, why)


def _verification(
    found: Difference, trained: Reference, reader: str, merge_base: str | None = None
) -> Verification:
    return Verification(
        with_=reader,
        prompts=len(trained.talks),
        token_agreement=found.agreement,
        mean_kl=found.mean_kl,
        max_logprob_drift=found.drift,
        passed=found.agreement >= LEAST_AGREEMENT and found.mean_kl <= MOST_KL,
        merge_base=merge_base,
    )


def _held(holder: ModelHolder) -> AdaptedModel:
    assert holder.held is not None
    return holder.held
