"""A file that isn't UTF-8: the person says how its letters are stored, and it is read again."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QBoxLayout, QWidget

from qlora_studio.config.encodings import ENCODING_WORDS
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import ChoiceBox, SecondaryButton

HINT = "If it was saved by an older program, choose its encoding."


class EncodingPick(QWidget):
    """The likely encoding first, and a button that reads with it.

    small: for a narrow card, the button below
    chosen: one of `ENCODINGS`
    """

    chosen = Signal(str)

    def __init__(self, likely: str = "", name: str = "data_encoding_pick", *, small: bool = False) -> None:
        super().__init__()
        self._box = ChoiceBox(
            list(ENCODING_WORDS.items())[1:],
            name=name,
            label="Encoding of the file",
            elide=Qt.TextElideMode.ElideRight,  # its number tells it from others
        )
        self._read = SecondaryButton("Read again", "refresh-cw", small=small, name=f"{name}_read")
        self._proposed = likely
        self._box.set_value(likely)
        directions = QBoxLayout.Direction
        layout = QBoxLayout(directions.TopToBottom if small else directions.LeftToRight, self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(8))
        if small:  # its longest choice is wider than such a card; an elided one is told in its tooltip
            self._box.setSizeAdjustPolicy(ChoiceBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout.addWidget(self._box)
        layout.addWidget(self._read, 0, Qt.AlignmentFlag.AlignLeft)
        self._read.clicked.connect(lambda: self.chosen.emit(self._box.value()))

    def propose(self, likely: str) -> None:
        """Shows this one, once: what a person chooses meanwhile stays."""
        if likely != self._proposed:
            self._proposed = likely
            self._box.set_value(likely)
