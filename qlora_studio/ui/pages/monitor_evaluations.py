"""What a run was found to know, before and after: a row a file, and below it the answers that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.config.encodings import ENCODING_WORDS
from qlora_studio.config.run_config import GENERAL
from qlora_studio.plain_text import visible_line
from qlora_studio.runs.evaluations import (
    ChangedRow,
    Evaluation,
    difference_words,
    latest,
    share_words,
    when,
)
from qlora_studio.state.evaluation import EvaluationState, Stage
from qlora_studio.ui import figures
from qlora_studio.ui.pages.data_encoding import HINT as ENCODING_HINT
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    EmptyState,
    IconLabel,
    LinkButton,
    Meter,
    PlainLabel,
    SecondaryButton,
    TableView,
    plain_tooltip,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.text_size import at_text_size

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex

NOTHING_YET = (
    "Choose a file with rows as in the training data. Base model and trained one answer the same rows, and "
    "the difference stands here, with how sure it is."
)
GENERAL_NAME = "General questions"
GENERAL_TIP = "100 bundled general questions, before and after: what training cost"
POINTS = "Points (95 %)"
_LONGEST = 300  # characters of a question or an answer in its cell
_KINDS = {"letters": "chosen letters", "numbers": "numbers", "answers": "whole answers"}


class EvaluationsCard(Card):
    """In place of the charts. back: shows them again. file_asked: a file is to be chosen."""

    back_asked = Signal()
    file_asked = Signal()

    def __init__(self, state: EvaluationState) -> None:
        super().__init__("Before and after", name="monitor_evaluations_card")
        self._state = state
        self._build()
        self._bind()

    # Layout -----------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._choose = SecondaryButton(
            "Evaluate on a file…", "file-input", small=True, name="monitor_evaluate_file"
        )
        self._general = SecondaryButton(
            "What was forgotten?", "history", small=True, name="monitor_evaluate_general", tip=GENERAL_TIP
        )
        self.back = LinkButton("Charts", "chart-line", name="monitor_evaluations_back")
        self.add_to_head(self._general)
        self.add_to_head(self._choose)
        self.add_to_head(self.back)
        self.body.addWidget(self._build_progress())
        self.body.addWidget(self._build_problem())
        self._why_not = PlainLabel("", "note", wrap=True, name="monitor_evaluate_why_not")
        self._why_not.set_tone("warn")
        self.body.addWidget(self._why_not)
        self._empty = EmptyState(
            "git-compare", "Not evaluated yet", NOTHING_YET, name="monitor_evaluations_empty"
        )
        self.body.addWidget(self._empty, 1)
        self.model = EvaluationsTable(self)
        self.table = TableView(name="monitor_evaluations", label="Evaluations, before and after")
        self.table.setModel(self.model)
        self.table.setSelectionMode(TableView.SelectionMode.SingleSelection)
        self.table.set_widths(*(width for _, width, _ in COLUMNS[:-1]))
        at_text_size(self.table, self.table.setMinimumHeight, 110)
        self.body.addWidget(self.table, 2)
        self._words = PlainLabel("", "", wrap=True, name="monitor_evaluation_words")
        self.body.addWidget(self._words)
        self.changes = ChangesTable(self)
        self._changed = TableView(name="monitor_evaluation_changes", label="Answers that changed")
        self._changed.setModel(self.changes)
        self._changed.set_widths(64, 0, 96, 96, 96)
        head = self._changed.horizontalHeader()
        head.setStretchLastSection(False)
        head.setSectionResizeMode(1, head.ResizeMode.Stretch)
        self._changed.setTextElideMode(Qt.TextElideMode.ElideRight)
        at_text_size(self._changed, self._changed.setMinimumHeight, 110)
        self.body.addWidget(self._changed, 3)

    def _build_progress(self) -> QWidget:
        self._progress = QWidget()
        self._doing = PlainLabel("", "", wrap=True, name="monitor_evaluating")
        self._meter = Meter(name="monitor_evaluating_meter", label="How far the evaluation is", height=6)
        at_text_size(self._meter, self._meter.setFixedWidth, 110)
        self._stop = SecondaryButton("Stop", "square", small=True, name="monitor_evaluate_stop")
        row = QHBoxLayout(self._progress)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(theme().px(10))
        row.addWidget(self._doing, 1)
        row.addWidget(self._meter)
        row.addWidget(self._stop)
        return self._progress

    def _build_problem(self) -> QWidget:
        self._problem = QWidget()
        self._problem_words = PlainLabel("", "", wrap=True, name="monitor_evaluate_problem")
        self._problem_words.set_tone("bad")
        self._read_as = SecondaryButton("", "refresh-cw", small=True, name="monitor_evaluate_read_as")
        row = QHBoxLayout(self._problem)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(theme().px(8))
        row.addWidget(IconLabel("circle-alert", "bad"), 0, Qt.AlignmentFlag.AlignTop)
        column = QVBoxLayout()
        column.setSpacing(theme().px(6))
        column.addWidget(self._problem_words)
        column.addWidget(self._read_as, 0, Qt.AlignmentFlag.AlignLeft)
        row.addLayout(column, 1)
        return self._problem

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._state.finished.connect(self._on_finished)
        self._choose.clicked.connect(self.file_asked)
        self._general.clicked.connect(lambda: self._state.start(GENERAL))
        self.back.clicked.connect(self.back_asked)
        self._stop.clicked.connect(self._state.stop)
        self._read_as.clicked.connect(self._on_read_as)
        self.table.selectionModel().currentRowChanged.connect(self._show_changes)
        self._refresh()

    def _on_read_as(self) -> None:
        self._state.start(self._state.file, self._state.likely_encoding)

    def _on_finished(self, evaluation: Evaluation) -> None:
        """The new one is looked at."""
        row = self.model.row_of(evaluation)
        if row is not None:
            self.table.selectRow(row)

    # What is shown ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        state = self._state
        waits = "" if state.busy else state.why_not
        for button in (self._choose, self._general):
            allow(button, state.why_not)
        self._why_not.setText(waits)
        self._why_not.setVisible(bool(waits))
        self._progress.setVisible(state.busy)
        share = f"{state.done:,} of {state.total:,}" if state.total else ""
        on = visible_line(_name_of(state.file), 60)
        self._doing.setText(f"{on}: {state.words} {share}".rstrip())
        self._meter.setVisible(bool(state.total))
        self._meter.set_share(state.done / state.total if state.total else 0.0)
        allow(self._stop, "It is stopping" if state.stage is Stage.STOPPING else "")
        problem = state.problem_here
        self._problem.setVisible(problem is not None)
        likely = ENCODING_WORDS.get(state.likely_encoding, "") if state.asked_here else ""
        if problem is not None:  # the hint names the option of a command; here is a button
            hint = ENCODING_HINT if likely else problem.hint
            self._problem_words.setText(f"{problem.message} {hint}".strip())
        self._read_as.setVisible(bool(likely))
        self._read_as.setText(f"Read it as {likely}")
        self._show_found()

    def _show_found(self) -> None:
        found = latest(self._state.found)[::-1]
        self.model.show(found)
        self._empty.setVisible(not found)
        self.table.setVisible(bool(found))
        if found and not self.table.currentIndex().isValid():
            self.table.selectRow(0)
        self._show_changes()

    def _show_changes(self) -> None:
        row = self.table.currentIndex().row()
        chosen = self.model.evaluations[row] if 0 <= row < len(self.model.evaluations) else None
        self._words.setVisible(chosen is not None)
        self._words.setText(evaluation_words(chosen) if chosen else "")
        self.changes.show(chosen.changed if chosen else ())
        self._changed.setVisible(bool(chosen and chosen.changed))


def evaluation_words(item: Evaluation) -> str:
    """How sure the difference is, in a sentence or two, and which rows of the file are missing."""
    return " ".join(part for part in (*item.notes, _comparison_words(item)) if part)


def _comparison_words(item: Evaluation) -> str:
    if item.base_accuracy is None:
        return "The base model was not asked on this file." if item.base_loss is None else ""
    chance = "less than 0.1%" if (item.p_value or 0.0) < 0.001 else f"{item.p_value:.1%}"
    what = _KINDS.get(item.kind, "answers")
    words = (
        f"Of {item.answered or item.rows:,} {what}: {item.gained:,} right only after training, "
        f"{item.lost:,} only before. So uneven a split comes by chance in {chance} of such tests "
        "(exact McNemar)."
    )
    left_out = item.gained + item.lost - len(item.changed)
    return f"{words} The first {len(item.changed):,} of them:" if left_out > 0 and item.changed else words


def _name_of(file: str) -> str:
    return GENERAL_NAME if file == GENERAL else Path(file).name


def _before_after(before: str, after: str) -> str:
    return f"{before} → {after}" if before else after


def _losses(item: Evaluation) -> str:
    before = "" if item.base_loss is None else figures.loss(item.base_loss)
    return _before_after(before, figures.loss(item.loss))


COLUMNS: tuple[tuple[str, int, Callable[[Evaluation], str]], ...] = (
    ("File", 168, lambda item: visible_line(_name_of(item.file), 120)),
    ("Step", 62, lambda item: f"{item.step:,}"),
    ("Rows", 62, lambda item: f"{item.rows:,}"),
    ("Loss", 116, _losses),
    ("Right", 124, lambda item: _before_after(share_words(item.base_accuracy), share_words(item.accuracy))),
    (POINTS, 0, difference_words),
)


class EvaluationsTable(QAbstractTableModel):
    """A row for each file and step."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.evaluations: list[Evaluation] = []

    def show(self, evaluations: Sequence[Evaluation]) -> None:
        """Others in place of what it showed."""
        if list(evaluations) != self.evaluations:
            self.beginResetModel()
            self.evaluations = list(evaluations)
            self.endResetModel()

    def row_of(self, evaluation: Evaluation) -> int | None:
        """Where it stands; None: it is of another run."""
        return self.evaluations.index(evaluation) if evaluation in self.evaluations else None

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.evaluations)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[section][0]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        item = self.evaluations[index.row()]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return COLUMNS[index.column()][2](item)
            case Qt.ItemDataRole.ToolTipRole:
                return plain_tooltip(f"{item.file}\n{when(item)}")
            case Qt.ItemDataRole.ForegroundRole if COLUMNS[index.column()][0] == POINTS:
                sure = item.low is not None and item.high is not None and (item.low > 0 or item.high < 0)
                return theme().color(("ok" if (item.low or 0) > 0 else "bad") if sure else "text")
        return None


