"""A question at the button that raised it."""

from __future__ import annotations

from PySide6.QtGui import QColor
from PySide6.QtWidgets import QPushButton

from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Popover


def test_the_words_stand_on_a_ground_of_their_own(qtbot):
    theme()
    button = QPushButton("Stop")
    qtbot.addWidget(button)
    button.show()
    popover = Popover(button, "Stop this export?", "Stop", "Go on", name="question")
    popover.open()
    ground = popover.grab().toImage().pixelColor(popover.width() // 2, 6)
    assert ground == QColor(theme().colors.surface)
    popover.close()
