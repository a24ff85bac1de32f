"""What little moves: a notice or a question that fades in, unless the person wants less motion."""

from __future__ import annotations

from PySide6.QtCore import QAbstractAnimation, QPropertyAnimation
from PySide6.QtWidgets import QGraphicsOpacityEffect, QWidget

from qlora_studio.ui.theme import theme

FADE_MS = 120


def fade_in(widget: QWidget) -> None:
    """From nothing to whole; at once where motion is reduced."""
    if theme().reduced_motion:
        return
    effect = QGraphicsOpacityEffect(widget)
    widget.setGraphicsEffect(effect)
    fading = QPropertyAnimation(effect, b"opacity", widget)
    fading.setDuration(FADE_MS)
    fading.setStartValue(0.0)
    fading.setEndValue(1.0)
    fading.finished.connect(lambda: effect.setEnabled(False))  # an effect in force blurs text
    fading.start(QAbstractAnimation.DeletionPolicy.DeleteWhenStopped)