_CHANGE_COLUMNS: tuple[tuple[str, Callable[[ChangedRow], str]], ...] = (
    ("Row", lambda row: f"{row.row + 1:,}"),
    ("Question", lambda row: row.question),
    ("Right", lambda row: row.right),
    ("Base", lambda row: row.base),
    ("Trained", lambda row: row.adapter),
    ("Now", lambda row: "right" if row.adapter == row.right else "wrong"),
)


class ChangesTable(QAbstractTableModel):
    """A row for each answer that is right on one side only."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: tuple[ChangedRow, ...] = ()

    def show(self, rows: Sequence[ChangedRow]) -> None:
        """Others in place of what it showed."""
        if tuple(rows) != self._rows:
            self.beginResetModel()
            self._rows = tuple(rows)
            self.endResetModel()

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(_CHANGE_COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return _CHANGE_COLUMNS[section][0]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row = self._rows[index.row()]
        words = _CHANGE_COLUMNS[index.column()][1](row)
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return visible_line(words, _LONGEST)
            case Qt.ItemDataRole.ToolTipRole:
                return plain_tooltip(words)
            case Qt.ItemDataRole.ForegroundRole if index.column() == len(_CHANGE_COLUMNS) - 1:
                return theme().color("ok" if row.adapter == row.right else "bad")
        return None
