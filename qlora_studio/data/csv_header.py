"""Whether a text is CSV, and what parts its cells: told by its first lines."""

from __future__ import annotations

import csv

DELIMITERS = ",\t;|"

_USUAL_NAMES = {
    *("instruction", "input", "output", "prompt", "completion", "question", "answer", "response", "text"),
    *("context", "system", "query", "chosen", "rejected", "history", "category", "content", "label"),
    *("id", "target", "source", "messages", "conversations"),
}
_LOOKED_AT = 200  # lines


def has_usual_header(head: bytes) -> bool:
    """Whether the first line names at least two columns that data sets usually have."""
    line = next(iter(head.splitlines()), b"").decode("utf-8", "ignore")
    for delimiter in DELIMITERS:
        cells = [cell.strip().strip('"').lower() for cell in line.split(delimiter)]
        if sum(cell in _USUAL_NAMES for cell in cells) >= 2:
            return True
    return False


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
