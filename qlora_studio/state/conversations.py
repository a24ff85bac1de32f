"""The conversations that are kept: a list to search, open, name, and move to the bin."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from qlora_studio.config import places
from qlora_studio.errors import StudioError
from qlora_studio.plain_text import visible_line
from qlora_studio.runs.conversations import (
    Conversation,
    ConversationFile,
    Listed,
    Unreadable,
    drop_torn_files,
    found,
    list_conversations,
    listed_as,
    read_conversation,
)
from qlora_studio.state.background import Background
from qlora_studio.state.bin import move_to_bin
from qlora_studio.state.notices import Notices

LONGEST_GIVEN_NAME = 200  # characters

Index = QModelIndex | QPersistentModelIndex
NO_PARENT = QModelIndex()


class ConversationList(QAbstractListModel):
    """Those that the search leaves. renamed: (path, name as typed)."""

    renamed = Signal(object, str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.items: list[Listed] = []
        self._next: list[Listed] | None = None  # what comes once it is held no longer
        self.held = False

    def show(self, items: list[Listed]) -> None:
        """These from now on; where it is held, from then on."""
        if self.held:
            self._next = items
        elif items != self.items:
            self.beginResetModel()
            self.items = items
            self.endResetModel()

    def hold(self) -> None:
        """While a name is typed, each row stays where it is."""
        self.held = True

    def go_on(self) -> None:
        """With what came meanwhile."""
        self.held = False
        if self._next is not None:
            items, self._next = self._next, None
            self.show(items)

    def row_of(self, path: Path | None) -> int:
        """-1 where it isn't there."""
        return next((row for row, item in enumerate(self.items) if item.path == path), -1)

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.items)

    def flags(self, index: Index) -> Qt.ItemFlag:
        flags = super().flags(index)
        return flags | Qt.ItemFlag.ItemIsEditable if index.isValid() else flags

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        item = self.items[index.row()]
        match role:
            case Qt.ItemDataRole.DisplayRole | Qt.ItemDataRole.EditRole:
                return visible_line(item.title, LONGEST_GIVEN_NAME)
            case Qt.ItemDataRole.AccessibleDescriptionRole:
                return _when(item)
            case Qt.ItemDataRole.UserRole:
                return item
        return None

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        name = str(value).strip()[:LONGEST_GIVEN_NAME]
        if role != Qt.ItemDataRole.EditRole or not index.isValid() or name == self.data(index):
            return False
        self.renamed.emit(self.items[index.row()].path, name)
        return True


