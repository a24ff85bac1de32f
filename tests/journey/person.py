"""A person at the window: sees what is visible, clicks and types; and a clock for where it stands still."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PySide6.QtCore import QCoreApplication, QEvent, QEventLoop, QObject, Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QFileDialog,
    QLabel,
    QLineEdit,
    QWidget,
)

from qlora_studio.ui.shell import Shell

PATIENCE_S = 240.0  # the machine of the checks does other things meanwhile
TICK_MS = 16

W = TypeVar("W", bound=QWidget)


class Person:
    """Knows widgets by their object names. clicks: how often they clicked so far."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.clicks = 0

    def sees(self, name: str, kind: type[W] = QWidget) -> W | None:  # type: ignore[assignment]
        """In the window, or in what popped up over it."""
        for top in (self._shell, *QApplication.topLevelWidgets()):
            for widget in (top, *top.findChildren(kind, name)):
                if widget.objectName() == name and isinstance(widget, kind) and widget.isVisible():
                    return widget
        return None

    def waits_for(self, name: str, kind: type[W] = QWidget) -> W:  # type: ignore[assignment]
        """Until it is seen."""
        self.waits_until(lambda: self.sees(name, kind) is not None, name)
        widget = self.sees(name, kind)
        assert widget is not None
        return widget

    def waits_until(self, seen: Callable[[], bool], what: str) -> None:
        """The window lives on meanwhile."""
        end = time.monotonic() + PATIENCE_S
        while not seen():
            assert time.monotonic() < end, f"waited {PATIENCE_S:.0f} s for {what}"
            QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents, 20)
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def waits(self, seconds: float) -> None:
        """Looks on."""
        end = time.monotonic() + seconds
        self.waits_until(lambda: time.monotonic() >= end, "nothing")

    def reads(self, name: str) -> str:
        """What is written there, and in what it holds."""
        widget = self.sees(name)
        if widget is None:
            return ""
        labels = [widget] if isinstance(widget, QLabel) else widget.findChildren(QLabel)
        return " ".join(label.text() for label in labels if label.isVisible())

    def clicks_on(self, name: str) -> None:
        """Once it can be clicked."""
        button = self.waits_for(name, QAbstractButton)
        self.waits_until(button.isEnabled, f"{name} to be enabled")
        self.clicks += 1
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def writes(self, name: str, text: str) -> None:
        """In place of what stands there."""
        field = self.waits_for(name)
        field.setFocus()
        line = field.findChild(QLineEdit) if isinstance(field, QAbstractSpinBox) else field
        assert isinstance(line, QLineEdit)
        line.selectAll()
        QTest.keyClicks(line, text)
        QTest.keyClick(line, Qt.Key.Key_Return)

    def picks_file(self, dialog_name: str, file: Path) -> None:
        """In the dialog that opened, by its path: pasted, as the dialog completes what is typed too soon."""
        dialog = self.waits_for(dialog_name, QFileDialog)
        line = dialog.findChild(QLineEdit, "fileNameEdit")
        assert isinstance(line, QLineEdit)
        line.insert(str(file))
        self.waits_until(lambda: dialog.selectedFiles() == [str(file)], "the file to be found")
        QTest.keyClick(line, Qt.Key.Key_Return)
        self.waits_until(lambda: self.sees(dialog_name) is None, "the dialog to close")


class Gaps(QObject):
    """How long the window's event loop needed from one tick of 16 ms to the next.

    wall_s: as the person waits; on a busy machine some of it is other programs' doing
    own_s:  of the processor, by the window's own thread: nobody's doing but ours
    """

    def __init__(self) -> None:
        super().__init__()
        gc.collect()
        gc.freeze()  # what earlier tests left in this process is no burden of the window's
        self.wall_s: list[float] = []
        self.own_s: list[float] = []
        self._last = (time.perf_counter(), time.thread_time())
        self._timer = QTimer(self, interval=TICK_MS, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._on_tick)
        self._timer.start()

    def stop(self) -> None:
        """No more ticks."""
        self._timer.stop()
        gc.unfreeze()

    def _on_tick(self) -> None:
        now = (time.perf_counter(), time.thread_time())
        self.wall_s.append(now[0] - self._last[0])
        self.own_s.append(now[1] - self._last[1])
        self._last = now


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them don't exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
