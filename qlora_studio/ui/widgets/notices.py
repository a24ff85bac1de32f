"""What the window tells: a banner that stays on its page, a toast that goes by itself."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QTimer, Signal
from PySide6.QtGui import QEnterEvent, QFontMetrics
from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from qlora_studio.ui.dress import Dress
from qlora_studio.ui.icons import TONE_ICONS, tone_color
from qlora_studio.ui.theme import Tone, theme
from qlora_studio.ui.widgets.buttons import IconButton, LinkButton
from qlora_studio.ui.widgets.cards import IconLabel
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.motion import fade_in
from qlora_studio.ui.widgets.text import PlainLabel, set_property

TOAST_SECONDS = 6
MOST_TOASTS = 3
_TOAST_LINE = 250  # px of words on one line, beside icon and buttons
MOST_BESIDE = 3  # buttons beside the words of a banner

_BANNER_ICONS = TONE_ICONS | {Tone.OK: "circle-check", Tone.ACCENT: "info"}


class Banner(QFrame):
    """Says what is wrong on this page and offers buttons that mend it. Hidden until `show_text`.

    closed: the person put it away
    """

    closed = Signal()

    def __init__(self, *, name: str = "banner", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._icon = IconLabel("info", "accent", 18)
        self._text = PlainLabel(wrap=True)
        self._text.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self._close = IconButton("x", "Close this notice", name=f"{name}_close", small=True)
        self._close.clicked.connect(self._on_close)
        self._buttons: list[QWidget] = []
        self._line = QHBoxLayout()
        self._line.setSpacing(theme().px(10))
        self._line.addWidget(self._icon)
        self._line.addWidget(self._text, 1)
        self._line.addWidget(self._close)
        self._below = Flow(gap=8, line_gap=6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(theme().px(14), theme().px(7), theme().px(8), theme().px(7))
        layout.setSpacing(theme().px(6))
        layout.addLayout(self._line)
        layout.addLayout(self._below)
        self.hide()

    def show_text(self, text: str, tone: str = Tone.BAD, *buttons: QWidget, closable: bool = True) -> None:
        """Replaces what it said; its old buttons are deleted. Many buttons stand below the text."""
        for old in self._buttons:
            (self._below if self._below.indexOf(old) >= 0 else self._line).removeWidget(old)
            old.setParent(None)
            old.deleteLater()
        self._buttons = list(buttons)
        for at, button in enumerate(buttons):
            if len(buttons) > MOST_BESIDE:
                self._below.addWidget(button)
            else:
                self._line.insertWidget(2 + at, button)
        self._text.setText(text)
        self.setAccessibleName(text)
        self._icon.set_icon(_BANNER_ICONS[Tone(tone)], tone_color(Tone(tone)))
        set_property(self, "tone", Tone(tone).value)
        self._close.setVisible(closable)
        self.show()

    def clear(self) -> None:
        self.show_text("")
        self.hide()

    def text(self) -> str:
        return self._text.text()

    def _on_close(self) -> None:
        self.hide()
        self.closed.emit()


class Toast(QFrame):
    """ "Copied", "Saved", or "Moved to the bin" with [Undo]; waits while the pointer is on it."""

    gone = Signal()

    def __init__(
        self,
        text: str,
        tone: str = Tone.OK,
        action: str = "",
        on_action: Callable[[], object] | None = None,
        *,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("toast")
        Dress(self)
        self.setAccessibleName(text)
        too_long = QFontMetrics(theme().font("body")).horizontalAdvance(text) > theme().px(_TOAST_LINE)
        self.text = PlainLabel(text, wrap=too_long)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(theme().px(14), theme().px(8), theme().px(8), theme().px(8))
        layout.setSpacing(theme().px(10))
        layout.addWidget(IconLabel(_BANNER_ICONS[Tone(tone)], tone_color(Tone(tone))))
        layout.addWidget(self.text, 1)
        self._on_action = on_action
        if action:
            button = LinkButton(action, name="toast_action")
            button.clicked.connect(self._on_clicked)
            layout.addWidget(button)
        close = IconButton("x", "Close this notice", name="toast_close", small=True)
        close.clicked.connect(self._end)
        layout.addWidget(close)
        self._timer = QTimer(self, singleShot=True, interval=TOAST_SECONDS * 1000)
        self._timer.timeout.connect(self._end)
        self._timer.start()

    def enterEvent(self, event: QEnterEvent) -> None:
        self._timer.stop()
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        self._timer.start()
        super().leaveEvent(event)

    def _on_clicked(self) -> None:
        if self._on_action is not None:
            self._on_action()
        self._end()

    def _end(self) -> None:
        self._timer.stop()
        self.hide()
        self.gone.emit()
        self.deleteLater()


class ToastCorner(QObject):
    """Keeps the toasts of a window stacked at its bottom right, three at most."""

    def __init__(self, window: QWidget, *, bottom: int) -> None:
        """bottom: pixels kept free below, for the status bar."""
        super().__init__(window)
        self._window, self._bottom = window, bottom
        self._toasts: list[Toast] = []
        window.installEventFilter(self)

    def show(
        self, text: str, tone: str = Tone.OK, action: str = "", on_action: Callable[[], object] | None = None
    ) -> Toast:
        while len(self._toasts) >= MOST_TOASTS:
            self._toasts[0]._end()
        toast = Toast(text, tone, action, on_action, parent=self._window)
        toast.gone.connect(lambda: self._forget(toast))
        self._toasts.append(toast)
        toast.show()
        self._place()
        fade_in(toast)
        return toast

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.Resize:
            self._place()
        return False

    def keep_free(self, bottom: int) -> None:
        """Of a page whose buttons stand at its foot, these too."""
        self._bottom = bottom
        self._place()

    def _forget(self, toast: Toast) -> None:
        if toast in self._toasts:
            self._toasts.remove(toast)
            self._place()

    def _place(self) -> None:
        bottom = self._window.height() - theme().px(self._bottom)
        for toast in reversed(self._toasts):
            toast.setMaximumWidth(min(theme().px(420), self._window.width() - 32))
            toast.adjustSize()
            bottom -= toast.height() + 8
            toast.move(self._window.width() - toast.width() - theme().px(16), bottom)
            toast.raise_()
