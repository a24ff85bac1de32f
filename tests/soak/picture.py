"""The picture of a soak: memory, threads, handles and widgets over time, in the window's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication

from qlora_studio.ui.theme import ThemeChoice, theme
from tests.soak.meter import Reading

SIZE = (1100, 760)

# Title, and the figures drawn in it: name in a Reading, words, what it is divided by.
PANELS = (
    ("Window, MB", (("window_rss", "RSS", 1e6), ("window_own", "own", 1e6))),
    ("Engine, MB", (("engine_rss", "RSS", 1e6), ("engine_own", "own", 1e6))),
    (
        "Threads and open file handles",
        (
            ("window_threads", "window, threads", 1),
            ("window_handles", "window, handles", 1),
            ("engine_threads", "engine, threads", 1),
            ("engine_handles", "engine, handles", 1),
        ),
    ),
    ("Widgets", (("widgets", "", 1),)),
)


def draw(readings: Sequence[Reading], file: Path) -> None:
    """A PNG. Dots are readings at rest; at an engine's end its line is broken."""
    qt = QApplication.instance() or QApplication([])
    theme().set_choice(ThemeChoice.LIGHT)
    colors = theme().colors
    pg.setConfigOptions(background=colors.surface, foreground=colors.muted, antialias=True)
    view = pg.GraphicsLayoutWidget()
    view.resize(*SIZE)
    for place, (title, lines) in enumerate(PANELS):
        plot = view.addPlot(row=place // 2, col=place % 2)
        plot.setTitle(title, color=colors.text, size="11pt")
        plot.setLabel("bottom", "minutes")
        plot.addLegend(offset=(-8, 8), labelTextColor=colors.text, colCount=2)
        highest = 0.0
        for number, (name, words, unit) in enumerate(lines):
            color = colors.series[number]
            minutes, values = _line(readings, name, unit)
            highest = max([highest, *(value for value in values if value == value)])
            plot.plot(minutes, values, pen=pg.mkPen(color, width=1.5), connect="finite", name=words or None)
            rest = [reading for reading in readings if reading.at_rest]
            minutes, values = _line(rest, name, unit)
            plot.plot(minutes, values, pen=None, symbol="o", symbolSize=4, symbolBrush=color, symbolPen=None)
        plot.setYRange(0, highest * 1.35)  # the legend above the lines
        plot.showGrid(y=True, alpha=0.25)
    view.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen)
    view.show()
    qt.processEvents()
    view.grab().save(str(file))


def _line(readings: Sequence[Reading], name: str, unit: float) -> tuple[list[float], list[float]]:
    """Minutes and values; not a number where there was no engine, or another one than before."""
    minutes, values = [], []
    before = 0
    for reading in readings:
        of_engine = name.startswith("engine_")
        if of_engine and (not reading.engine_pid or reading.engine_pid != before):
            minutes.append(reading.seconds / 60)
            values.append(float("nan"))
        before = reading.engine_pid
        if not of_engine or reading.engine_pid:
            minutes.append(reading.seconds / 60)
            values.append(getattr(reading, name) / unit)
    return minutes, values
