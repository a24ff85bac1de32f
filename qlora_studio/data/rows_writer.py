"""Writes imported rows to disk: an Arrow file, and what `datasets.load_from_disk` wants beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from qlora_studio.data.record import Conversation, Place
from qlora_studio.data.row_table import SCHEMA, batch_of_rows

ARROW_FILE = "data-00000-of-00001.arrow"

_BATCH_BYTES = 2_000_000  # so that one row is read fast, and a large file has few thousand batches
_ROWS_IN_HAND = 2_000


class RowsWriter:
    """Takes rows one by one or in batches, and keeps their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sink = pa.OSFile(str(folder / ARROW_FILE), "wb")
        self._stream = pa.ipc.new_stream(self._sink, SCHEMA)
        self._file = 0
        self._conversations: list[Conversation] = []
        self._places: list[Place] = []
        self._characters = 0
        self._batches: list[Any] = []
        self._batch_bytes = 0
        self.rows = 0

    def __enter__(self) -> RowsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._sink.closed:
            self._sink.close()

    def add(self, conversation: Conversation, place: Place, file: int) -> None:
        """The next row, of the file with this number."""
        if file != self._file:
            self._gather()
            self._file = file
        self._conversations.append(conversation)
        self._places.append(place)
        self._characters += conversation.characters
        self.rows += 1
        if self._characters > _BATCH_BYTES or len(self._conversations) >= _ROWS_IN_HAND:
            self._gather()

    def add_batch(self, batch: Any) -> None:
        """The next rows, as `row_table` makes them."""
        self._gather()
        self._take(batch)
        self.rows += batch.num_rows

    def finish(self) -> int:
        """Everything is written; how many bytes the Arrow file has."""
        self._gather()
        self._write()
        self._stream.close()
        self._sink.close()
        _write_words_for_datasets(self._folder)
        return (self._folder / ARROW_FILE).stat().st_size

    def _gather(self) -> None:
        if self._conversations:
            self._take(batch_of_rows(self._conversations, self._places, self._file))
            self._conversations, self._places, self._characters = [], [], 0

    def _take(self, batch: Any) -> None:
        self._batches.append(batch)
        self._batch_bytes += batch.nbytes
        if self._batch_bytes > _BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        if self._batches:
            for batch in pa.Table.from_batches(self._batches).combine_chunks().to_batches():
                self._stream.write_batch(batch)
            self._batches, self._batch_bytes = [], 0


def _write_words_for_datasets(folder: Path) -> None:
    state: dict[str, object] = {
        "_data_files": [{"filename": ARROW_FILE}],
        "_fingerprint": folder.name,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    (folder / "dataset_info.json").write_text("{}", "utf-8")
