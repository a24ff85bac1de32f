"""The rows that settings name: a file, a folder or a mixture of them, imported and mended by recipes."""

from __future__ import annotations

from collections.abc import Callable

from qlora_studio.config.data_check import check_data
from qlora_studio.config.run_config import DataConfig, read_alone
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
    imported = [data_set(read_alone(part), told) for part in data.mix]
    return mended(mixed(data.mix, imported, told), data.recipe, data, told)
