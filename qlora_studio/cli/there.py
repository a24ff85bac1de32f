"""What a command names is there: looked at before anything slow begins."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.config.run_config import SAMPLE, SHAPE_PREFIX, RunConfig
from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import open_folder


def require_model(path: str) -> None:
    """Raises: StudioError where there is no such folder."""
    if path != SAMPLE and not path.startswith(SHAPE_PREFIX):
        open_folder(Path(path))


def require_file(path: str) -> None:
    """Raises: StudioError where there is nothing of this name."""
    if path != SAMPLE and not Path(path).exists():
        raise StudioError(f"{path} isn't there.", hint="Check the name of the data file.")


def require_inputs(config: RunConfig) -> None:
    """The model and each data file of a run. Raises: StudioError naming the first that is missing."""
    require_model(config.model.path)
    data = config.data
    held_out = data.validation if isinstance(data.validation, str) else ""
    if not config.model.path.startswith(SHAPE_PREFIX):  # random weights learn random rows
        for path in (data.path, *(part.path for part in data.mix), held_out):
            if path:
                require_file(path)
    if config.checkpoints.questions:
        require_file(config.checkpoints.questions)
