"""The rows that settings name: a file, a folder or a mixture of them, imported and mended by recipes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from qlora_studio.config.data_parts import MixPart, check_parts
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.importing import Imported, import_data
from qlora_studio.data.mix import mixed
from qlora_studio.data.recipe import mended

Told = Callable[[int, int, str], None]


def data_set(data: DataConfig, told: Told) -> Imported:
    """From the cache where the same bytes were read, mended and mixed in the same way before.

    Raises: StudioError naming the file, where nothing of it can be used.
    """
    check_parts(data.path, data.mix, data.recipe, "The data")
    if not data.mix:
        return mended(import_data(data, told), data.recipe, told)
    imported = [mended(import_data(part_alone(data, part), told), part.recipe, told) for part in data.mix]
    return mended(mixed(data.mix, imported, told), data.recipe, told)


def part_alone(data: DataConfig, part: MixPart) -> DataConfig:
    """What reads one data set of a mixture."""
    return msgspec.structs.replace(
        data, path=part.path, format=part.format, map=part.map, mix=(), recipe=part.recipe
    )
