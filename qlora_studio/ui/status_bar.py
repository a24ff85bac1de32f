"""The line at the foot of the window: the engine in words, network switch, disk, card, past notices."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QPoint, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QMenu, QWidget

from qlora_studio.memory.devices import CardReading
from qlora_studio.plain_text import visible_line
from qlora_studio.state.app import AppState
from qlora_studio.state.engine import Doing
from qlora_studio.ui import figures
from qlora_studio.ui.dress import Dress
from qlora_studio.ui.icons import tone_color
from qlora_studio.ui.theme import Tone, theme
from qlora_studio.ui.widgets import (
    ElidedLabel,
    IconButton,
    IconLabel,
    LinkButton,
    Meter,
    PlainLabel,
    Separator,
)
from qlora_studio.ui.widgets.text_size import at_text_size, rescale_layouts

_TONE_ICONS = {
    Tone.OK: "circle-check",
    Tone.ACCENT: "activity",
    Tone.WARN: "triangle-alert",
    Tone.BAD: "circle-alert",
    Tone.NEUTRAL: "info",
}
_DOING_ICONS = {
    Doing.CHATTING: "messages-square",
    Doing.SAVING: "save",
    Doing.EXPORTING: "package-check",
    Doing.MEASURING: "gauge",
    Doing.LOADING: "hourglass",
    Doing.STARTING: "hourglass",
}
_NOTICES_SHOWN = 20
NARROW_BELOW = 720  # px at 100 %
NO_GPU = "No GPU, training runs on the processor, slowly"
LOG_FILE = "engine.log"  # in the run's folder


class StatusBar(QFrame):
    """What goes on, in words, with the two buttons that a silent or ended engine needs."""

    def __init__(self, app: AppState, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._app = app
        self._run: Path | None = None  # that trained last
        self._name = ""  # of it
        self._ended = False  # the engine, by itself, under that run
        self._drawn_at = theme().text_size  # per cent
        self.setObjectName("status_bar")
        Dress(self)
        self.setAccessibleName("Status")
        self._build()
        self._bind()
        self._show_engine()
        self._show_offline()
        self._show_machine()

    def _build(self) -> None:
        self._engine_icon = IconLabel("circle-check", "ok")
        self._engine = ElidedLabel("", "status", name="status_engine")
        self._wait = LinkButton("Wait", name="status_wait", small=True)
        self._stop = LinkButton("Stop it", name="status_stop_engine", small=True)
        self._resume = LinkButton("Resume", name="status_resume", small=True)
        self._log = LinkButton("Show log", name="status_show_log", small=True)
        self._offline = _StatusPart("wifi-off", "status_offline")
        self._disk = _StatusPart("hard-drive", "status_disk")
        self._gpu = _GpuPart()
        self._bell = IconButton("bell", "Notices", name="status_bell", small=True)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(theme().px(16), 0, theme().px(10), 0)
        layout.setSpacing(theme().px(8))
        for widget in (self._engine_icon, self._engine, self._wait, self._stop, self._resume, self._log):
            layout.addWidget(widget)
        layout.addStretch(1)
        for part in (self._offline, self._disk, self._gpu, _upright(), self._bell):
            layout.addWidget(part)
        self._on_theme_changed()

    def _bind(self) -> None:
        self._app.engine.changed.connect(self._show_engine)
        self._app.engine.ended.connect(self._on_engine_ended)
        self._app.launcher.changed.connect(self._show_engine)
        self._app.machine.changed.connect(self._show_machine)
        self._app.preferences.changed.connect(self._show_offline)
        self._wait.clicked.connect(self._on_wait)
        self._stop.clicked.connect(self._app.engine.kill)
        self._resume.clicked.connect(self._on_resume)
        self._log.clicked.connect(self._on_show_log)
        self._bell.clicked.connect(self._show_notices)
        theme().changed.connect(self._on_theme_changed)

    def _show_engine(self) -> None:
        engine = self._app.engine
        tone, words = Tone(engine.tone), engine.words
        name = _DOING_ICONS.get(engine.doing, _TONE_ICONS[tone]) if tone is Tone.ACCENT else _TONE_ICONS[tone]
        if self._app.launcher.busy and engine.silent_s == 0:  # the reader works, the engine rests or unpacks
            tone, name, words = Tone.ACCENT, "hourglass", self._preparing_words()
        self._engine_icon.set_icon(name, tone_color(tone))
        self._engine.setText(words)
        silent = engine.silent_s > 0
        self._wait.setVisible(silent)
        self._stop.setVisible(silent)
        if engine.run is not None:
            self._run, self._name = engine.run, engine.run_name
        self._engine.set_tip(engine.run.name if engine.run is not None else "")
        self._ended = self._ended and tone is Tone.BAD
        self._resume.setVisible(self._ended)
        self._log.setVisible(self._ended)

    def _preparing_words(self) -> str:
        launcher = self._app.launcher
        return f"Preparing {launcher.name}: {launcher.words[:1].lower()}{launcher.words[1:]}"

    def _on_engine_ended(self) -> None:
        self._ended = self._run is not None
        self._show_engine()

    def _on_resume(self) -> None:
        if self._run is not None:
            self._app.launcher.resume(self._run, self._name)
            self._app.show_page("monitor", self._run)

    def _on_show_log(self) -> None:
        if self._run is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._run / LOG_FILE)))

    def _on_wait(self) -> None:
        """Hides the question until the next heartbeat finds the engine silent still."""
        self._wait.hide()
        self._stop.hide()

    def _show_offline(self) -> None:
        offline = self._app.preferences.values.offline
        self._offline.show_text("Offline" if offline else "")
        self._offline.setToolTip("Nothing leaves this machine. The switch is in Settings." if offline else "")

    def _show_machine(self) -> None:
        free = self._app.machine.free_bytes
        self._disk.show_text(f"{figures.in_gb(free)} free" if free is not None else "")
        self._gpu.show_card(self._app.machine.card)

    def _show_notices(self) -> None:
        menu = QMenu(self)
        menu.setObjectName("status_notices")
        notices = list(self._app.notices.last)[-_NOTICES_SHOWN:]
        for notice in reversed(notices):
            words = visible_line(notice.text, 160).replace("&", "&&")
            menu.addAction(f"{figures.ago(notice.when)}:  {words}").setEnabled(False)
        if not notices:
            menu.addAction("No notices yet").setEnabled(False)
        menu.adjustSize()
        corner = self._bell.mapToGlobal(QPoint(self._bell.width(), 0))
        menu.aboutToHide.connect(menu.deleteLater)
        menu.popup(corner - QPoint(menu.sizeHint().width(), menu.sizeHint().height() + 4))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_width()

    def _fit_width(self) -> None:
        self._gpu.set_narrow(self.width() < theme().px(NARROW_BELOW))

    def _on_theme_changed(self) -> None:
        size = theme().text_size
        if size != self._drawn_at:
            rescale_layouts(self, size / self._drawn_at)
            self._drawn_at = size
        self.setFixedHeight(theme().px(theme().size.status_height))
        self._fit_width()


class _StatusPart(QWidget):
    """An icon and a word, with the line that parts it from the next; hidden while it has nothing to say."""

    def __init__(self, icon_name: str, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self._words = PlainLabel("", "muted")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(6))
        layout.addWidget(IconLabel(icon_name))
        layout.addWidget(self._words)
        layout.addSpacing(theme().px(2))
        layout.addWidget(_upright())

    def show_text(self, text: str) -> None:
        self._words.setText(text)
        self.setAccessibleName(text)
        self.setVisible(bool(text))


class _GpuPart(QWidget):
    """The card's name, how full it is, load, warmth and power; without a card, the words that say so."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("status_gpu")
        self._card: CardReading | None = None
        self._narrow = False
        self._name = ElidedLabel("", "status")
        self._meter = Meter(height=8, label="Memory of the card in use")
        at_text_size(self._meter, self._meter.setFixedWidth, 116)
        self._memory = PlainLabel("", "status")
        self._rest = PlainLabel("", "muted")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, theme().px(2), 0)
        layout.setSpacing(theme().px(8))
        layout.addWidget(IconLabel("cpu"))
        layout.addWidget(self._name)
        layout.addWidget(self._meter, 0, Qt.AlignmentFlag.AlignVCenter)
        layout.addWidget(self._memory)
        layout.addWidget(self._rest)

    def set_narrow(self, narrow: bool) -> None:
        """In few words, so that those of the engine have room."""
        self._narrow = narrow
        self.show_card(self._card)

    def show_card(self, card: CardReading | None) -> None:
        self._card = card
        for widget in (self._meter, self._memory, self._rest):
            widget.setVisible(card is not None)
        if card is None:
            self._name.setText(NO_GPU.partition(",")[0] if self._narrow else NO_GPU)
            self._name.set_tip(NO_GPU if self._narrow else "")
            self.setAccessibleName(NO_GPU)
            return
        self._name.set_tip("")
        self._name.setText(visible_line(card.name, 60))
        self._meter.set_share(card.used_bytes / card.total_bytes if card.total_bytes else 0.0)
        total = figures.in_gib(card.total_bytes)
        self._memory.setText(f"{card.used_bytes / 2**30:.1f} / {total}")
        self._rest.setText("   ".join(_readings(card)))
        self.setAccessibleName(f"{card.name}: {self._memory.text()} in use, {self._rest.text()}")


def _readings(card: CardReading) -> list[str]:
    """What the driver told: some cards tell nothing."""
    readings = []
    if card.load is not None:
        readings.append(figures.share(card.load))
    if card.temperature_c is not None:
        readings.append(f"{card.temperature_c:.0f}{figures.THIN}°C")
    if card.power_w is not None:
        readings.append(f"{card.power_w:.0f}{figures.THIN}W")
    return readings


def _upright() -> Separator:
    line = Separator(upright=True)
    at_text_size(line, line.setFixedHeight, 14)
    return line
