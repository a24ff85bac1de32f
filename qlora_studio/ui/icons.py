"""Icons in the colour of their place, drawn from SVG when painted: they follow the theme by themselves."""

from __future__ import annotations

from functools import lru_cache

from PySide6.QtCore import QByteArray, QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QIcon, QIconEngine, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from qlora_studio.ui.indicators import colored_svg
from qlora_studio.ui.theme import Tone, device_pixel_ratio, theme

STROKE = 1.9

TONE_ICONS = {
    Tone.OK: "check",
    Tone.WARN: "triangle-alert",
    Tone.BAD: "circle-alert",
    Tone.ACCENT: "activity",
    Tone.NEUTRAL: "info",
}


def icon(name: str, color: str = "text", on: str = "", *, at_right: bool = False) -> QIcon:
    """A bundled icon. `color` and `on` (while checked) are tokens of the theme: "muted", "accent", ...

    Asked for wider than high, it stands at the left (or the right): the rest is the gap to a button's words.
    """
    return QIcon(_LucideEngine(name, color, on or color, at_right))


def icon_pixmap(name: str, color: str = "text", size: int = 16) -> QPixmap:
    """The icon as a picture, `size` logical pixels at a text size of 100 %."""
    return _drawn(name, theme().color(color).name(), theme().px(size), device_pixel_ratio())


def tone_color(tone: Tone) -> str:
    """The token that draws a tone."""
    return "muted" if tone is Tone.NEUTRAL else tone.value


class _LucideEngine(QIconEngine):
    def __init__(self, name: str, color: str, on: str, at_right: bool) -> None:
        super().__init__()
        self._name, self._color, self._on, self._at_right = name, color, on, at_right

    def paint(self, painter: QPainter, rect: QRect, mode: QIcon.Mode, state: QIcon.State) -> None:
        ratio = painter.device().devicePixelRatioF() if painter.device() else 1.0
        side = min(rect.width(), rect.height())
        across = rect.width() - side if self._at_right else 0
        corner = rect.topLeft() + QPoint(across, (rect.height() - side) // 2)
        painter.drawPixmap(corner, _drawn(self._name, self._ink(mode, state), side, ratio))

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        return self.scaledPixmap(size, mode, state, 1.0)

    def scaledPixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State, scale: float) -> QPixmap:
        """size: device pixels."""
        canvas = QPixmap(size)
        canvas.fill(Qt.GlobalColor.transparent)
        canvas.setDevicePixelRatio(scale)
        painter = QPainter(canvas)
        self.paint(painter, QRect(QPoint(0, 0), size / scale), mode, state)
        painter.end()
        return canvas

    def clone(self) -> QIconEngine:
        return _LucideEngine(self._name, self._color, self._on, self._at_right)

    def _ink(self, mode: QIcon.Mode, state: QIcon.State) -> str:
        if mode is QIcon.Mode.Disabled:
            token = "disabled"
        else:
            token = self._on if state is QIcon.State.On else self._color
        return theme().color(token).name()


@lru_cache(maxsize=512)
def _drawn(name: str, color: str, side: int, ratio: float) -> QPixmap:
    """side: logical pixels."""
    pixmap = QPixmap(round(side * ratio), round(side * ratio))
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    svg = QSvgRenderer(QByteArray(colored_svg(name, color, STROKE).encode()))
    svg.render(painter, QRectF(pixmap.rect()))
    painter.end()
    pixmap.setDevicePixelRatio(ratio)
    return pixmap
