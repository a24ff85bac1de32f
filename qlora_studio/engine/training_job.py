"""A run from where it stands to its end, whatever happens on the way: every end is an event."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from qlora_studio.config.places import compiled_folder
from qlora_studio.config.run_config import HOST, SHAPE_PREFIX, RunConfig
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine.adapters import AdaptedModel, NonFiniteError, decoder_layers
from qlora_studio.engine.autopsy import autopsy_words, phase_of, ways_out
from qlora_studio.engine.checkpointing import checkpoint_bytes
from qlora_studio.engine.compiled_layers import keep_dequantized
from qlora_studio.engine.compiler_ahead import compiles_on, start_compiling_processes
from qlora_studio.engine.compute_dtype import name_of
from qlora_studio.engine.cuda_graphs import let_passes_be
from qlora_studio.engine.device_error import device_error, is_device_error
from qlora_studio.engine.embedding_in_ram import bytes_in_ram
from qlora_studio.engine.loftq import begin_with_what_was_lost
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.out_of_memory import is_out_of_memory, out_of_memory, ways_in_words
from qlora_studio.engine.pinned_memory import PinnedMemoryError
from qlora_studio.engine.prepared_run import PreparedRun, read_start
from qlora_studio.engine.trained_weights import ADAPTER
from qlora_studio.engine.training import train
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.memory.compiling import keeps_dequantized, not_compiled_reason
from qlora_studio.memory.correction import STEPS_MEASURED, remember_peak
from qlora_studio.memory.measured import remember_dtype, remember_speed
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol.events import (
    EngineEvent,
    LoadingProgress,
    ModelLoaded,
    Problem,
    RunFailed,
    RunFinished,
    StepFinished,
)
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.checkpoints import checkpoints_hold
from qlora_studio.runs.less_memory import LessMemory, Way
from qlora_studio.runs.run_state import RunState, read_state
from qlora_studio.runs.run_writer import RunWriter
from qlora_studio.runs.space import DiskFullError, checkpoints_need, disk_full, is_disk_full, require_space

_log = logging.getLogger(__name__)
_FIRST_STEPS = 2  # slower than the rest: memory is allocated, kernels are chosen

R = TypeVar("R")


class _GivenUpError(Exception):
    """The run is to end while something is loaded that it can't train without."""


def run_training(
    folder: Path, holder: ModelHolder, wish: Callable[[], Wish], ways: Sequence[Way] = ()
) -> Iterator[EngineEvent]:
    """The last event is RunFinished or RunFailed. It comes once the lock is free: a resume may follow.

    ways: to take less memory from now on
    """
    try:
        writer = RunWriter(folder)
    except StudioError as error:
        yield _failed(folder, 0, "error", Problem(error.message, error.hint))
        return
    job = _TrainingJob(writer, holder, ways)
    end: RunFinished | RunFailed
    try:
        end = yield from job.run(wish)
    except Exception as error:  # noqa: BLE001  # the job's edge: an engine that died would take the chat with it
        end = job.failure(error)
        _log.error("The run %s ended by an error", folder.name, exc_info=error)
        job.record(end)
    finally:
        job.close()
    yield end


