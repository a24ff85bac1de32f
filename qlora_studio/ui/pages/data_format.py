"""How a file was read, as a chip; its menu reads the file in another format."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu

from qlora_studio.data.formats import READ
from qlora_studio.data.report import ImportReport
from qlora_studio.state.data_name import format_words
from qlora_studio.ui.widgets import ChoiceChip


class FormatChip(ChoiceChip):
    """picked: the format to read the file in"""

    picked = Signal(str)

    def __init__(self, *, name: str) -> None:
        super().__init__("", name=name)
        self.setCheckable(False)
        self.setMenu(self._build_formats(f"{name}s"))

    def show_report(self, report: ImportReport, *, chosen: bool) -> None:
        """chosen: the format, or the columns, by a person; else it was guessed."""
        self.setText(f"{format_words(report.format)}{'' if chosen else ', guessed'} ▾")
        self.setToolTip(report.guess)

    def _build_formats(self, name: str) -> QMenu:
        menu = QMenu(self)
        menu.setObjectName(name)
        for value, words in (
            ("auto", "Find it from the content"),
            *((kind, format_words(kind)) for kind in READ),
        ):
            action = QAction(words, menu)
            action.setData(value)
            menu.addAction(action)
        menu.triggered.connect(lambda action: self.picked.emit(action.data()))
        return menu
