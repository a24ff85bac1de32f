"""What a run has made: its adapter on its base, stored and computed as in training."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from qlora_studio.engine.compute_dtype import resolve_compute_dtype
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import LoadingProgress
from qlora_studio.runs.checkpoints import newest_sound, resume_point
from qlora_studio.runs.folder import Run


def adapter_folder(run: Run, step: int | None = None) -> Path:
    """Of the finished adapter, or of a checkpoint that verifies (R2). Raises: StudioError."""
    if step is not None:
        point = resume_point(run.folder, step)
        assert point.path is not None
        return point.path
    if run.adapter is None:
        raise StudioError(
            f"{run.folder} has no adapter yet.", hint="It is written when the run finishes or is stopped."
        )
    return run.adapter


def newest_adapter(run: Run) -> tuple[Path, int]:
    """Its folder and the step it was written after: the finished one, or of a run that never came so far, or
    went on since, the newest sound checkpoint's. Raises: StudioError where there is none."""
    ended = run.adapter is not None and run.state.state in ("finished", "stopped")
    if not ended and (newest := newest_sound(run.folder)):
        return newest.path, newest.step
    return adapter_folder(run), run.state.step


def load_trained(run: Run, adapter: Path, holder: ModelHolder) -> Generator[LoadingProgress, None, str]:
    """The name of the adapter, which is on. Raises: StudioError."""
    model = run.record.config.model
    dtype = resolve_compute_dtype(model.compute_dtype, holder.device)
    adapted = yield from holder.hold(model.path, Storage(model.quantization, model.double_quant, dtype))
    name = adapted.add_from(adapter)
    adapted.use(name)
    return name
