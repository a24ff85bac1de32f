"""In place of a chat: the conversations that were kept, to search, open, name and remove."""

from __future__ import annotations

from pathlib import Path

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
        self._open: Path | None = None  # what was open when the choice last followed it
        self._chosen: Path | None = None  # whether the search leaves it or not
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
        table = self._list.table
        table.renamed.connect(self._state.rename)
        table.modelAboutToBeReset.connect(self._remember_choice)
        table.modelReset.connect(self._choose_again)
        self._view.selectionModel().currentChanged.connect(self._show_buttons)
        self.search.textChanged.connect(self._list.search)
        self._view.clicked.connect(self._on_open)
        self._rename.clicked.connect(self.rename)
        self._bin.clicked.connect(self.move_to_bin)
        for keys, slot in (("F2", self.rename), ("Del", self.move_to_bin)):
            action = QAction(self)
            action.setShortcut(QKeySequence(keys))
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(slot)
            self.addAction(action)

    @property
    def has_choice(self) -> bool:
        """Whether one of the list is chosen."""
        return self._view.currentIndex().isValid()

    def choose_open(self) -> None:
        """The one that is read, whatever was searched for."""
        self.search.clear()
        self._choose(self._state.open_path)

    def rename(self) -> None:
        """The chosen one is typed over in its place."""
        if self.has_choice:
            self._view.edit(self._view.currentIndex())

    def move_to_bin(self) -> None:
        """The chosen one; the notice takes it out again."""
        item = self._view.currentIndex().data(Qt.ItemDataRole.UserRole)
        if item is not None:
            self._state.move_to_bin(item.path)

    def refresh(self) -> None:
        """What was just opened is the chosen one."""
        table = self._list.table
        if self._state.open_path != self._open and not table.held:
            self._choose(self._state.open_path)
        self._show_buttons()
        self._nothing.setText(
            "Nothing that was said has all of these words." if self._list.count else NOTHING_YET
        )
        self._nothing.setVisible(not table.items)
        self._problem.setText(self._problem_words())
        self._problem.setVisible(bool(self._list.unreadable))
        self.search.setVisible(bool(self._list.count))

    def _choose(self, path: Path | None) -> None:
        """Where it isn't listed yet, once it is."""
        row = self._list.table.row_of(path)
        if row >= 0 or path is None:
            self._open = self._chosen = path
            self._view.setCurrentIndex(self._list.table.index(row))

    def _remember_choice(self) -> None:
        item = self._view.currentIndex().data(Qt.ItemDataRole.UserRole)
        if item is not None:
            self._chosen = item.path

    def _choose_again(self) -> None:
        table = self._list.table
        self._view.setCurrentIndex(table.index(table.row_of(self._chosen)))

    def _show_buttons(self) -> None:
        for button in (self._rename, self._bin):
            button.setVisible(self.has_choice)

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
        names = _NameAndTime(self, table)
        names.typed.connect(table.go_on, Qt.ConnectionType.QueuedConnection)  # the editor goes first
        self.setItemDelegate(names)
        self.setUniformItemSizes(True)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)  # F2 is the card's
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        at_text_size(self, self.setMinimumHeight, 3 * _ROW)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        naming = self.state() == QAbstractItemView.State.EditingState  # Enter then ends the name
        if enter and not naming and self.currentIndex().isValid():
            self.clicked.emit(self.currentIndex())
            return
        super().keyPressEvent(event)


class _NameAndTime(QStyledItemDelegate):
    """The name on the left, when something was last said on the right. typed: a name, or it was left."""

    typed = Signal()

    def __init__(self, view: ConversationView, table: ConversationList) -> None:
        super().__init__(view)
        self._table = table

    def createEditor(
        self, parent: QWidget, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QWidget:
        self._table.hold()
        return super().createEditor(parent, option, index)

    def destroyEditor(self, editor: QWidget, index: QModelIndex | QPersistentModelIndex) -> None:
        super().destroyEditor(editor, index)
        self.typed.emit()

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
