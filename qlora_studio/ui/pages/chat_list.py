"""In place of a chat: the conversations that were kept, to search, open, name and remove."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt, Signal
from PySide6.QtGui import QAction, QKeyEvent, QKeySequence, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QListView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from qlora_studio.plain_text import visible_line
from qlora_studio.state.chat import ChatState
from qlora_studio.state.conversations import ConversationList
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, IconButton, PlainLabel
from qlora_studio.ui.widgets.fields import SearchBox
from qlora_studio.ui.widgets.text_size import at_text_size

NOTHING_YET = "Nothing was said yet. Each chat is kept here, on this machine."

_ROW = 35  # px at 100 %, as the style sheet has it, and its line
_EDGE = 8  # px at 100 % beside the words of a row


class ConversationsCard(Card):
    """One click, or Enter, opens. opened: a conversation is on its way."""

    opened = Signal()

    def __init__(self, state: ChatState) -> None:
        super().__init__("Conversations", name="chat_conversations")
        self._state = state
        self._list = state.conversations
        self._build()
        self._bind()
        self.refresh()

    def _build(self) -> None:
        self.search = SearchBox("Search all that was said", name="chat_search")
        self._view = ConversationView(self._list.table)
        self._nothing = PlainLabel("", "muted", wrap=True, name="chat_nothing_found")
        self._problem = PlainLabel("", "note", wrap=True, name="chat_list_problem")
        self._problem.set_tone("warn")
        self._rename = IconButton("pencil", "Name the conversation", small=True, name="chat_rename")
        self._bin = IconButton("trash-2", "Move the conversation to the bin", small=True, name="chat_bin")
        for button in (self._rename, self._bin):
            self.add_to_head(button)
        self.body.addWidget(self.search)
        self.body.addWidget(self._problem)
        self.body.addWidget(self._nothing)
        self.body.addWidget(self._view, 1)

    def _bind(self) -> None:
        self._list.changed.connect(self.refresh)
        self._list.table.renamed.connect(self._state.rename)
        self.search.textChanged.connect(self._list.search)
        self._view.clicked.connect(self._on_open)
        self._rename.clicked.connect(self.rename)
        self._bin.clicked.connect(self.move_to_bin)
        remove = QAction(self._view)
        remove.setShortcut(QKeySequence(QKeySequence.StandardKey.Delete))
        remove.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        remove.triggered.connect(self.move_to_bin)
        self._view.addAction(remove)

    def rename(self) -> None:
        """The chosen one is typed over in its place."""
        if self._view.currentIndex().isValid():
            self._view.edit(self._view.currentIndex())

    def move_to_bin(self) -> None:
        """The chosen one; the notice takes it out again."""
        item = self._view.currentIndex().data(Qt.ItemDataRole.UserRole)
        if item is not None:
            self._state.move_to_bin(item.path)

    def refresh(self) -> None:
        """The open one is the chosen one."""
        table = self._list.table
        row = table.row_of(self._state.open_path)
        if row >= 0:
            self._view.setCurrentIndex(table.index(row))
        elif self._state.open_path is None and not self._view.hasFocus():
            self._view.setCurrentIndex(QModelIndex())
        self._show_buttons()
        self._nothing.setText(
            "Nothing that was said has all of these words." if self._list.count else NOTHING_YET
        )
        self._nothing.setVisible(not table.items)
        self._problem.setText(self._problem_words())
        self._problem.setVisible(bool(self._list.unreadable))
        self.search.setVisible(bool(self._list.count))

    def _show_buttons(self) -> None:
        chosen = self._view.currentIndex().isValid()
        for button in (self._rename, self._bin):
            button.setVisible(chosen)

    def _problem_words(self) -> str:
        left = self._list.unreadable
        if not left:
            return ""
        others = f" {len(left) - 1:,} more can't be opened either." if len(left) > 1 else ""
        return f"{visible_line(left[0].reason, 300)}{others}"

    def _on_open(self, index: QModelIndex) -> None:
        item = index.data(Qt.ItemDataRole.UserRole)
        if item is not None:
            self._state.open(item.path)
            self.opened.emit()
        self._show_buttons()


class ConversationView(QListView):
    """The last talked in first."""

    def __init__(self, table: ConversationList, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("chat_list")
        self.setAccessibleName("Conversations")
        self.setModel(table)
        self.setItemDelegate(_NameAndTime(self))
        self.setUniformItemSizes(True)
        self.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        at_text_size(self, self.setMinimumHeight, 3 * _ROW)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.currentIndex().isValid():
            self.clicked.emit(self.currentIndex())
            return
        super().keyPressEvent(event)


class _NameAndTime(QStyledItemDelegate):
    """The name on the left, when something was last said on the right."""

    def __init__(self, view: QListView) -> None:
        super().__init__(view)

    def initStyleOption(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        super().initStyleOption(option, index)
        metrics = option.fontMetrics
        text = option.text
        room = option.rect.width() - metrics.horizontalAdvance(_when(index)) - 4 * theme().px(_EDGE)
        option.text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, room)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        super().paint(painter, option, index)
        painter.save()
        painter.setPen(theme().color("muted"))
        edge = theme().px(_EDGE)
        area: QRect = option.rect.adjusted(edge, 0, -edge, 0)
        painter.drawText(area, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, _when(index))
        painter.restore()

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(0, theme().px(_ROW))


def _when(index: QModelIndex | QPersistentModelIndex) -> str:
    return str(index.data(Qt.ItemDataRole.AccessibleDescriptionRole) or "")
