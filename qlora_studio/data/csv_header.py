"""Whether a text is CSV, and what parts its cells: told by its first lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence

DELIMITERS = ",\t;|"

_USUAL_NAMES = {
    *("instruction", "input", "output", "prompt", "completion", "question", "answer", "response", "text"),
    *("context", "system", "query", "chosen", "rejected", "history", "category", "content", "label"),
    *("id", "target", "source", "messages", "conversations", "name", "date", "timestamp"),
}
_LOOKED_AT = 200  # lines
_LONGEST_NAME = 60  # characters
_NUMBERED = re.compile(r"column [1-9]\d{0,2}")


def has_usual_header(head: bytes) -> bool:
    """Whether the first line names at least two columns that data sets usually have."""
    line = next(iter(head.splitlines()), b"").decode("utf-8", "ignore")
    if told_delimiter(head):
        return True
    for delimiter in DELIMITERS:
        cells = [cell.strip().strip('"').lower() for cell in line.split(delimiter)]
        if sum(cell in _USUAL_NAMES for cell in cells) >= 2:
            return True
    return False


_SEPARATOR_LINE = re.compile(rb'"?sep=([,;|\t])"?(?:\r\n|\n|\r)', re.IGNORECASE)


def told_delimiter(text: bytes) -> str:
    """What a first line such as `sep=;` says, which is for Excel and no row; empty where there is none."""
    found = _SEPARATOR_LINE.match(text)
    return found[1].decode() if found else ""


def is_header(cells: Sequence[str]) -> bool:
    """Whether the first row names the columns: of two columns one may plainly hold a text instead."""
    names = [cell.strip().lower() for cell in cells]
    return len(cells) != 2 or any(name in _USUAL_NAMES for name in names) or not any(map(_is_text, names))


def _is_text(cell: str) -> bool:
    words = len(cell.split())
    return len(cell) > _LONGEST_NAME or "\n" in cell or (words >= 3 and cell.endswith((".", "!", "?", "…")))


def numbered_columns(count: int) -> list[str]:
    """What the columns of a file without a header are called."""
    return [f"column {number}" for number in range(1, count + 1)]


def are_numbered(columns: Collection[str]) -> bool:
    """Whether columns are called so, as by a person who knows that the file has no header."""
    return bool(columns) and all(_NUMBERED.fullmatch(column) for column in columns)


def delimiter_of(head: bytes, *, whole: bool, otherwise: str) -> str:
    """The one that most rows agree on, and that gives the header most cells.

    whole: whether `head` is the whole file; otherwise its last line may be cut
    otherwise: for a file of one column
    """
    lines = [line.decode("utf-8", "ignore") for line in head.splitlines(keepends=True)]
    lines = (lines if whole else lines[:-1])[:_LOOKED_AT]
    best, best_score = otherwise, (0.0, 0)
    for delimiter in DELIMITERS:
        counts = _cell_counts(lines, delimiter)
        if not counts or counts[0] < 2:
            continue
        agreeing = sum(count == counts[0] for count in counts) / len(counts)
        score = (round(agreeing, 1), counts[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _cell_counts(lines: list[str], delimiter: str) -> list[int]:
    counts = []
    try:
        for row in csv.reader(lines, delimiter=delimiter):
            if row:
                counts.append(len(row))
    except csv.Error:
        pass  # what was read before it is enough
    return counts
