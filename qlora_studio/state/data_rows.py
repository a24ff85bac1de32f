"""The rows of imported data as a table: which of them, how long each is, and what is odd about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, QTimer

from qlora_studio.data.conversation import Row
from qlora_studio.data.report import Finding
from qlora_studio.data.too_long import too_long
from qlora_studio.plain_text import visible_line
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.reader import Job, Reader

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex

PAGE = 100  # rows asked for at once
_MOST_KEPT = 20_000  # beginnings of rows that are remembered
_LONGEST_BEGINNING = 160  # characters
_UNKNOWN = "…"

FLAG_WORDS = {
    "empty_answer": "empty",
    "empty_prompt": "no prompt",
    "near_duplicates": "alike",
    "equal_across_sets": "equal",
    "test_rows": "in test",
    "validation_rows": "held out",
    "contradictions": "differs",
    "refusals": "refuses",
    "cut_sentences": "cut off",
    "broken_encoding": "encoding",
    "secrets": "key",
    "template_marks": "marks",
}
TOO_LONG_WORDS = {"drop": "dropped", "truncate": "cut", "stop": "too long"}


class RowTable(QAbstractTableModel):
    """Row, Tokens, Learned, Flag; where no model counts tokens, the beginning of the row in their place.

    All rows, a list of them, or those that a search found. Beginnings and finds are read in pages as they
    are looked at, so that millions of rows scroll. A tone stands in UserRole.
    """

    COUNTED = ("Row", "Tokens", "Learned", "Flag")
    PLAIN = ("Row", "Begins with")

    def __init__(self, reader: Reader, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self._dataset = ""
        self._rows = 0  # of the data set
        self._listed: NDArray[np.int64] | None = None
        self._group_of: dict[int, int] = {}  # row -> number of its group, of those that are listed
        self._searched = ""
        self._found: dict[int, int] = {}  # position -> row, of a search
        self._total = 0  # positions in this order
        self._beginnings: dict[int, str] = {}  # of rows
        self._out_of_reach: set[int] = set()  # positions whose row fits no answer
        self._lengths: NDArray[np.int32] | None = None
        self._longest = (0, 0)  # tokens, learned tokens
        self._counts = False
        self._seq_len, self._target_len, self._too_long = 0, 0, "drop"
        self._split: tuple[tuple[int, int], ...] = ()
        self._flags: dict[int, tuple[str, str]] = {}  # row -> word, tone
        self._job: Job | None = None
        self._wanted = -1
        self._fetch = QTimer(self, interval=0, singleShot=True)
        self._fetch.timeout.connect(self._on_fetch)

    # What is shown ----------------------------------------------------------------------------------

    def show_dataset(self, dataset: str, rows: int, findings: Iterable[Finding]) -> None:
        """All rows of another data set; no lengths are known of it yet."""
        self.beginResetModel()
        self._forget_job()
        self._dataset, self._rows = dataset, rows
        self._lengths, self._longest = None, (0, 0)
        self._beginnings.clear()
        self._flags = _flags(findings)
        self._order(None, "")
        self._total = rows
        self.endResetModel()

    def set_flags(self, findings: Iterable[Finding]) -> None:
        """What was found since."""
        self._flags = _flags(findings)
        self._repaint()

    def expect_lengths(self, expected: bool) -> None:
        """Whether there is a model whose tokens are counted."""
        if expected != self._counts:
            self.beginResetModel()
            self._counts = expected
            self.endResetModel()

    def set_lengths(self, lengths: NDArray[np.int32] | None) -> None:
        """lengths: int32 [rows, 2]: tokens and learned tokens; None while they are counted."""
        if lengths is not self._lengths:
            self._lengths = lengths
            self._longest = (0, 0) if lengths is None else _longest(lengths)
            self._repaint()

    def set_limit(
        self, seq_len: int, too_long: str, split: tuple[tuple[int, int], ...] = (), target_len: int = 0
    ) -> bool:
        """too_long: drop | truncate | stop. split: first and last row (not of them) of each stretch whose
        longer rows become several. target_len: 0: rows have no target of their own. Returns: whether any of
        it is another.
        """
        limit = (seq_len, target_len, too_long, split)
        moved = limit != (self._seq_len, self._target_len, self._too_long, self._split)
        if moved:
            self._seq_len, self._target_len, self._too_long, self._split = limit
            self._repaint()
        return moved

    def show_all(self) -> None:
        """In the order of the file."""
        self._reorder(None, "", self._rows)

    def show_listed(self, rows: NDArray[np.int64], groups: Sequence[Sequence[int]] = ()) -> None:
        """Only these, in their order. groups: of them, those that belong together: each gets a number."""
        self._reorder(rows, "", len(rows))
        self._group_of = {row: number for number, group in enumerate(groups, 1) for row in group}

    def search(self, text: str) -> None:
        """Only those that hold `text`; how many that are is known when the first page comes."""
        if text:
            self._reorder(None, text, 0)
            self._want(0)
        else:
            self.show_all()

    @property
    def searching(self) -> bool:
        """Whether the first answer to a search is still to come."""
        return bool(self._searched) and not self._total and self._job is not None

    # What is known of rows --------------------------------------------------------------------------

    def row_at(self, position: int) -> int | None:
        """Which row of the data set stands there; None where it isn't known yet."""
        if not 0 <= position < self._total:
            return None
        if self._searched:
            return self._found.get(position)
        return position if self._listed is None else int(self._listed[position])

    def position_of(self, row: int) -> int | None:
        """Where a row stands in this order, as far as that is known."""
        if self._searched:
            return next((place for place, found in self._found.items() if found == row), None)
        if self._listed is None:
            return row if 0 <= row < self._total else None
        places = np.flatnonzero(self._listed == row)
        return int(places[0]) if len(places) else None

    def flagged_rows(self) -> NDArray[np.int64]:
        """Those of a finding that one has to decide on, and those with nothing to learn."""
        flagged = np.array(sorted(self._flags), dtype=np.int64)
        return np.union1d(flagged, self.empty_rows())

    def empty_rows(self) -> NDArray[np.int64]:
        """Rows without a token to learn."""
        if self._lengths is None:
            return np.array([], dtype=np.int64)
        return np.flatnonzero(self._lengths[:, 1] == 0)

    def long_rows(self) -> NDArray[np.int64]:
        """Rows over the limit that lose something by it."""
        if self._lengths is None:
            return np.array([], dtype=np.int64)
        longer = too_long(self._lengths, self._seq_len, self._target_len)
        for first, last in self._split:
            longer[first:last] = False
        return np.flatnonzero(longer)

    def largest(self) -> tuple[int, int, int]:
        """The largest number of each column: of rows, tokens, learned tokens."""
        return self._rows, *self._longest

    def flag(self, row: int) -> tuple[str, str]:
        """A word and its tone, the gravest; empty where there is nothing to say."""
        if row in self._group_of:
            return f"group {self._group_of[row]:,}", "warn"
        if self._lengths is not None:
            tokens, learned = (int(number) for number in self._lengths[row])
            if not tokens:
                return "refused", "bad"
            if not learned:
                return "nothing", "bad"
            longer = bool(too_long(self._lengths[row : row + 1], self._seq_len, self._target_len)[0])
            if longer and not any(first <= row < last for first, last in self._split):
                return TOO_LONG_WORDS[self._too_long], "bad"
        return self._flags.get(row, ("", ""))

    # Qt's questions ---------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """Their titles."""
        return self.COUNTED if self._counts else self.PLAIN

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else self._total

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.columns)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self.columns[section]
        return _alignment(self.columns[section]) if role == Qt.ItemDataRole.TextAlignmentRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        column = self.columns[index.column()]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column)
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.UserRole):
            return None
        row = self.row_at(index.row())
        if row is None:
            self._want(index.row())
            return _UNKNOWN if role == Qt.ItemDataRole.DisplayRole and column == "Row" else None
        if role == Qt.ItemDataRole.UserRole:
            return self.flag(row)[1] if column == "Flag" else None
        return self._words(row, column, index.row())

    def _words(self, row: int, column: str, position: int) -> str:
        match column:
            case "Row":
                return f"{row + 1:,}"
            case "Begins with":
                if row not in self._beginnings:
                    self._want(position)
                return self._beginnings.get(row, _UNKNOWN)
            case "Flag":
                return self.flag(row)[0]
        if self._lengths is None:
            return _UNKNOWN
        return f"{self._lengths[row, self.COUNTED.index(column) - 1]:,}"

    # Pages ------------------------------------------------------------------------------------------

    def _want(self, position: int) -> None:
        """The newest wish wins: what was scrolled past needs no reading."""
        if position not in self._out_of_reach:
            self._wanted = position
            self._fetch.start()

    def _on_fetch(self) -> None:
        position, self._wanted = self._wanted, -1
        if self._job is not None or position < 0 or not self._dataset:
            return
        first = position // PAGE * PAGE
        while first < position and self._known(first):
            first += 1
        start = first if self._searched else self.row_at(first)
        if start is None:
            return
        only = [] if self._listed is None else self._listed[first : first + PAGE].tolist()
        self._job = job = self._reader.ask(
            reading.ShowRows,
            dataset=self._dataset,
            start=0 if only else start,
            count=PAGE,
            search=self._searched,
            only=tuple(only),
        )
        job.answered.connect(lambda answer: self._on_rows(first, answer))
        job.refused.connect(lambda problem: self._on_refused(first, problem))

    def _known(self, position: int) -> bool:
        row = self.row_at(position)
        return row is not None and (self._counts or row in self._beginnings)

    def _on_rows(self, first: int, answer: reading.RowsShown) -> None:
        self._job = None
        if len(self._beginnings) > _MOST_KEPT:
            self._beginnings.clear()
        for place, row in enumerate(answer.rows, first):
            self._beginnings[row.row] = beginning(row)
            if self._searched:
                self._found[place] = row.row
        if self._searched and answer.total != self._total:
            self.beginResetModel()
            self._total = answer.total
            self.endResetModel()
        if not answer.rows:
            self._out_of_reach.add(first)
        self._repaint()

    def _on_refused(self, first: int, problem: Problem) -> None:
        self._job = None
        self._out_of_reach.add(first)

    def _forget_job(self) -> None:
        """Its answer would be of another order; the reader goes on undisturbed."""
        if self._job is not None:
            self._job.answered.disconnect()
            self._job.refused.disconnect()
            self._job = None

    def _reorder(self, listed: NDArray[np.int64] | None, searched: str, total: int) -> None:
        self.beginResetModel()
        self._forget_job()
        self._order(listed, searched)
        self._total = total
        self.endResetModel()

    def _order(self, listed: NDArray[np.int64] | None, searched: str) -> None:
        self._listed, self._searched = listed, searched
        self._group_of = {}
        self._found.clear()
        self._out_of_reach.clear()

    def _repaint(self) -> None:
        if self._total:
            self.dataChanged.emit(self.index(0, 0), self.index(self._total - 1, len(self.columns) - 1))


def beginning(row: Row) -> str:
    """What a person recognizes it by: the first words that are no system text."""
    text = row.text or next((message.content for message in row.messages if message.role != "system"), "")
    return visible_line(" ".join(text[:_LONGEST_BEGINNING].split()))


def _flags(findings: Iterable[Finding]) -> dict[int, tuple[str, str]]:
    grave = sorted(
        (finding for finding in findings if finding.tone in ("warn", "bad")),
        key=lambda finding: finding.tone == "bad",
    )
    return {
        row: (FLAG_WORDS.get(finding.kind, finding.kind.replace("_", " ")), finding.tone)
        for finding in grave
        for row in finding.rows
    }


def _longest(lengths: NDArray[np.int32]) -> tuple[int, int]:
    tokens, learned = lengths.max(axis=0, initial=0).tolist()
    return tokens, learned


def _alignment(column: str) -> Qt.AlignmentFlag:
    side = (
        Qt.AlignmentFlag.AlignRight if column in ("Row", "Tokens", "Learned") else Qt.AlignmentFlag.AlignLeft
    )
    return side | Qt.AlignmentFlag.AlignVCenter
