"""The records of a CSV file. A cell is text and stays as it is: 00123, NA, 1e5, spaces (D4)."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from qlora_studio.data.csv_header import is_header, numbered_columns, told_delimiter
from qlora_studio.data.limits import MAX_COLUMNS, MAX_ROW_BYTES
from qlora_studio.data.lines import Line, numbered_lines
from qlora_studio.data.record import Place, Record, RecordError, named
from qlora_studio.data.text_file import TextFile
from qlora_studio.data.text_records import decoded
from qlora_studio.errors import StudioError

_LOST_QUOTE = "a quote is opened and not closed where it should be"
_NO_DELIMITER = "\x1f"  # of one column: whatever stands in a line is its cell, commas too
_MOST_READ_AGAIN = 8 * MAX_ROW_BYTES


class CsvTable:
    """The columns of a CSV file, and its rows.

    columns:  names in the first row; "column 1" and so on where it has none
    headless: the first row is a row like the others
    """

    def __init__(self, text: TextFile, delimiter: str, headed: bool | None = None) -> None:
        """headed: whether the first row names the columns; None: by what stands there.

        Raises: StudioError where the columns can't be used.
        """
        self._text = text
        cells = next(self._rows_of(delimiter), ([], None))[0]
        if isinstance(cells, RecordError):
            raise StudioError(f"{text.name}: the header can't be read: {cells}.")
        self._delimiter = delimiter if len(cells) > 1 else _NO_DELIMITER
        if len(cells) > MAX_COLUMNS:
            raise StudioError(f"{text.name} has {len(cells):,} columns; at most {MAX_COLUMNS} are read.")
        self.headless = not (is_header(cells) if headed is None else headed)
        self.columns = numbered_columns(len(cells)) if self.headless else _names(cells, text)

    def records(self) -> Iterator[Record]:
        """A record a row."""
        rows = self._rows_of(self._delimiter)
        if not self.headless:
            next(rows, None)
        for cells, place in rows:
            if isinstance(cells, RecordError):
                yield Record(cells, place)
            elif place.size > MAX_ROW_BYTES:
                yield Record(RecordError(f"longer than {MAX_ROW_BYTES / 1e6:.0f} MB"), place)
            elif len(cells) < len(self.columns) or any(cells[len(self.columns) :]):
                counts = f"{_cells(len(cells))}, where the first row has {len(self.columns)}"
                yield Record(RecordError(counts), place)
            else:
                yield Record(dict(zip(self.columns, cells, strict=False)), place)  # empty cells behind it too

    def _rows_of(self, delimiter: str) -> Iterator[tuple[list[str] | RecordError, Place]]:
        return iter(_Rows(self._text, delimiter))


def _names(cells: list[str], text: TextFile) -> list[str]:
    names = [cell.strip() for cell in cells]
    if names.count("") > 1:  # as a table program leaves them behind the last column
        names = [name or f"column {number}" for number, name in enumerate(names, start=1)]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise StudioError(
            f"{text.name}: the column {named(min(doubled))} stands twice in the header.",
            hint="The first row names the columns, each once.",
        )
    return names


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


class _Rows:
    """The csv module over our own lines: each row has its place, and a lost quote costs one line only."""

    def __init__(self, text: TextFile, delimiter: str) -> None:
        csv.field_size_limit(MAX_ROW_BYTES)
        self._text = text
        self._delimiter = delimiter
        self._raw = numbered_lines(text)
        self._again: deque[Line] = deque()
        self._taken: list[Line] = []  # lines of the row in hand
        self._read_again = 0

    def __iter__(self) -> Iterator[tuple[list[str] | RecordError, Place]]:
        reader = self._reader()
        while True:
            self._taken.clear()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                several = len(self._taken) > 1
                yield RecordError(_LOST_QUOTE if several else _in_words(error)), self._place(lines=1)
                self._go_back()
                reader = self._reader()
                continue
            if cells is None:
                return
            if cells:
                yield cells, self._place(lines=len(self._taken))

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)

    def _lines(self) -> Iterator[str]:
        while taken := self._again.popleft() if self._again else next(self._raw, None):
            if taken.offset == self._text.start and told_delimiter(taken.text):
                continue
            self._taken.append(taken)
            yield decoded(taken.text, self._text, taken.number)

    def _place(self, lines: int) -> Place:
        first, last = self._taken[0], self._taken[lines - 1]
        return Place(first.number, first.offset, last.offset + len(last.text) - first.offset)

    def _go_back(self) -> None:
        """The broken row was one line; what it swallowed behind it is read anew."""
        swallowed = self._taken[1:]
        self._again.extendleft(reversed(swallowed))
        self._read_again += sum(len(line.text) for line in swallowed)
        if self._read_again > _MOST_READ_AGAIN:
            raise StudioError(
                f"{self._text.name}: the quotes don't match from line {self._taken[0].number:,} on.",
                hint="A quote inside of a cell is written twice.",
            )


def _in_words(error: csv.Error) -> str:
    words = str(error)
    if "unexpected end" in words:
        return _LOST_QUOTE
    if "expected after" in words:
        return "text follows a closing quote"
    if "field limit" in words:
        return f"a cell is longer than {MAX_ROW_BYTES / 1e6:.0f} MB"
    return words
