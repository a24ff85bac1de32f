"""Named sets of settings: files in `resources/presets`, and the person's own beside the window's settings."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_studio.config.places import resources_folder, settings_folder
from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import run_config_from
from qlora_studio.errors import StudioError

_SAMPLE_FILE = "sample.toml"


@dataclass(frozen=True)
class Preset:
    """A name, a line that says what it does and costs, and the keys that differ from the defaults."""

    name: str
    summary: str
    config: RunConfig
    path: Path


def presets() -> list[Preset]:
    """The bundled ones in their order, then the person's own. Files that can't be read are left out.

    One of their own takes the place of the bundled one whose file name it has.
    """
    found: dict[str, Preset] = {}
    for folder in (resources_folder() / "presets", settings_folder() / "presets"):
        for file in sorted(folder.glob("*.toml")):
            try:
                found[file.name] = read_preset(file)
            except StudioError:
                continue
    return list(found.values())


def sample_preset() -> Preset:
    """The sample run's settings: short rows, a small rank, few updates."""
    return next(preset for preset in presets() if preset.path.name == _SAMPLE_FILE)


def read_preset(path: Path) -> Preset:
    """Raises: StudioError naming the file."""
    values, name, summary = preset_values(path)
    return Preset(name, summary, run_config_from(values, str(path)), path)


def preset_values(path: Path) -> tuple[dict[str, Any], str, str]:
    """What the file sets, its name and its line. Raises: StudioError naming the file."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudioError(f"{path} can't be read as a preset: {error}") from error
    return values, str(values.pop("name", path.stem)), str(values.pop("summary", ""))
