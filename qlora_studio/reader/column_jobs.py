"""What a file's columns are called, before anybody has said what they mean."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from qlora_studio.config.places import cache_folder
from qlora_studio.data.data_files import data_files
from qlora_studio.data.file_records import FileRecords
from qlora_studio.data.layout import columns_of
from qlora_studio.data.source_file import SourceFile
from qlora_studio.protocol import reading

Told = Callable[[int, int, str], None]

_RECORDS = 3
_MOST_CHARACTERS = 400  # of a record: enough to recognize it


def show_columns(request: reading.ShowColumns, told: Told) -> reading.ColumnsShown:
    """Of a folder its first file's. Raises: StudioError where no record can be read."""
    chosen = data_files(request.path)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".columns-") as scratch,
        SourceFile(chosen.files[0]) as source,
    ):
        records = FileRecords(source, Path(scratch) / "text", request.encoding).sample()
    texts = (json.dumps(record, ensure_ascii=False, default=str) for record in records[:_RECORDS])
    return reading.ColumnsShown(
        id=request.id,
        columns=tuple(columns_of(records)),
        records=tuple(text[:_MOST_CHARACTERS] for text in texts),
    )
