"""Files beside those that are learned from: read like them, each in its own encoding."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from qlora_studio.config.encodings import Encoding
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.encodings import BesideEncodingError, OtherEncodingError
from qlora_studio.data.importing import Imported, import_data
from qlora_studio.data.layout import OtherColumnsError

OF_HELD_OUT = (
    "Encoding of the held-out file (data.validation_encoding)"  # where the encoding of such a file is chosen
)
OF_TEST = "--test-encoding, or encoding of the fix test_rows"

Told = Callable[[int, int, str], None]


def import_alike(path: str, encoding: Encoding, data: DataConfig, setting: str, told: Told) -> Imported:
    """Rows to evaluate on: of the format and the columns that `data` names.

    encoding: of this file; auto: as its content says, or else that of `data`
    setting:  where a person chooses it
    Raises: StudioError naming the file, where nothing of it can be used.
    """
    alike = msgspec.structs.replace(
        data, path=path, encoding=encoding, validation=0.0, validation_encoding="auto", mix=(), recipe=()
    )
    try:
        return import_data(alike, told)
    except OtherEncodingError as error:
        if encoding == "auto" and data.encoding not in ("auto", "utf-8"):
            return import_data(msgspec.structs.replace(alike, encoding=data.encoding), told)
        hint = f"Choose its own encoding, such as {error.likely}: {setting}."
        raise BesideEncodingError(error.message, hint, error.likely, path) from error


def import_test(
    path: str, encoding: Encoding, data: DataConfig, told: Told, setting: str = OF_TEST
) -> Imported:
    """Rows that must not be learned: as `import_alike`, or by the file's own columns where it has others."""
    try:
        return import_alike(path, encoding, data, setting, told)
    except OtherColumnsError:
        own = DataConfig(encoding=data.encoding)
        return import_alike(path, encoding, own, setting, told)