class _TrainingJob:
    """One sitting of a run."""

    def __init__(self, writer: RunWriter, holder: ModelHolder, ways: Sequence[Way]) -> None:
        self._writer = writer
        self._ways = ways
        self._holder = holder
        self._run: PreparedRun | None = None
        self._doing = "before training"
        self._less: LessMemory | None = None  # from when on weights may be kept dequantized
        self._step = self._total_steps = 0  # where the sitting begins, and the updates of the whole run
        self._steps = self._recordings = 0  # of this sitting
        self._speeds: list[float] = []
        self._held_to = False  # the promise
        self._peak: dict[str, int] = {}  # bytes by part

    def run(self, wish: Callable[[], Wish]) -> Generator[EngineEvent, None, RunFinished]:
        """Tells all but the end, which it gives."""
        try:
            run = yield from self._prepare(wish)
        except _GivenUpError:
            return self._given_up()
        for event in train(run, wish):
            if isinstance(event, RunFinished):
                return event
            if isinstance(event, StepFinished):
                self._note_speed(run, event)
                self._hold_to_promise(run, event)
            self._doing = f"at step {run.position.step + 1:,}"
            yield event
        raise AssertionError("train() ends with RunFinished, or raises")

    def _prepare(self, wish: Callable[[], Wish]) -> Generator[EngineEvent, None, PreparedRun]:
        """Raises: _GivenUpError where it is to end before all is loaded."""
        config, device = self._writer.record.config, self._holder.device
        start = read_start(self._writer, device, self._ways)
        self._step, self._total_steps = (
            start.saved.position.step if start.saved else 0,
            start.fixed.total_steps,
        )
        self._doing = "while loading the model"
        if config.trains_all:
            self._holder.let_go()  # a model that was chatted with may have adapters
        family = model_shape(config.model.path).family
        if compiles_on(device.torch_device) and not_compiled_reason(family, config) is None:
            start_compiling_processes()  # which get ready while the model is loaded
        adapted = yield from _unless_to_end(wish, self._holder.hold(config.model.path, start.storage))
        self._doing, self._less = "while preparing the run", start.less
        decode = _decoder(adapted) if start.rows.info.samples else _as_numbers
        self._run = PreparedRun(self._writer, start, adapted, decode)
        if self._run.begins_with_what_was_lost:
            self._doing = "while the adapter is made"
            yield from _unless_to_end(wish, begin_with_what_was_lost(adapted, ADAPTER))
        require_space(
            self._writer.folder,
            checkpoints_need(
                checkpoint_bytes(self._run.optimizer),
                config.checkpoints.keep,
                held=checkpoints_hold(self._writer.folder),
            ),
            "The run",
        )
        _log.info("%s: %s", self._writer.folder.name, _device_line(self._run))
        yield _loaded(self._run)
        return self._run

    def _given_up(self) -> RunFinished:
        """Nothing was learned in this sitting: the run is paused where it stood, and the device is free."""
        if self._run is not None:
            self._run.memory.close()
        self._run = None
        self._holder.let_go()
        finished = RunFinished(run=str(self._writer.folder), step=self._step, adapter=None, state="paused")
        known = read_state(self._writer.folder).state or RunState(
            state="paused", step=self._step, total_steps=self._total_steps
        )
        self._writer.append_event(EVENTS.encode(finished))
        self._writer.save_state(
            msgspec.structs.replace(
                known, state="paused", step=self._step, updated=time.time(), cause="", message="", hint=""
            )
        )
        return finished

    def _note_speed(self, run: PreparedRun, event: StepFinished) -> None:
        """But of a step in which passes were recorded, as after each evaluation."""
        recordings = run.graphs.recordings if run.graphs is not None else 0
        if recordings == self._recordings:
            self._speeds.append(event.tokens_per_second)
        self._recordings = recordings
        self._steps += 1

    def _hold_to_promise(self, run: PreparedRun, event: StepFinished) -> None:
        """Kept for the promise of the next run here."""
        self._peak = max(self._peak, event.memory, key=lambda parts: sum(parts.values()))
        as_promised = run.graphs is None or run.graphs.are_played  # the plain steps before take no more
        if self._held_to or self._steps < STEPS_MEASURED or not as_promised or run.config.trains_all:
            return
        self._held_to = True
        _remember_peak(run, self._peak)

    def failure(self, error: Exception) -> RunFailed:
        folder, step = self._writer.folder, self._run.position.step if self._run else self._step
        if is_out_of_memory(error):
            return self._out_of_memory(error, step)
        if is_device_error(error):
            return _failed(folder, step, "device", device_error(error, self._doing, self._holder.device))
        if isinstance(error, OSError) and is_disk_full(error):  # what we write ourselves is told as it fails
            compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled_folder())
            error = disk_full("a compiled kernel", Path(error.filename or compiled), 0)
        if isinstance(error, StudioError):
            causes = {DiskFullError: "disk", NonFiniteError: "non_finite"}
            cause = next((word for kind, word in causes.items() if isinstance(error, kind)), "error")
            return _failed(folder, step, cause, Problem(error.message, error.hint))
        words = f"A bug of ours ended the run {self._doing}: {type(error).__name__}: {error}"
        return _failed(
            folder, step, "error", Problem(words[:2000], "The log has the details; please report it.")
        )

    def _out_of_memory(self, error: Exception, step: int) -> RunFailed:
        run, device, config = self._run, self._holder.device, self._writer.record.config
        if run is None:
            return self._out_of_memory_in_preparing(error, step)
        ways, rows = ways_out(error, run)
        problem = out_of_memory(
            error,
            phase_of(error, step) or self._doing,
            device,
            config,
            held=_held_by(run, error),
            ways=ways_in_words(ways, run.rows_at_once, rows, keeps_dequantized=run.setup.keeps_dequantized),
        )
        failed = _failed(self._writer.folder, step, "out_of_memory", problem)
        return msgspec.structs.replace(failed, ways=ways, rows=rows)

    def _out_of_memory_in_preparing(self, error: Exception, step: int) -> RunFailed:
        """Nothing of the run is there that could tell more."""
        record, less = self._writer.record, self._less
        keeps = (
            record.device == "cuda"
            and less is not None
            and not less.recompute_all
            and not isinstance(error, PinnedMemoryError)
            and keeps_dequantized(model_shape(record.config.model.path).family, record.config)
        )
        ways: tuple[Way, ...] = ("recompute",) if keeps else ()
        words = ways_in_words(ways, record.config.training.batch_size, (), keeps_dequantized=keeps)
        problem = out_of_memory(error, self._doing, self._holder.device, record.config, ways=words)
        failed = _failed(self._writer.folder, step, "out_of_memory", problem)
        return msgspec.structs.replace(failed, ways=ways)

    def record(self, failed: RunFailed) -> None:
        """Into the run folder, where that can still be written to."""
        try:
            if self._run is not None:
                self._run.log.record(failed)
            else:
                self._writer.append_event(EVENTS.encode(failed))
                self._writer.save_state(_state_of(failed))
        except StudioError as error:
            _log.error("The failure could not be noted: %s", error)

    def close(self) -> None:
        """Frees the adapter and the optimizer; the base stays for a chat, unless it was trained itself."""
        held = self._holder.held
        if self._run is not None and self._run.graphs is not None:
            self._run.graphs.close()
        if held is not None:
            let_passes_be(held.causal_lm)  # also where the run was never whole
            keep_dequantized(decoder_layers(held.causal_lm), wanted=False)
        measured = len(self._speeds) > _FIRST_STEPS
        if measured and self._run is not None and not self._run.config.trains_all:  # of another kind of step
            _remember(self._run, self._speeds[_FIRST_STEPS:])
        if self._run is not None:
            self._run.memory.close()
            if self._run.setup.hosted is not None:
                self._run.setup.hosted.let_go()
            self._run.optimizer.close()
        self._run = None
        if self._writer.record.config.trains_all or (held is not None and bytes_in_ram(held.causal_lm)):
            held = None  # whoever wants it next loads it as it is
            self._holder.let_go()
        if held is not None and ADAPTER in held.names:
            held.remove(ADAPTER)
        if held is not None:
            held.causal_lm.eval()
        self._holder.device.empty_cache()
        try:
            self._writer.close()
        except StudioError as error:
            _log.error("%s", error)


