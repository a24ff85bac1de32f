"""A short piece of a chart's line, for legends and for the tables beside a chart."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPixmap
from PySide6.QtWidgets import QSizePolicy, QWidget

from qlora_studio.ui.theme import device_pixel_ratio, theme
from qlora_studio.ui.widgets.chart import series_pen

_SIZE = (20, 12)  # px


class LineSample(QWidget):
    """color: a token of the theme, or the number of a series, whose dashes it has unless it is `solid`."""

    def __init__(
        self,
        color: str | int,
        width: float = 2.0,
        *,
        marker: bool = False,
        solid: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._color, self._width, self._marker, self._solid = color, width, marker, solid
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self._on_theme_changed)

    def sizeHint(self) -> QSize:
        return QSize(*(theme().px(side) for side in _SIZE))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        pen = _pen(self._color, self._width, self._solid)
        _draw(painter, self.size(), pen, self._marker)

    def _on_theme_changed(self) -> None:
        self.updateGeometry()
        self.update()


def line_pixmap(color: str | int, width: float = 2.0, *, marker: bool = False) -> QPixmap:
    """The same as a picture, for a cell of a table."""
    size = QSize(*(theme().px(side) for side in _SIZE))
    ratio = device_pixel_ratio()
    picture = QPixmap(size * ratio)
    picture.setDevicePixelRatio(ratio)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    _draw(painter, size, _pen(color, width, solid=False), marker)
    painter.end()
    return picture


def _pen(color: str | int, width: float, solid: bool) -> QPen:
    if isinstance(color, int) and not solid:
        return series_pen(color, width)
    series = theme().colors.series
    return QPen(QColor(series[color]) if isinstance(color, int) else theme().color(color), width)


def _draw(painter: QPainter, size: QSize, pen: QPen, marker: bool) -> None:
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    painter.setPen(pen)
    middle = size.height() / 2
    painter.drawLine(QPointF(0, middle), QPointF(size.width(), middle))
    if marker:
        painter.setPen(QPen(pen.color(), 1.6))
        painter.setBrush(theme().color("surface"))
        painter.drawEllipse(QPointF(size.width() / 2, middle), 3.2, 3.2)
