"""The theme's style sheet, worn by each area of the window by itself: by the rail, a page, a popover.

One sheet for the whole application would be less to think of. But where that one changes, Qt polishes each
widget once for every widget around it, and pages that nobody sees too: with all pages built 15 times the work
that the areas in sight take.
"""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Signal
from PySide6.QtWidgets import QWidget

from qlora_studio.ui.theme import theme


class Dress(QObject):
    """Keeps `area`, and all that is put into it, in the look in force. Lives as long as the area.

    What is in sight changes at once, the rest when it is next shown or told to `put_on`. A popup or dialog is
    an area of its own where its parent stands in none.

    changed: the area has another look
    """

    changed = Signal()

    def __init__(self, area: QWidget) -> None:
        super().__init__(area)
        self._area = area
        self._worn = ""
        area.installEventFilter(self)
        theme().restyled.connect(self._on_restyled)

    @property
    def is_worn(self) -> bool:
        """Whether the area is in the look in force."""
        return self._worn == theme().style_sheet

    def put_on(self) -> None:
        """The look in force, now."""
        if self.is_worn:
            return
        if self._worn:
            self._area.setStyleSheet("")  # off and on takes two thirds of what a change of sheets takes
        self._worn = theme().style_sheet
        self._area.setStyleSheet(self._worn)
        self.changed.emit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.Polish, QEvent.Type.Show):
            self.put_on()
        return False

    def _on_restyled(self) -> None:
        if self._worn and self._area.isVisibleTo(self._area.window()):
            self.put_on()
