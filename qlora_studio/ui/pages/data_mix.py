"""The data sets of a mixture: what each is, how often its rows are seen, and the way out of it."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QPainter, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from qlora_studio.config.data_parts import MOST_OFTEN
from qlora_studio.state.data import DataState
from qlora_studio.state.data_mix import LEAST_OFTEN, WEIGHT, MixTable
from qlora_studio.ui.pages.data_format import FormatChip
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    Chip,
    DecimalBox,
    ElidedLabel,
    LinkButton,
    PlainLabel,
    SecondaryButton,
    TableView,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.flow import Flow

Index = QModelIndex | QPersistentModelIndex

_WEIGHT_WIDTH = 92  # px at 100 %: of a field with its arrows
MOST_SHOWN = 4  # data sets at once; more are scrolled to
NOTE = (
    "Weight is how often each row of a data set is seen in an epoch: 2 shows it twice, 0.5 shows half of the "
    "rows once."
)


class MixCard(Card):
    """A line for each data set; below, what can be done with the one that is chosen.

    add_asked:     files are to be added
    rows_asked:    the rows of the data set at this place
    columns_asked: which of its columns give what
    """

    add_asked = Signal()
    rows_asked = Signal(int)
    columns_asked = Signal()

    def __init__(self, state: DataState) -> None:
        super().__init__("Data sets", "mixed into one", name="data_mix")
        self._state = state
        self.table = MixView(state.mix)
        self._add = SecondaryButton("Add a file…", "file-plus", small=True, name="data_mix_add")
        self._name = ElidedLabel("", "label", name="data_mix_name")
        self._format = FormatChip(name="data_mix_format")
        self._encoding = Chip("", name="data_mix_encoding")
        self._left_out = PlainLabel("", "muted", name="data_mix_left_out")
        self._rows = LinkButton("Show its rows", name="data_mix_rows")
        self._columns = LinkButton("Columns…", name="data_mix_columns")
        self._remove = SecondaryButton("Take out", "x", small=True, name="data_mix_remove")
        self._build()
        self._bind()

    def refresh(self) -> None:
        """After another mixture, or another of its data sets was chosen."""
        state, one = self._state, self._state.chosen_set
        self.setVisible(one is not None)
        if one is None:
            return
        self.table.show_chosen(state.part)
        busy = state.file.words if state.file.busy else ""
        for control in (self._add, self._format, self._remove):
            allow(control, busy)
        self._name.setText(one.name)
        self._format.show_report(one.report, chosen=one.part.format != "auto" or bool(one.part.map))
        self._encoding.set(one.report.encoding.upper(), "neutral", "check")
        left_out = one.report.left_out_by_fixes
        self._left_out.setText(f"{left_out:,} left out by its own fixes" if left_out else "")
        self._left_out.setVisible(bool(left_out))
        self._columns.setVisible(bool(one.report.columns))
        self._remove.setAccessibleName(f"Take {one.name} out of the mixture")

    def remove(self) -> None:
        """The chosen one."""
        self._state.remove(self._state.part)

    def edit_weight(self) -> None:
        """Of the chosen one."""
        self.table.edit_weight(self._state.part)

    def _build(self) -> None:
        self.add_to_head(self._add)
        chosen = QWidget()
        flow = Flow(gap=10, line_gap=6, last_at_right=True, parent=chosen)
        for widget in (
            self._name, self._format, self._encoding, self._left_out, self._rows, self._columns, self._remove,
        ):  # fmt: skip
            flow.addWidget(widget)
        self.body.addWidget(self.table)
        self.body.addWidget(chosen)
        self.body.addWidget(PlainLabel(NOTE, "note", wrap=True))
        self.keep_snug()

    def _bind(self) -> None:
        self._add.clicked.connect(self.add_asked)
        self._format.picked.connect(self._state.read_as)
        self._rows.clicked.connect(lambda: self.rows_asked.emit(self._state.part))
        self._columns.clicked.connect(self.columns_asked)
        self._remove.clicked.connect(self.remove)
        self.table.opened.connect(lambda index: self.rows_asked.emit(index.row()))
        self.table.selectionModel().currentRowChanged.connect(self._on_row)

    def _on_row(self, current: QModelIndex) -> None:
        if current.isValid():
            self._state.choose_part(current.row())


class MixView(TableView):
    """Names take what is left; a click on a weight, or F2, edits it."""

    def __init__(self, sets: MixTable) -> None:
        super().__init__(name="data_mix_sets", label="Data sets of the mixture")
        self.setModel(sets)
        self.setItemDelegateForColumn(WEIGHT, WeightCells(self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        head = self.horizontalHeader()
        head.setStretchLastSection(False)
        head.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        head.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.clicked.connect(self._on_clicked)
        sets.modelReset.connect(self._fit_height)
        theme().changed.connect(self._fit_height)

    def show_chosen(self, place: int) -> None:
        """Marks it, without leaving the cell that is edited."""
        if self.currentIndex().row() != place:
            self.setCurrentIndex(self.model().index(place, 0))

    def edit_weight(self, place: int) -> None:
        """Opens its field."""
        index = self.model().index(place, WEIGHT)
        if index.flags() & Qt.ItemFlag.ItemIsEditable:
            self.setCurrentIndex(index)
            self.scrollTo(index)
            self.edit(index)

    def _on_clicked(self, index: QModelIndex) -> None:
        if index.column() == WEIGHT:
            self.edit_weight(index.row())

    def _fit_height(self) -> None:
        rows = min(max(self.model().rowCount(), 2), MOST_SHOWN)
        self.setFixedHeight(theme().px(theme().size.row_height) * (rows + 1) + theme().px(8))


class WeightCells(QStyledItemDelegate):
    """A number with an edge around it, as a field has one: it can be changed."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        super().paint(painter, option, index)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(theme().color("border_strong"), 1))
        round_by = theme().px(theme().size.radius_control)
        painter.drawRoundedRect(
            QRectF(_field(option.rect)).adjusted(0.5, 0.5, -0.5, -0.5), round_by, round_by
        )
        painter.restore()

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        hint = super().sizeHint(option, index)
        return QSize(max(hint.width(), theme().px(_WEIGHT_WIDTH)), hint.height())

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:
        """Over the edge that is drawn."""
        editor.setGeometry(_field(option.rect))

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        name = index.sibling(index.row(), 0).data()
        return DecimalBox(
            LEAST_OFTEN, MOST_OFTEN, index.data(Qt.ItemDataRole.EditRole), name="data_mix_weight",
            label=f"Weight of {name}", step=0.5, places=2, parent=parent,
        )  # fmt: skip

    def setEditorData(self, editor: QWidget, index: Index) -> None:
        assert isinstance(editor, DecimalBox)
        editor.setValue(index.data(Qt.ItemDataRole.EditRole))
        editor.selectAll()

    def setModelData(self, editor: QWidget, model: object, index: Index) -> None:
        assert isinstance(editor, DecimalBox) and isinstance(model, MixTable)
        editor.interpretText()
        model.setData(index, editor.value(), Qt.ItemDataRole.EditRole)


def _field(cell: QRect) -> QRect:
    gap = theme().px(2)
    return cell.adjusted(gap, gap, -gap, -gap)
