"""The mark of the application: a falling loss beside the lines of a text, in the accent colour."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QIcon, QPainter, QPainterPath, QPaintEvent, QPen, QPixmap
from PySide6.QtWidgets import QSizePolicy, QWidget

from qlora_studio.ui.theme import theme


class Logo(QWidget):
    """26 px square."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(theme().px(26), theme().px(26))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        _draw(painter, min(self.width(), self.height()))


def window_icon() -> QIcon:
    """For the task bar and the tray."""
    found = QIcon()
    for side in (16, 24, 32, 48, 64, 128, 256):
        pixmap = QPixmap(side, side)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        _draw(painter, side)
        painter.end()
        found.addPixmap(pixmap)
    return found


def _draw(painter: QPainter, side: int) -> None:
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.scale(side / 26, side / 26)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(theme().color("accent"))
    painter.drawRoundedRect(QRectF(0, 0, 26, 26), 7, 7)
    ink = QPen(theme().color("on_accent"), 2.4)
    ink.setCapStyle(Qt.PenCapStyle.RoundCap)
    painter.setPen(ink)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    curve = QPainterPath(QPointF(6.5, 6.5))
    curve.cubicTo(QPointF(6.5, 15), QPointF(9.5, 19.5), QPointF(19.5, 19.5))
    painter.drawPath(curve)
    painter.drawLine(QPointF(12.5, 7.5), QPointF(19.5, 7.5))
    painter.drawLine(QPointF(13.5, 13.2), QPointF(19.5, 13.2))
