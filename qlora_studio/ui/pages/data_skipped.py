"""The lines that an import could not use: number, reason, count; to copy or to keep."""

from __future__ import annotations

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal
from PySide6.QtWidgets import QWidget

from qlora_studio.data.report import SkipReason
from qlora_studio.plain_text import visible_line
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, IconButton, SecondaryButton, TableView

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex

_MOST_LINES = 12  # numbers of lines named in a cell


class SkippedTable(QAbstractTableModel):
    """A reason a row, the most frequent first."""

    COLUMNS = ("Rows", "Reason", "Lines")

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._problems: tuple[SkipReason, ...] = ()

    def show(self, problems: tuple[SkipReason, ...]) -> None:
        """Those of another import."""
        if problems != self._problems:
            self.beginResetModel()
            self._problems = problems
            self.endResetModel()

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._problems)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return self.COLUMNS[section]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        if not index.isValid() or role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        problem = self._problems[index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return None
        return (f"{problem.count:,}", visible_line(problem.reason, 300), _lines(problem))[index.column()]


class SkippedCard(Card):
    """Opens under the equation."""

    copy_asked = Signal()
    save_asked = Signal()
    closed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Skipped rows", name="data_skipped", parent=parent)
        self._model = SkippedTable(self)
        self._table = TableView(name="data_skipped_reasons", label="Why rows were skipped")
        self._table.setModel(self._model)
        self._table.set_widths(70, 460)
        copy = SecondaryButton("Copy", "copy", small=True, name="data_copy_skipped")
        save = SecondaryButton("Save list…", "save", small=True, name="data_save_skipped")
        close = IconButton("x", "Close", small=True, name="data_close_skipped")
        for button in (copy, save, close):
            self.add_to_head(button)
        self.body.addWidget(self._table)
        copy.clicked.connect(self.copy_asked)
        save.clicked.connect(self.save_asked)
        close.clicked.connect(self.closed)
        self.keep_snug()

    def show_problems(self, problems: tuple[SkipReason, ...], skipped: int, rows_in: int) -> None:
        """As high as its reasons, six at most."""
        self.set_note(f"{skipped:,} of {rows_in:,}; what is skipped is not learned")
        self._model.show(problems)
        shown = min(len(problems), 6) + 1
        self._table.setFixedHeight(theme().px(theme().size.row_height) * shown + theme().px(8))


def _lines(problem: SkipReason) -> str:
    """204, 311, 1,020 and 28 more."""
    shown = problem.lines[:_MOST_LINES] or (problem.line,)
    rest = problem.count - len(shown)
    return ", ".join(f"{line:,}" for line in shown) + (f" and {rest:,} more" if rest else "")
