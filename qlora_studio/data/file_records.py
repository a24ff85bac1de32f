"""A file of any kind as one stream of records."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from qlora_studio.data.container import Container, container_of, is_parquet, mismatch
from qlora_studio.data.csv_records import csv_records
from qlora_studio.data.json_records import JsonText, json_elements, json_lines
from qlora_studio.data.limits import MAX_ROW_BYTES
from qlora_studio.data.lines import LineChunk, count_line_ends, line_chunks
from qlora_studio.data.record import Place, Record, RecordError
from qlora_studio.data.source_file import SourceFile, TextFile, Told, as_text
from qlora_studio.data.strict_json import JsonError, parse_json
from qlora_studio.data.text_records import LINES_ARE_ROWS, PARAGRAPHS_ARE_ROWS, not_utf_8, text_records
from qlora_studio.errors import StudioError

_SAMPLED_RECORDS = 200
_SAMPLED_BYTES = 8_000_000
_SAMPLED_ERRORS = 10_000


class FileRecords:
    """What a file is, and its records, as often as they are asked for.

    kind:     JSON lines | a JSON list | JSON objects | CSV | Parquet | text
    encoding: "utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"; "binary" of Parquet
    mismatch: what to say where the name promises something else
    rows_are: of plain text: what a row of it is
    """

    def __init__(self, source: SourceFile, copy: Path, told: Told) -> None:
        """Text in UTF-16 is written to `copy` as UTF-8. Raises: StudioError where the file can't be read."""
        self.source = source
        self.copied = False
        if is_parquet(source):
            self.kind, self.encoding = "Parquet", "binary"
        else:
            self._text = as_text(source, copy, told)
            self.copied = self._text.source is not source
            self._container = container_of(self._text)
            self.kind, self.encoding = self._container.kind, self._text.encoding
        self.mismatch = mismatch(source.path, self.kind)
        self.rows_are = ""
        if self.kind == "text":
            self.rows_are = PARAGRAPHS_ARE_ROWS if self._container.paragraphs else LINES_ARE_ROWS

    def sample(self) -> list[Any]:
        """The values of the first records. Raises: StudioError where no record has one."""
        values: list[Any] = []
        size = 0
        errors: list[RecordError] = []
        for record in self.records():
            if isinstance(record.value, RecordError):
                errors.append(record.value)
            else:
                values.append(record.value)
                size += record.place.size
            if len(values) >= _SAMPLED_RECORDS or size > _SAMPLED_BYTES or len(errors) >= _SAMPLED_ERRORS:
                break
        if not values and errors:
            raise StudioError(
                f"{self.source.name}: none of the first rows can be read; the first one: {errors[0]}.",
                hint="Look at its first lines in a text editor.",
            )
        if not values:
            raise StudioError(f"{self.source.name} holds no rows.", hint="Choose a file with rows in it.")
        return values

    def records(self, columns: Collection[str] | None = None) -> Iterator[Record]:
        """All of them, in the order of the file; of Parquet only these columns are read.

        Raises: StudioError where the file as a whole is broken.
        """
        if self.kind == "Parquet":
            from qlora_studio.data.parquet_records import ParquetRows

            return ParquetRows(self.source).records(columns)
        return _text_records(self._text, self._container)

    def line_chunks(self) -> Iterator[LineChunk]:
        """Of JSON lines: many lines at once, for `records_of_lines` or a faster way to read them."""
        return line_chunks(self._text)

    def records_of_lines(self, lines: Sequence[bytes], first: int, offset: int) -> Iterator[Record]:
        """The records of JSON lines that begin with line number `first` at `offset`."""
        for number, line in enumerate(lines, start=first):
            if not line.isspace():
                yield json_record(JsonText(line, number, offset), self._text)
            offset += len(line)


def _text_records(text: TextFile, container: Container) -> Iterator[Record]:
    if container.kind == "JSON lines":
        return (json_record(found, text) for found in json_lines(text))
    if container.kind in ("a JSON list", "JSON objects"):
        return (json_record(found, text) for found in json_elements(text, container.array_at))
    if container.kind == "CSV":
        return csv_records(text, container.delimiter)
    return text_records(text, paragraphs=container.paragraphs)


def json_record(found: JsonText, text: TextFile) -> Record:
    """The record of a JSON text. Raises: StudioError where it is not UTF-8."""
    place = Place(found.line, found.offset, len(found.text))
    return Record(_value(found.text, text, found.line), place, found.text)


def _value(raw: bytes, text: TextFile, line: int) -> Any:
    """The record's value, or the RecordError that stands for it."""
    if len(raw) > MAX_ROW_BYTES:
        return RecordError(f"longer than {MAX_ROW_BYTES / 1e6:.0f} MB")
    if not raw.strip():
        return RecordError("not valid JSON: a comma too many")
    try:
        return parse_json(raw)
    except JsonError as error:
        return RecordError(str(error))
    except UnicodeDecodeError as error:
        raise not_utf_8(text, line + _line_of_the_fault(raw)) from error


def _line_of_the_fault(raw: bytes) -> int:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return count_line_ends(raw[: error.start])
    return 0