class ConversationsState(QObject):
    """changed: the list, or what can't be read. told: (what could not be done, tone)."""

    changed = Signal()
    told = Signal(str, str)

    def __init__(self, notices: Notices, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._notices = notices
        self._disk = Background("conversations", self)
        self._all: dict[Path, Listed] = {}
        self._search = ""
        self._unsaved: dict[ConversationFile, Conversation] = {}
        self._refusal = ""  # the last
        self.table = ConversationList(self)
        self.unreadable: list[Unreadable] = []

    @property
    def count(self) -> int:
        """All that can be opened, whatever is searched for."""
        return len(self._all)

    def refresh(self) -> None:
        """Reads the folder."""
        self._disk.do(partial(_listed, places.conversations_folder()), self._on_listed, self._on_refused)

    def search(self, words: str) -> None:
        """Lists those in which every word was said."""
        self._search = words
        self._list()

    def keep(self, file: ConversationFile, conversation: Conversation) -> None:
        """Saves it beside the window, in the order of the calls; where that fails it is held for `save`."""

        def on_kept(item: Listed) -> None:
            self._unsaved.pop(file, None)
            self._on_kept(item)

        def on_refused(error: StudioError) -> None:
            self._unsaved[file] = conversation
            self._on_refused(error)

        self._disk.do(partial(_kept, file, conversation), on_kept, on_refused)

    def save(self) -> str:
        """Waits for the disk; what could not be saved before is tried anew (R10).

        Returns: why something still isn't on the disk, in words; empty where all is
        """
        self._disk.wait()
        for file, conversation in self._unsaved.items():
            self.keep(file, conversation)
        self._disk.wait()
        return self._refusal if self._unsaved else ""

    def open(
        self,
        path: Path,
        opened: Callable[[tuple[ConversationFile, Conversation]], None],
        refused: Callable[[Path], None],
    ) -> None:
        """Reads one, or has it still. refused: told which it was; why is `told`."""
        for file, conversation in self._unsaved.items():
            if file.path == path:
                opened((file, conversation))
                return

        def on_refused(error: StudioError) -> None:
            refused(path)
            self._on_refused(error)

        self._disk.do(partial(_opened, path), opened, on_refused)

    def rename(self, path: Path, name: str) -> None:
        """One that isn't open. Empty: its first message is its name again."""
        self._disk.do(partial(_renamed, path, name), self._on_kept, self._on_refused)

    def move_to_bin(self, path: Path) -> None:
        """With undo where the system's bin allows it."""
        title = self._all[path].title if path in self._all else path.name
        self._disk.do(
            partial(_binned, path, visible_line(title, 60)), partial(self._on_binned, path), self._on_refused
        )

    def wait(self) -> None:
        """What it was asked for so far is done, and told, when this returns."""
        self._disk.wait()

    def _list(self) -> None:
        newest_first = sorted(
            self._all.values(), key=lambda item: (item.changed, item.path.name), reverse=True
        )
        self.table.show(found(newest_first, self._search))
        self.changed.emit()

    def _on_listed(self, answer: tuple[list[Listed], list[Unreadable]]) -> None:
        listed, self.unreadable = answer
        self._all = {item.path: item for item in listed}
        self._list()

    def _on_kept(self, item: Listed) -> None:
        self._all[item.path] = item
        self._list()

    def _on_binned(self, path: Path, done: tuple[str, Callable[[], None] | None]) -> None:
        title, take_out = done
        self._unsaved = {file: unsaved for file, unsaved in self._unsaved.items() if file.path != path}
        undo = partial(self._take_out, take_out) if take_out is not None else None
        self._notices.say(f"{title} is in the bin.", undo=undo)
        self.refresh()

    def _take_out(self, take_out: Callable[[], None]) -> None:
        self._disk.do(take_out, lambda _: self.refresh(), self._on_refused)

    def _on_refused(self, error: StudioError) -> None:
        self._refusal = str(error)
        self.told.emit(str(error), "bad")


def _listed(folder: Path) -> tuple[list[Listed], list[Unreadable]]:
    """Raises: StudioError."""
    drop_torn_files(folder)
    return list_conversations(folder)


def _kept(file: ConversationFile, conversation: Conversation) -> Listed:
    """Raises: StudioError."""
    file.save(conversation)
    return listed_as(file.path, conversation)


def _opened(path: Path) -> tuple[ConversationFile, Conversation]:
    """Raises: StudioError."""
    return ConversationFile(path), read_conversation(path)


def _renamed(path: Path, name: str) -> Listed:
    """Raises: StudioError."""
    file, conversation = _opened(path)
    return _kept(file, msgspec.structs.replace(conversation, name=name))


def _binned(path: Path, title: str) -> tuple[str, Callable[[], None] | None]:
    """Raises: StudioError."""
    return title, move_to_bin(path)


def _when(item: Listed) -> str:
    """Today's by the hour, older ones by the day."""
    try:
        changed = datetime.fromtimestamp(item.changed).astimezone()
    except (OverflowError, OSError, ValueError):  # a date beyond the calendar
        return ""
    same_day = changed.date() == datetime.fromtimestamp(time.time()).astimezone().date()
    return f"{changed:%H:%M}" if same_day else f"{changed:%Y-%m-%d}"
