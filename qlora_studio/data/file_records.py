"""A file of any kind as one stream of records."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from qlora_studio.data.arrow_records import ArrowRows, is_arrow
from qlora_studio.data.container import Container, container_of, is_parquet, mismatch
from qlora_studio.data.csv_header import are_numbered
from qlora_studio.data.csv_records import CsvTable
from qlora_studio.data.json_records import JsonText, json_elements, json_lines
from qlora_studio.data.limits import MAX_ROW_BYTES
from qlora_studio.data.lines import LineChunk, count_line_ends, line_chunks
from qlora_studio.data.record import Place, Record, RecordError, chat_of
from qlora_studio.data.source_file import SourceFile
from qlora_studio.data.strict_json import JsonError, parse_json
from qlora_studio.data.text_file import TextFile, as_text, not_utf_8
from qlora_studio.data.text_records import LINES_ARE_ROWS, PARAGRAPHS_ARE_ROWS, text_records
from qlora_studio.data.turned_file import COPIED_BYTES
from qlora_studio.errors import StudioError

_SAMPLED_RECORDS = 200
_SAMPLED_BYTES = 8_000_000
_SAMPLED_ERRORS = 10_000


class _Columns(Protocol):
    """A file that stores columns."""

    def done(self, line: int) -> int: ...

    def records(self, columns: Collection[str] | None = None) -> Iterator[Record]: ...


class FileRecords:
    """What a file is, and its records, as often as they are asked for.

    kind:     JSON lines | a JSON list | JSON objects | CSV | Parquet | Arrow | text
    encoding: "utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", one that was chosen; "binary" of columns
    mismatch: what to say where the name promises something else
    rows_are: of plain text: what a row of it is
    headless: CSV whose first row is a row like the others
    """

    def __init__(
        self,
        source: SourceFile,
        copy: Path,
        encoding: str = "auto",
        columns: Collection[str] = (),
        copied_bytes: int = COPIED_BYTES,
    ) -> None:
        """Of what must be turned into UTF-8 the beginning is written to `copy`.

        encoding:     one of `ENCODINGS`, for text
        columns:      those that were chosen by hand: they say whether CSV has a header
        copied_bytes: about how many are written
        Raises: StudioError where the file can't be read.
        """
        self.source = source
        self.copied = self.headless = False
        self.rows_are = ""
        self._text: TextFile | None = None
        self._columns: _Columns | None = None
        if is_parquet(source) or is_arrow(source):
            self.kind, self.encoding, packed = "Parquet" if is_parquet(source) else "Arrow", "binary", ""
        else:
            self._text = as_text(source, copy, encoding, copied_bytes)
            self.copied = self._text.source is not source
            self._container = container_of(self._text)
            self.kind, self.encoding, packed = self._container.kind, self._text.encoding, self._text.packed
            if self.kind == "CSV":
                headed = not are_numbered(columns) if columns else None
                self._table = CsvTable(self._text, self._container.delimiter, headed)
                self.headless = self._table.headless
            if self.kind == "text":
                self.rows_are = PARAGRAPHS_ARE_ROWS if self._container.paragraphs else LINES_ARE_ROWS
        self.mismatch = mismatch(source.path, self.kind, packed)

    @property
    def text_bytes(self) -> int:
        """Of all that was read, unpacked."""
        return self._text.bytes_read if self._text is not None else self.source.size

    def rest(self) -> None:
        """Takes no memory until it is read again: there may be a thousand files."""
        self._columns = None
        if self._text is not None:
            self._text.rest()

    def done(self, place: Place) -> int:
        """About how many bytes of the file were read when the record at this place was."""
        if self._text is not None:
            return self._text.done(max(0, place.offset))
        return self._columns.done(place.line) if self._columns else 0

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
        """All of them, in the order of the file; where it stores columns only these are read.

        Raises: StudioError where the file as a whole is broken.
        """
        if self.kind == "CSV":
            return self._table.records()
        if self._text is not None:
            return _text_records(self._text, self._container)
        if self._columns is None:
            self._columns = _columns_of(self.source, self.kind)
        return self._columns.records(columns)

    def line_chunks(self) -> Iterator[LineChunk]:
        """Of JSON lines: many lines at once, for `records_of_lines` or a faster way to read them."""
        assert self._text is not None
        return line_chunks(self._text)

    def records_of_lines(self, lines: Sequence[bytes], first: int, offset: int) -> Iterator[Record]:
        """The records of JSON lines that begin with line number `first` at `offset`."""
        assert self._text is not None
        for number, line in enumerate(lines, start=first):
            if not line.isspace():
                yield json_record(JsonText(line, number, offset), self._text)
            offset += len(line)


def _columns_of(source: SourceFile, kind: str) -> _Columns:
    if kind == "Parquet":
        from qlora_studio.data.parquet_records import ParquetRows

        return ParquetRows(source)
    return ArrowRows(source)


def _text_records(text: TextFile, container: Container) -> Iterator[Record]:
    if container.kind == "JSON lines":
        return (json_record(found, text) for found in json_lines(text))
    if container.kind in ("a JSON list", "JSON objects"):
        return (json_record(found, text) for found in json_elements(text, container.array_at))
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
        return chat_of(parse_json(raw))
    except JsonError as error:
        return RecordError(str(error))
    except UnicodeDecodeError as error:
        raise not_utf_8(text, line + _line_of_the_fault(raw), raw) from error


def _line_of_the_fault(raw: bytes) -> int:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return count_line_ends(raw[: error.start])
    return 0
