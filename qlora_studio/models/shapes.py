"""A model's sizes and tensors: of a folder, or of a known model by name (`shape:llama-7b`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.places import resources_folder, sample_model_folder
from qlora_studio.config.run_config import SAMPLE, SHAPE_PREFIX
from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import CONFIG, clean_config, clean_values
from qlora_studio.models.strict_json import strict_object
from qlora_studio.models.tensor_plan import TensorPlan, tensor_plan

_SAMPLE_SHAPE = "smollm2-135m"


def model_shape(path: str) -> ModelShape:
    """Of a folder, "shape:NAME" or "sample"; weights aren't looked at, the sample may be missing yet."""
    if path.startswith(SHAPE_PREFIX):
        return known_shape(path.removeprefix(SHAPE_PREFIX))
    if path == SAMPLE:
        folder = sample_model_folder()
        return folder_plan(folder).shape() if folder.is_dir() else known_shape(_SAMPLE_SHAPE)
    return folder_plan(Path(path).expanduser()).shape()


@cache
def known_shape(name: str) -> ModelShape:
    """Of a model in `resources/shapes`. Raises: StudioError naming those that are there."""
    return known_plan(name).shape()


def folder_plan(folder: Path) -> TensorPlan:
    """Every tensor the folder's config.json asks for. Raises: StudioError naming the file and the field."""
    config = clean_config(folder)
    return _plan(config.model_type, config.values, folder / CONFIG)


def known_config(name: str) -> tuple[str, dict[str, Any]]:
    """model_type and values of a known model, as `clean_config` gives them for a folder."""
    folder = resources_folder() / "shapes"
    known = {file.stem: file for file in sorted(folder.glob("*.json"))}
    if name not in known:
        raise StudioError(
            f"{SHAPE_PREFIX}{name[:60]} is no known shape.", hint=f"Known shapes: {', '.join(known)}."
        )
    said = strict_object(known[name].read_bytes(), str(known[name]))
    return clean_values(said, known[name])


def known_plan(name: str) -> TensorPlan:
    """Every tensor of a known model."""
    model_type, values = known_config(name)
    return _plan(model_type, values, resources_folder() / "shapes" / f"{name}.json")


def _plan(model_type: str, values: dict[str, Any], where: Path) -> TensorPlan:
    try:
        return tensor_plan(model_type, values)
    except StudioError as error:
        raise StudioError(f"{where}: {error.message}", hint=error.hint) from error
