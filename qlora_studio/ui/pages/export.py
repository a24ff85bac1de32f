"""Export: a file that provably behaves like the adapter just tried."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QAction, QDesktopServices, QKeySequence
from PySide6.QtWidgets import QFileDialog, QWidget

from qlora_studio.state.app import AppState
from qlora_studio.ui.page import Page
from qlora_studio.ui.pages.export_cards import (
    WHILE_BUSY,
    CheckCard,
    KindCard,
    ProgressCard,
    ReportCard,
    SourceCard,
    WhereCard,
)
from qlora_studio.ui.pages.export_elsewhere import ElsewhereCard
from qlora_studio.ui.widgets import (
    DangerButton,
    EmptyState,
    PlainLabel,
    Popover,
    PrimaryButton,
    SecondaryButton,
)
from qlora_studio.ui.widgets.allowed import allow, keep_focus

NO_RUN, LOOKING = "No finished run", "Looking for finished runs"


class ExportPage(Page):
    """What, as what and where to on the left; the check and its result on the right."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "export", "Export", action_bar=True)
        self._state = app.export
        self._build_page()
        self._bind()
        self._refresh()

    def opened(self, what: object) -> None:
        """what: the folder of a run to export, or None."""
        self._state.refresh(what if isinstance(what, Path) else None)

    def rescan(self) -> None:
        """F5: looks for runs that finished meanwhile."""
        self._state.refresh()

    def escape(self) -> bool:
        """Esc asks whether to stop."""
        if self._state.busy and self._stop.isEnabled():
            self._on_stop()
            return True
        return False

    # Layout -----------------------------------------------------------------------------------------

    def _build_page(self) -> None:
        self._source, self._kind, self._where = SourceCard(), KindCard(), WhereCard()
        self._progress, self._check, self._report = ProgressCard(), CheckCard(), ReportCard()
        self._elsewhere = ElsewhereCard()
        self._to_runs = PrimaryButton("Runs", "chart-line", name="export_to_runs")
        self._empty = EmptyState(
            "package-check",
            NO_RUN,
            "A run can be exported once it finished or was stopped.",
            self._to_runs,
            name="export_empty",
        )
        self._cards = (self._source, self._kind, self._where, self._check)
        for card in (self._source, self._kind, self._where, self._progress, self._elsewhere):
            self.main.addWidget(card)
        self._below = QWidget()  # takes the rest of the height, so that no card does
        self.main.addWidget(self._below, 1)
        self.main.addWidget(self._empty, 1)
        self.side.addWidget(self._check)
        self.side.addWidget(self._report)
        self.side.addStretch(1)
        self._build_actions()
        self._build_menu()

    def _build_actions(self) -> None:
        self._waits = PlainLabel("", "muted", wrap=True, name="export_waits_for")
        self._pause = SecondaryButton("Pause the run", "pause", name="export_pause_training")
        self._stop = DangerButton("Stop…", "square", name="export_stop")
        self._start = PrimaryButton("Export and check", "package-check", name="export_start")
        self.action_bar.addWidget(self._waits, 1)
        self.action_bar.addWidget(self._pause)
        self.action_bar.addWidget(self._stop)
        self.action_bar.addWidget(self._start)

    def _build_menu(self) -> None:
        for words, keys, slot in (
            ("Export and check", "Ctrl+Return", self._state.start),
            ("Stop…", "", self._on_stop),
        ):
            action = QAction(words, self)
            if keys:
                action.setShortcut(QKeySequence(keys))
                action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(slot)
            self.addAction(action)
            self.menu.addAction(action)
            if not keys:
                self._stop_action = action

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        state = self._state
        state.changed.connect(self._refresh)
        state.stopped.connect(lambda: self.app.notices.say("Export stopped, nothing was left behind"))
        self._source.chosen.connect(state.choose)
        self._source.at_step.connect(state.set_checkpoint)
        self._kind.chosen.connect(state.set_kind)
        self._kind.quant.chosen.connect(state.set_quant)
        self._kind.merged_quant.chosen.connect(state.set_merged_quant)
        self._where.folder.textEdited.connect(state.set_folder)
        self._where.choose.clicked.connect(self._on_choose_folder)
        self._check.prompts.valueChanged.connect(state.set_prompt_count)
        self._check.limit.valueChanged.connect(lambda percent: state.set_limit(percent / 100))
        self._start.clicked.connect(state.start)
        self._stop.clicked.connect(self._on_stop)
        self._pause.clicked.connect(self.app.engine.pause_training)
        self._report.open_folder.clicked.connect(self._on_open_folder)
        self._elsewhere.copied.connect(lambda program: self.app.notices.say(f"Copied for {program}"))
        self._to_runs.clicked.connect(lambda: self.app.show_page("runs"))
        self.banner.closed.connect(state.forget_problem)

    def _on_choose_folder(self) -> None:
        """The parent; the new folder's own name is kept."""
        name = Path(self._state.place.folder).name or "export"
        parent = QFileDialog.getExistingDirectory(self, "Choose where the new folder is made")
        if parent:
            self._state.set_folder(str(Path(parent) / name))

    def _on_stop(self) -> None:
        if not self._state.busy or not self._stop.isEnabled():
            return
        popover = Popover(
            self._stop,
            "Stop this export? What was written so far is removed.",
            "Stop and remove",
            "Go on",
            name="export_stop_popover",
            danger=True,
        )
        popover.confirmed.connect(self._state.stop)
        popover.open()

    def _on_open_folder(self) -> None:
        if self._state.finished is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(self._state.finished.folder))

    # What is shown ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        state = self._state
        nothing = not state.sources and not state.busy
        for card in self._cards:
            card.setVisible(not nothing)
            card.refresh(state)
        self.show_side(not nothing)
        self._progress.refresh(state)
        self._report.refresh(state)
        self._elsewhere.refresh(state)
        self._empty.setVisible(nothing)
        self._below.setVisible(not nothing)
        self._to_runs.setVisible(state.sources is not None)
        if state.sources is None:
            self._empty.set_words(LOOKING, "")
        else:
            words = state.sources_problem or "A run can be exported once it finished or was stopped."
            self._empty.set_words(NO_RUN, words)
        self._refresh_actions(nothing)
        if state.problem is not None:
            self.show_error(f"{state.problem.message} {state.problem.hint}".strip())
        elif not self.banner.isHidden():
            self.banner.clear()

    def _refresh_actions(self, nothing: bool) -> None:
        state = self._state
        waits = "" if nothing else f"{WHILE_BUSY}." if state.busy else state.waits_for
        self._waits.setText(waits)
        self._waits.set_tone("warn" if state.holder else "")
        self._pause.setVisible(bool(state.holder) and not nothing)
        keep_focus(self._start if state.busy else self._stop)
        self._start.setVisible(not state.busy)
        allow(self._start, (LOOKING if state.sources is None else NO_RUN) if nothing else waits)
        self._stop.setVisible(state.busy)
        allow(self._stop, "" if state.can_stop else state.words)
        self._stop_action.setEnabled(state.busy and state.can_stop)
        self._stop_action.setText("Stop…\tEsc" if state.busy else "Stop… (nothing is being written)\tEsc")