def _unless_to_end(
    wish: Callable[[], Wish], loading: Generator[LoadingProgress, None, R]
) -> Generator[LoadingProgress, None, R]:
    """Raises: _GivenUpError where the run is to end first; a wish to save finds nothing to be saved."""
    while True:
        try:
            told = next(loading)
        except StopIteration as finished:
            result: R = finished.value
            return result
        yield told
        if wish() in (Wish.STOP, Wish.PAUSE):
            loading.close()
            raise _GivenUpError


def _held_by(run: PreparedRun, error: Exception) -> str:
    """Empty where the device can't even be asked."""
    try:
        return autopsy_words(error, run)
    except (RuntimeError, OSError):
        _log.exception("What was held could not be told")
        return ""


def _loaded(run: PreparedRun) -> ModelLoaded:
    base = run.adapted.base
    return ModelLoaded(
        model=base.source,
        parameters=base.parameters,
        trainable_parameters=sum(weight.numel() for weight in run.optimizer.parameters.values()),
        seconds=base.seconds,
        device_name=base.device.name,
        compute_dtype=name_of(base.storage.compute_dtype),
        notes=run.notes,
    )


def _device_line(run: PreparedRun) -> str:
    replaced = run.adapted.replaced
    plain = [f"{name}: {reason}" for name, reason in replaced.fallbacks.items()]
    not_compiled = run.setup.not_compiled
    compiled = "layers compiled" if not_compiled is None else f"layers not compiled ({not_compiled})"
    if not_compiled is None:
        compiled += ", to be played as CUDA graphs" if run.graphs else f", no CUDA graphs ({run.not_graphed})"
    dtype = name_of(run.adapted.base.storage.compute_dtype)
    if run.setup.multiplies_in_fp8:
        dtype += " and fp8"
    if run.setup.keeps_dequantized:
        dtype += ", weights kept dequantized"
    return (
        f"{run.device.name}, {dtype}, {replaced.replaced} layers fused, {len(plain)} plain, "
        f"{run.setup.recomputed} recomputed{', inputs in RAM' if run.setup.hosted else ''}, {compiled}"
        + "".join(f"\n  {line}" for line in (*plain, *run.notes))
    )


