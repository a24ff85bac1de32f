"""Bars that show how full something is: one part, or stacked parts with the line they must stay under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from qlora_studio.ui.theme import theme


@dataclass(frozen=True)
class Part:
    """A stretch of a stacked bar. color: a token of the theme, such as "vram_weights"."""

    label: str
    amount: float
    color: str


class Meter(QWidget):
    """A thin bar, 0 to 1. Below 0: unknown, drawn empty; say in words what is done so far."""

    def __init__(
        self, *, name: str = "", label: str = "", height: int = 8, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName(label)
        self._share = 0.0
        self._color = "accent"
        self._height = height
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self._on_theme_changed)

    def set_share(self, share: float, color: str = "accent") -> None:
        share = min(max(share, 0.0), 1.0)
        if (share, color) != (self._share, self._color):
            self._share, self._color = share, color
            self.setAccessibleDescription(f"{share:.0%}")
            self.update()

    def share(self) -> float:
        return self._share

    def sizeHint(self) -> QSize:
        return QSize(theme().px(120), theme().px(self._height))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme().px(24), theme().px(self._height))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setClipPath(_rounded(QRectF(self.rect()), self.height() / 2))
        painter.fillRect(self.rect(), theme().color("hover" if not theme().is_dark else "border"))
        painter.fillRect(QRectF(0, 0, self.width() * self._share, self.height()), theme().color(self._color))

    def _on_theme_changed(self) -> None:
        self.updateGeometry()
        self.update()


class StackedBar(QWidget):
    """Parts beside each other in fixed order, a limit line, and the room beyond it hatched.

    ghost: a further amount drawn faint behind the parts, to show what a change would cost
    """

    def __init__(
        self, *, name: str = "", label: str = "", height: int = 26, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._label = label
        self._parts: tuple[Part, ...] = ()
        self._limit = self._total = self._ghost = 0.0
        self._height = height
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self._on_theme_changed)

    def set_parts(self, parts: Sequence[Part], *, limit: float, total: float, ghost: float = 0.0) -> None:
        """limit: where the line stands; total: the whole width. All in one unit."""
        self._parts, self._limit, self._ghost = tuple(parts), limit, ghost
        needed = sum(part.amount for part in parts) + max(ghost, 0.0)
        self._total = max(total, needed * 1.02, limit * 1.02)
        spoken = ", ".join(f"{part.label} {part.amount:.1f}" for part in parts)
        self.setAccessibleName(f"{self._label}: {spoken}; limit {limit:.1f}")
        self.update()

    def x_of(self, amount: float) -> int:
        """Where an amount stands, for labels under the bar."""
        return round(self.width() * amount / self._total) if self._total else 0

    def sizeHint(self) -> QSize:
        return QSize(theme().px(200), theme().px(self._height))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme().px(80), theme().px(self._height))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        whole = QRectF(self.rect())
        painter.setClipPath(_rounded(whole, theme().px(5)))
        painter.fillRect(whole, theme().color("hover"))
        x = 0.0
        for part in self._parts:
            width = self._width_of(part.amount)
            painter.fillRect(QRectF(x, 0, width, whole.height()), theme().color(part.color))
            x += width
            painter.fillRect(QRectF(x - 1, 0, 1.5, whole.height()), theme().color("surface"))
        if self._ghost > 0:
            ghost = QRectF(x, 0, self._width_of(self._ghost), whole.height())
            painter.fillRect(ghost, QBrush(theme().color("accent"), Qt.BrushStyle.Dense4Pattern))
        if self._limit > 0:
            self._paint_limit(painter, whole)

    def _paint_limit(self, painter: QPainter, whole: QRectF) -> None:
        x = self._width_of(self._limit)
        beyond = QRectF(x, 0, whole.width() - x, whole.height())
        if sum(part.amount for part in self._parts) <= self._limit:
            painter.fillRect(beyond, theme().color("bad_soft"))
        painter.fillRect(beyond, QBrush(theme().color("limit"), Qt.BrushStyle.BDiagPattern))
        painter.setPen(QPen(theme().color("limit"), 2))
        painter.drawLine(round(x), 0, round(x), self.height())

    def _width_of(self, amount: float) -> float:
        return self.width() * amount / self._total if self._total else 0.0

    def _on_theme_changed(self) -> None:
        self.updateGeometry()
        self.update()


class Swatch(QWidget):
    """The square of colour in a legend, or of a pattern."""

    def __init__(
        self,
        color: str,
        pattern: Qt.BrushStyle = Qt.BrushStyle.SolidPattern,
        *,
        side: int = 11,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._color, self._pattern, self._side = color, pattern, side
        self._resize()
        theme().changed.connect(self._resize)

    def _resize(self) -> None:
        self.setFixedSize(theme().px(self._side), theme().px(self._side))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillPath(_rounded(QRectF(self.rect()), 2), QBrush(theme().color(self._color), self._pattern))


def _rounded(rect: QRectF, radius: float) -> QPainterPath:
    path = QPainterPath()
    path.addRoundedRect(rect, radius, radius)
    return path
