"""What a run has made: its adapter on its base, stored and computed as in training, or a model of its own."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.compute_dtype import resolve_compute_dtype
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import LoadingProgress
from qlora_studio.runs.checkpoints import newest_sound, resume_point
from qlora_studio.runs.folder import Run
from qlora_studio.runs.standing import ENDED

Loading = Generator[LoadingProgress, None, AdaptedModel]


def result_folder(run: Run, step: int | None = None) -> Path:
    """Of the finished adapter or model, or of an adapter's checkpoint that verifies (R2).

    Raises: StudioError.
    """
    if run.record.config.trains_all:
        return _model_folder(run, step)
    if step is not None:
        point = resume_point(run.folder, step)
        assert point.path is not None
        return point.path
    if run.adapter is None:
        raise StudioError(
            f"{run.folder} has no adapter yet.", hint="It is written when the run finishes or is stopped."
        )
    return run.adapter


def newest_result(run: Run) -> tuple[Path, int]:
    """Its folder and the step it was written after: the finished one, or of a run that never came so far, or
    went on since, the newest sound checkpoint's. Raises: StudioError where there is none.

    Of all weights only the end of a run leaves a model.
    """
    ended = run.adapter is not None and run.state.state in ENDED
    if not run.record.config.trains_all and not ended and (newest := newest_sound(run.folder)):
        return newest.path, newest.step
    return result_folder(run), run.state.step


def _model_folder(run: Run, step: int | None) -> Path:
    if step is not None:
        raise StudioError(
            f"{run.folder.name} trained all weights: only its finished model can be opened, no checkpoint."
        )
    if run.model is None or run.state.state not in ENDED:
        raise StudioError(
            f"{run.folder} has no model yet.", hint="It is written when the run finishes or is stopped."
        )
    return run.model


class TrainedModel:
    """The result of a run on the device, or in its place what it was before.

    adapter: the name of the adapter in memory, once it is loaded; "" where all weights were trained
    """

    def __init__(self, run: Run, folder: Path, holder: ModelHolder) -> None:
        """folder: of `result_folder`."""
        self._model = run.record.config.model
        self._all_weights = run.record.config.trains_all
        self._folder = folder
        self._holder = holder
        self.adapter = ""

    @property
    def adapted(self) -> AdaptedModel:
        """As it stands."""
        assert self._holder.held is not None
        return self._holder.held

    def load(self) -> Loading:
        """What the run has made. Raises: StudioError."""
        if self._all_weights:
            return (yield from self._holder.hold(str(self._folder), self._storage()))
        adapted = yield from self._holder.hold(self._model.path, self._storage())
        self.adapter = adapted.add_from(self._folder)
        adapted.use(self.adapter)
        return adapted

    def load_base(self) -> Loading:
        """What it was made from. Raises: StudioError."""
        adapted = yield from self._holder.hold(self._model.path, self._storage())
        adapted.use(None)
        return adapted

    def switch_on(self) -> None:
        """The adapter, where that was only off: no work may leave it so."""
        if self.adapter:
            self.adapted.use(self.adapter)

    def _storage(self) -> Storage:
        dtype = resolve_compute_dtype(self._model.compute_dtype, self._holder.device)
        return Storage(self._model.quantization, self._model.double_quant, dtype)