def _decoder(adapted: AdaptedModel) -> Callable[[Sequence[int]], str]:
    if adapted.base.source.startswith(SHAPE_PREFIX):
        return _as_numbers
    return load_tokenizer(Path(adapted.base.source)).decode


def _as_numbers(ids: Sequence[int]) -> str:
    """For random weights, which have no tokenizer."""
    return " ".join(map(str, ids))


def _remember(run: PreparedRun, speeds: list[float]) -> None:
    model: RunConfig = run.config
    remember_speed(
        run.device.name,
        model_shape(model.model.path),
        model.model.quantization,
        statistics.median(speeds),
        fp8=run.setup.multiplies_in_fp8,
        graphed=run.graphs is not None and run.graphs.are_played,
    )


def _remember_peak(run: PreparedRun, measured: dict[str, int]) -> None:
    config = run.as_computed
    if run.config.model.compute_dtype == "auto":
        remember_dtype(run.device.name, config.model.compute_dtype)
    recomputed = HOST if run.setup.hosted else run.setup.recomputed
    training = msgspec.structs.replace(config.training, recompute=recomputed)
    remember_peak(
        run.device.name,
        model_shape(config.model.path),
        msgspec.structs.replace(config, training=training),
        device=run.device.kind,
        longest_row=run.rows.info.longest,
        all_tokens=run.rows.tokens_at_most,
        measured=measured,
    )


def _failed(folder: Path, step: int, cause: str, problem: Problem) -> RunFailed:
    return RunFailed(error=problem, run=str(folder), step=step, cause=cause)


def _state_of(failed: RunFailed) -> RunState:
    return RunState(
        state="paused" if failed.cause == "disk" else "failed",
        step=failed.step,
        cause=failed.cause,
        message=failed.error.message,
        hint=failed.error.hint,
        ways=failed.ways,
        rows=failed.rows,
    )
