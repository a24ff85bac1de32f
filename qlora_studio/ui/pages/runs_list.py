"""The list of runs: chosen ones with their line, state as icon and word, tags as chips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import (
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QRectF,
    QSize,
    QSortFilterProxyModel,
    Qt,
)
from PySide6.QtGui import QIcon, QPainter, QPalette
from PySide6.QtWidgets import QHeaderView, QMenu, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from qlora_studio.plain_text import visible_line
from qlora_studio.state.runs_table import NAMES, NO_PARENT, SORT_ROLE, RunsTable
from qlora_studio.ui.icons import icon, tone_color
from qlora_studio.ui.run_words import state_word
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import TableView
from qlora_studio.ui.widgets.line_sample import line_pixmap

if TYPE_CHECKING:
    from qlora_studio.runs.history import RunSummary

Index = QModelIndex | QPersistentModelIndex

_WIDTHS = {
    "": 64,
    "Name": 190,
    "State": 136,
    "Model": 150,
    "Eval loss": 98,
    "Peak": 88,
    "Time": 104,
    "Tags": 150,
}
_OTHER_WIDTH = 110
_SEARCHED = [NAMES.index(name) for name in ("Name", "Model", "Data", "Tags", "Note")]
NAME, STATE, LOSS, TAGS = (NAMES.index(name) for name in ("Name", "State", "Eval loss", "Tags"))


class RunsList(TableView):
    """Rows are filtered by words and by a tag; columns come and go by a menu on the header."""

    def __init__(self, runs: RunsTable) -> None:
        super().__init__(name="runs_table", label="Runs")
        self.runs = runs
        self.proxy = RunsFilter(self)
        self.proxy.setSourceModel(runs)
        self.setModel(self.proxy)
        self.setItemDelegate(_RunCells(runs, self))
        self.setSortingEnabled(True)
        self.sortByColumn(-1, Qt.SortOrder.AscendingOrder)  # as listed: the newest first
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        head = self.horizontalHeader()
        head.setSortIndicatorClearable(True)
        head.setSectionsMovable(True)
        head.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        head.customContextMenuRequested.connect(self._show_columns_menu)
        for column, told in enumerate(runs.columns):
            self.setColumnHidden(column, not told.shown)
        self._set_widths()
        theme().changed.connect(self._set_widths)

    def current_run(self) -> RunSummary | None:
        """The row the keyboard is on."""
        index = self.currentIndex()
        return index.data(Qt.ItemDataRole.UserRole) if index.isValid() else None

    def shown_runs(self) -> list[RunSummary]:
        """In their order."""
        rows = range(self.proxy.rowCount())
        return [self.proxy.index(row, 0).data(Qt.ItemDataRole.UserRole) for row in rows]

    def edit_cell(self, column: int) -> None:
        """Opens the editor of the current row's name, tags or note; the column is shown if it wasn't."""
        index = self.currentIndex()
        if index.isValid():
            self.setColumnHidden(column, False)
            cell = self.proxy.index(index.row(), column)
            self.scrollTo(cell)
            self.edit(cell)

    def _set_widths(self) -> None:
        for column, name in enumerate(NAMES):
            self.setColumnWidth(column, theme().px(_WIDTHS.get(name, _OTHER_WIDTH)))
        self.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Fixed)

    def _show_columns_menu(self, place: QPoint) -> None:
        menu = QMenu(self)
        menu.setObjectName("runs_columns")
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for column, name in enumerate(NAMES):
            if not name or column == NAME:
                continue
            action = menu.addAction(name)
            action.setCheckable(True)
            action.setChecked(not self.isColumnHidden(column))
            action.toggled.connect(lambda shown, column=column: self.setColumnHidden(column, not shown))
        menu.popup(self.horizontalHeader().mapToGlobal(place))


class RunsFilter(QSortFilterProxyModel):
    """Every word of the search must stand in name, model, data, tags or note."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._words: list[str] = []
        self._tag = ""
        self.setSortRole(SORT_ROLE)

    def search(self, text: str) -> None:
        """Words in any order."""
        self.beginFilterChange()
        self._words = text.casefold().split()
        self.endFilterChange()

    def show_tag(self, tag: str) -> None:
        """Only runs that have it; "": all."""
        self.beginFilterChange()
        self._tag = tag
        self.endFilterChange()

    def filterAcceptsRow(self, row: int, parent: Index = NO_PARENT) -> bool:
        source = self.sourceModel()
        assert isinstance(source, RunsTable)
        run = source.runs[row]
        if self._tag and (run.run is None or self._tag not in run.run.notes.tags):
            return False
        if not self._words:
            return True
        texts = [
            source.columns[NAMES.index(name)].text(run) for name in ("Name", "Model", "Data", "Tags", "Note")
        ]
        found = " ".join((*texts, state_word(run.state).word)).casefold()
        return all(word in found for word in self._words)


