"""What the charts show, as a picture or as a table of numbers."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QPoint, QSize
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QFileDialog, QMenu, QWidget

from qlora_studio.state.app import AppState
from qlora_studio.ui.pages.monitor_stretch import Stretch

PIXELS = 2  # of the picture, for each of the screen's


class ChartExport:
    """The menu at the button, the dialogs behind it, and the files."""

    def __init__(self, app: AppState, stretch: Stretch, area: QWidget, button: QWidget) -> None:
        """area: what the picture shows."""
        self._app = app
        self._stretch = stretch
        self._area = area
        self._button = button
        self._menu = QMenu(button)
        self._menu.setObjectName("monitor_export_menu")
        self._menu.addAction("Save picture (PNG)…", self._ask_for_picture)
        self._menu.addAction("Save numbers (CSV)…", self._ask_for_table)

    def open(self) -> None:
        """At the button."""
        self._menu.popup(self._button.mapToGlobal(QPoint(0, self._button.height() + 2)))

    def save_picture(self, path: str) -> None:
        """At twice the screen's pixels."""
        self._stretch.rest()
        picture = QPixmap(QSize(self._area.size()) * PIXELS)
        picture.setDevicePixelRatio(PIXELS)
        picture.fill(self._area.palette().window().color())
        self._area.render(picture)
        if picture.save(path, "PNG"):
            self._app.notices.say(f"Saved {Path(path).name}")
        else:
            self._app.notices.say(f"{path} could not be saved.", "bad")

    def save_table(self, path: str) -> None:
        """The steps in sight."""
        points = self._stretch.points
        first = points.places_before(self._stretch.first)
        last = points.places_before(self._stretch.last + 1)
        self._app.monitor.save_table(points, first, last, Path(path))

    def _ask_for_picture(self) -> None:
        self._ask("png", "Picture (*.png)").fileSelected.connect(self.save_picture)

    def _ask_for_table(self) -> None:
        self._ask("csv", "Table (*.csv)").fileSelected.connect(self.save_table)

    def _ask(self, suffix: str, kinds: str) -> QFileDialog:
        """Shown without holding the window up."""
        dialog = QFileDialog(self._button, "Save", "", kinds)
        dialog.setObjectName(f"monitor_export_{suffix}")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix(suffix)
        dialog.selectFile(f"{self._app.monitor.name or 'run'}.{suffix}")
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()
        return dialog
