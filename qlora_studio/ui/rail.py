"""The rail at the left: the pages in the order of the work, and the run that is going on."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from qlora_studio.ui import figures
from qlora_studio.ui.dress import Dress
from qlora_studio.ui.icons import icon
from qlora_studio.ui.logo import Logo
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import ElidedLabel, IconLabel, Meter, PlainLabel, plain_tooltip, set_property
from qlora_studio.ui.widgets.buttons import RingedButton

PAGES = (
    ("home", "Home", "house"),
    ("models", "Models", "box"),
    ("data", "Data", "database"),
    ("train", "Train", "sliders-horizontal"),
    ("runs", "Runs", "chart-line"),
    ("chat", "Chat", "messages-square"),
    ("export", "Export", "package-check"),
)
SETTINGS = ("settings", "Settings", "settings")

# A page that belongs to another one's place in the rail.
_UNDER = {"monitor": "runs"}


class Rail(QFrame):
    """asked: the name of the page that was clicked."""

    asked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("rail")
        Dress(self)
        self.setAccessibleName("Pages")
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        self._buttons: dict[str, NavButton] = {}
        self.run_chip = RunChip()
        self._build()

    def show_current(self, page: str) -> None:
        button = self._buttons[_UNDER.get(page, page)]
        button.setChecked(True)
        self._pages.ensureWidgetVisible(button)

    def set_narrow(self, narrow: bool) -> None:
        """Icons alone, their words as tooltips."""
        self._name.setVisible(not narrow)
        for button in self._buttons.values():
            button.set_narrow(narrow)
        self.run_chip.set_narrow(narrow)
        size = theme().size
        self.setFixedWidth(theme().px(size.rail_narrow_width if narrow else size.rail_width))
        margin = theme().px(8 if narrow else 12)
        self._layout.setContentsMargins(margin, theme().px(14), margin, theme().px(12))

    def _build(self) -> None:
        self._name = PlainLabel("QLoRA Studio", "brand")
        brand = QHBoxLayout()
        brand.setSpacing(theme().px(8))
        brand.setContentsMargins(theme().px(4), 0, 0, 0)
        brand.addWidget(Logo())
        brand.addWidget(self._name, 1)
        self._layout = QVBoxLayout(self)
        self._layout.setSpacing(theme().px(3))
        self._layout.addLayout(brand)
        self._layout.addSpacing(theme().px(14))
        self._layout.addWidget(self._build_pages(), 1)
        self._layout.addWidget(self.run_chip)
        self._layout.addSpacing(theme().px(6))
        self._layout.addWidget(self._button(*SETTINGS))
        self.set_narrow(False)

    def _build_pages(self) -> QScrollArea:
        """They scroll where large text in a low window leaves no room for all."""
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(theme().px(3))
        for page in PAGES:
            column.addWidget(self._button(*page))
        column.addStretch()
        self._pages = QScrollArea(widgetResizable=True)
        self._pages.setFrameShape(QFrame.Shape.NoFrame)
        self._pages.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._pages.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._pages.setWidget(inside)
        for ground in (inside, self._pages.viewport()):
            ground.setAutoFillBackground(False)
        return self._pages

    def _button(self, page: str, words: str, icon_name: str) -> NavButton:
        button = NavButton(words, icon_name, name=f"nav_{page}")
        button.clicked.connect(lambda: self.asked.emit(page))
        self._group.addButton(button)
        self._buttons[page] = button
        return button


class NavButton(RingedButton):
    """A page in the rail."""

    def __init__(self, words: str, icon_name: str, *, name: str) -> None:
        super().__init__()
        self._words = words
        self.setObjectName(name)
        self.setAccessibleName(words)
        self.setCheckable(True)
        self.setIcon(icon(icon_name, "muted", on="accent"))
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.set_narrow(False)

    def set_narrow(self, narrow: bool) -> None:
        side, gap = theme().px(18), 0 if narrow else theme().px(6)
        self.setText("" if narrow else self._words)
        self.setToolTip(self._words if narrow else "")
        self.setIconSize(QSize(side + gap, side))
        set_property(self, "narrow", narrow)


class RunChip(RingedButton):
    """The run that is going on, seen from every page; hidden when nothing trains."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("run_chip")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self._icon = IconLabel("activity", "accent", 16)
        self._word = PlainLabel("", "label")
        self._word.set_tone("accent")
        self._share = PlainLabel("", "label")
        self._name = ElidedLabel("", "label")
        self._meter = Meter(height=5, label="Share of the run that is done")
        self._left = PlainLabel("", "note")
        self._loss = PlainLabel("", "note")
        self._tips = ("", "")  # where the words stand on the chip, and where they don't
        self._build()
        self.hide()

    def show_run(self, word: str, name: str, *, folder: str, icon_name: str, tone: str) -> None:
        """What goes on, in a word. folder: its own name, for the tooltip."""
        self._icon.set_icon(icon_name, tone)
        self._word.setText(word)
        self._word.set_tone(tone)
        self._name.setText(name)
        self.setAccessibleName(f"{word}: {name}. Open it.")
        self._tips = folder, f"{word}: {name}\n{folder}"
        self._show_tip()
        self.show()

    def show_progress(self, step: int, total: int, seconds_left: float | None, loss: float | None) -> None:
        """total: 0 while it isn't known."""
        part = step / total if total else 0.0
        self._share.setText(figures.share(part) if total else "")
        self._meter.set_share(part)
        left = f"{figures.duration(seconds_left)} left" if seconds_left is not None else ""
        self._left.setText(left)
        self._loss.setText(f"loss {figures.loss(loss)}" if loss is not None else "")
        self.setAccessibleDescription(f"Step {step:,} of {total:,}. {left}")

    def set_narrow(self, narrow: bool) -> None:
        self._narrow = narrow
        for widget in (self._word, self._share, self._name, self._left, self._loss):
            widget.setVisible(not narrow)
        side = theme().px(4 if narrow else 11)
        self._layout.setContentsMargins(side, theme().px(9), side, theme().px(9))
        set_property(self, "narrow", narrow)
        self._show_tip()

    def _show_tip(self) -> None:
        self.setToolTip(plain_tooltip(self._tips[self._narrow]))

    def _build(self) -> None:
        self._layout = QVBoxLayout(self)
        self._layout.setSpacing(theme().px(5))
        head = QHBoxLayout()
        head.setSpacing(theme().px(6))
        head.addWidget(self._icon)
        head.addWidget(self._word, 1)
        head.addWidget(self._share)
        foot = QHBoxLayout()
        foot.addWidget(self._left, 1)
        foot.addWidget(self._loss)
        self._layout.addLayout(head)
        self._layout.addWidget(self._name)
        self._layout.addWidget(self._meter)
        self._layout.addLayout(foot)
        for child in self.findChildren(QWidget):
            child.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.set_narrow(False)

    def sizeHint(self) -> QSize:
        """As narrow as the rail has it; as high as what it shows, within the style sheet's own height."""
        edges = 2
        height = theme().px(42 if self._narrow else 90) + edges
        return QSize(self._layout.minimumSize().width(), height)
