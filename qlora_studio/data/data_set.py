"""The rows that settings name: a file, a folder or a mixture of them, imported and mended by recipes."""

from __future__ import annotations

from collections.abc import Callable

from qlora_studio.config.data_check import check_data
from qlora_studio.config.data_parts import MixPart
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.importing import Imported, import_data
from qlora_studio.data.mix import mixed
from qlora_studio.data.recipe import mended

Told = Callable[[int, int, str], None]


def data_set(data: DataConfig, told: Told) -> Imported:
    """From the cache where the same bytes were read, mended and mixed in the same way before.

    Raises: StudioError naming the file, where nothing of it can be used.
    """
    check_data(data, "The data")
    if not data.mix:
        return mended(import_data(data, told), data.recipe, data, told)
    imported = [_part(part, told) for part in data.mix]
    return mended(mixed(data.mix, imported, told), data.recipe, data, told)


def _part(part: MixPart, told: Told) -> Imported:
    alone = part_alone(part)
    return mended(import_data(alone, told), part.recipe, alone, told)


def part_alone(part: MixPart) -> DataConfig:
    """What reads one data set of a mixture."""
    return DataConfig(
        path=part.path,
        format=part.format,
        encoding=part.encoding,
        alternatives=part.alternatives,
        map=part.map,
    )