class _RunCells(QStyledItemDelegate):
    """The look of a cell by its column."""

    def __init__(self, runs: RunsTable, parent: QWidget) -> None:
        super().__init__(parent)
        self._runs = runs

    def initStyleOption(self, option: QStyleOptionViewItem, index: Index) -> None:
        super().initStyleOption(option, index)
        run: RunSummary = index.data(Qt.ItemDataRole.UserRole)
        option.text = visible_line(option.text, 300)
        match index.column():
            case 0:
                self._show_line(option, run)
            case column if column == NAME:
                option.font.setWeight(option.font.Weight.DemiBold)
            case column if column == STATE:
                self._show_state(option, run)
            case column if column == LOSS and option.text.endswith("best"):
                option.font.setWeight(option.font.Weight.Bold)
            case column if column == TAGS:
                option.text = ""  # drawn as chips

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        super().paint(painter, option, index)
        if index.column() == TAGS:
            run: RunSummary = index.data(Qt.ItemDataRole.UserRole)
            _draw_chips(painter, option, run.run.notes.tags if run.run else ())

    def _show_line(self, option: QStyleOptionViewItem, run: RunSummary) -> None:
        if run.folder in self._runs.chosen:
            option.icon = QIcon(line_pixmap(self._runs.chosen.index(run.folder), 2.4))
            option.decorationSize = QSize(theme().px(20), theme().px(12))
            option.features |= QStyleOptionViewItem.ViewItemFeature.HasDecoration

    def _show_state(self, option: QStyleOptionViewItem, run: RunSummary) -> None:
        state = run.run.state if run.run else None
        elsewhere = run.run is not None and run.run.locked and run.folder != self._runs.live
        word = state_word(run.state, state.cause if state else "", elsewhere=elsewhere)
        color = tone_color(word.tone)
        option.text = word.word
        option.icon = icon(word.icon_name, color)
        option.decorationSize = QSize(theme().px(16), theme().px(16))
        option.features |= QStyleOptionViewItem.ViewItemFeature.HasDecoration
        for role in (QPalette.ColorRole.Text, QPalette.ColorRole.HighlightedText):
            option.palette.setColor(role, theme().color(color))


def _draw_chips(painter: QPainter, option: QStyleOptionViewItem, tags: tuple[str, ...]) -> None:
    """As many as there is room for; how many more there are stands behind them."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setFont(theme().font("note", 500))
    metrics = painter.fontMetrics()
    height, x = theme().px(20), float(option.rect.left() + theme().px(8))
    top = option.rect.top() + (option.rect.height() - height) / 2
    right = option.rect.right() - theme().px(4)
    for place, tag in enumerate(tags):
        words = visible_line(tag, 40)
        width = metrics.horizontalAdvance(words) + theme().px(16)
        more = f"+{len(tags) - place}"
        if x + width > right:
            painter.setPen(theme().color("muted"))
            box = QRectF(x, top, max(right - x, metrics.horizontalAdvance(more)), height)
            painter.drawText(box, int(Qt.AlignmentFlag.AlignVCenter), more)
            break
        box = QRectF(x, top, width, height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme().color("hover"))
        painter.drawRoundedRect(box, height / 2, height / 2)
        painter.setPen(theme().color("muted"))
        painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), words)
        x += width + theme().px(5)
    painter.restore()
