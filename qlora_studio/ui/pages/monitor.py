"""Monitor: is it learning, is it safe, when is it done, and what did it cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QAction, QDesktopServices, QKeySequence, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QBoxLayout, QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.config.run_config import PREFERENCES
from qlora_studio.data.file_names import name_filter
from qlora_studio.plain_text import visible_line
from qlora_studio.runs.evaluations import Evaluation
from qlora_studio.state.app import AppState
from qlora_studio.state.curves import no_points
from qlora_studio.state.engine import Doing
from qlora_studio.state.run_end import RESUMING, Action, Ending
from qlora_studio.ui import figures
from qlora_studio.ui.page import SIDE_BELOW, Page
from qlora_studio.ui.pages.monitor_all_samples import AllSamplesCard
from qlora_studio.ui.pages.monitor_banner import ending_buttons
from qlora_studio.ui.pages.monitor_cards import ChartReadout, LossCard, MemoryCard, SmallCard
from qlora_studio.ui.pages.monitor_chart import StepChart, in_powers
from qlora_studio.ui.pages.monitor_curves import (
    AnswersChart,
    CardChart,
    GradNormChart,
    RateChart,
    RewardChart,
    SpeedChart,
)
from qlora_studio.ui.pages.monitor_evaluations import EvaluationsCard
from qlora_studio.ui.pages.monitor_export import ChartExport
from qlora_studio.ui.pages.monitor_numbers import Numbers
from qlora_studio.ui.pages.monitor_samples import SamplesCard
from qlora_studio.ui.pages.monitor_stretch import Stretch
from qlora_studio.ui.pages.monitor_table import TableCard
from qlora_studio.ui.run_words import StateWord, state_word
from qlora_studio.ui.theme import Tone, theme
from qlora_studio.ui.widgets import Card, Chip, DangerButton, Popover, SecondaryButton
from qlora_studio.ui.widgets.allowed import allow, keep_focus

_DOING_ICONS = {Doing.SAVING: "save", Doing.PAUSING: "pause", Doing.STOPPING: "square"}
_ENDING = (Doing.PAUSING, Doing.STOPPING)
# px of the page at 100 %: narrower, and the title line has no room for them (Evaluate: beside Resume)
TAGS_FROM, SAVE_FROM, EVALUATE_FROM = 900, 720, 520
EVALUATE_TIP = "How base model and trained model do on a file (E)"
_SHIFTED = 50  # steps that Shift and an arrow move the crosshair


class MonitorPage(Page):
    """Figures above, loss and memory on the left, the small curves and the samples on the right."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "monitor", "Monitor", side=False)
        self._state = app.monitor
        self.stretch = Stretch(self)
        self._shown_banner: tuple[Ending | None, int | None, str] = (None, None, "")

    def opened(self, what: object) -> None:
        """what: a run folder, or None for the run that is being made ready or trains."""
        self._state.open(what if isinstance(what, Path) else None)
        self._loss.chart.setFocus(Qt.FocusReason.OtherFocusReason)

    def rescan(self) -> None:
        """F5: reads the folder again."""
        self._state.reload()

    # Layout -----------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[None]:
        """A chart or two at a time: all of them are ten frames' work."""
        yield from self._build_page()
        self._bind()
        self._refresh()

    def _build_page(self) -> Iterator[None]:
        self._build_title()
        self._numbers = Numbers()
        self.main.addWidget(self._numbers)
        left, right = self._build_columns()
        yield
        self._loss = LossCard(self.stretch)
        self._readout = ChartReadout(self._loss.chart)
        left.addWidget(self._loss, 1)
        yield
        self._memory = MemoryCard(self.stretch)
        left.addWidget(self._memory, 1)
        yield
        self._grad = GradNormChart(self.stretch)
        self._rate = SmallCard("Learning rate", RateChart(self.stretch), name="monitor_lr_card")
        self._grad_card = SmallCard("Gradient norm", self._grad, name="monitor_grad_norm_card")
        right.addLayout(side_by_side(self._rate, self._grad_card))
        yield
        self._heat = CardChart(self.stretch)
        self._speed = SmallCard("Speed, tokens/s", SpeedChart(self.stretch), name="monitor_speed_card")
        self._heat_card = SmallCard("GPU", self._heat, name="monitor_gpu_card")
        right.addLayout(side_by_side(self._speed, self._heat_card))
        yield
        self._rewards = SmallCard("Reward margin", RewardChart(self.stretch), name="monitor_reward_card")
        self._rewards.hide()  # until a run prefers answers
        right.addWidget(self._rewards)
        self._answers = SmallCard("Right answers", AnswersChart(self.stretch), name="monitor_answers_card")
        self._answers.hide()  # until some were counted
        right.addWidget(self._answers)
        self._samples = SamplesCard()
        right.addWidget(self._samples, 1)
        self._table = TableCard()
        self._all_samples = AllSamplesCard()
        self._evaluations = EvaluationsCard(self.app.evaluation)
        for card in (self._table, self._all_samples, self._evaluations):
            left.addWidget(card, 1)
            card.hide()
        yield
        self.export = ChartExport(self.app, self.stretch, self._charts_area, self._loss.export)
        self._build_menu()

    def _build_title(self) -> None:
        self._chip = Chip("", "neutral", name="monitor_state")
        self.add_chip(self._chip)
        self._tags = QHBoxLayout()
        self._tags.setSpacing(theme().px(6))
        self._tag_area = QWidget()
        self._tag_area.setLayout(self._tags)
        self._tags.setContentsMargins(0, 0, 0, 0)
        self.add_chip(self._tag_area)
        self._pause = SecondaryButton("Pause", "pause", name="monitor_pause")
        self._save = SecondaryButton("Save now", "save", name="monitor_save_now")
        self._stop = DangerButton("Stop…", "square", name="monitor_stop")
        self._cancel = SecondaryButton("Cancel", "x", name="monitor_cancel")
        self._evaluate = SecondaryButton("Evaluate", "git-compare", name="monitor_evaluate", tip=EVALUATE_TIP)
        for button in (self._evaluate, self._pause, self._save, self._stop, self._cancel):
            self.add_header(button)

    def _build_columns(self) -> tuple[QVBoxLayout, QVBoxLayout]:
        grid = theme().px(theme().size.grid)
        self._charts_area = QWidget()
        left, right = QVBoxLayout(self._charts_area), QVBoxLayout()
        left.setContentsMargins(0, 0, 0, 0)
        self._columns_box = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        for column in (left, right, self._columns_box):
            column.setSpacing(grid)
        self._columns_box.addWidget(self._charts_area, 17)
        self._columns_box.addLayout(right, 10)
        self.main.addLayout(self._columns_box, 1)
        return left, right

    def _build_menu(self) -> None:
        self._pause_entry = self._add_action(self, "Pause or resume", "Ctrl+P", self._on_pause)
        self._save_entry = self._add_action(self, "Save now", "Ctrl+S", self._on_save)
        self._stop_entry = self._add_action(self, "Stop…", "Ctrl+.", self._on_stop)
        self._add_action(self, "Save picture or numbers…", "Ctrl+E", self.export.open)
        self.menu.addSeparator()
        self._charts: list[StepChart] = [
            self._loss.chart,
            self._memory.chart,
            self._rate.chart,
            self._grad,
            self._speed.chart,
            self._heat,
            self._rewards.chart,
            self._answers.chart,
        ]
        for words, keys, slot in (
            ("All steps", "F", self.stretch.show_all),
            ("Logarithmic loss", "L", self._loss.log.toggle),
            ("Crosshair on or off", "C", self.stretch.switch_crosshair),
            ("Table or charts", "T", self._on_table),
            ("Before and after, or charts", "E", self._on_evaluations),
            ("A step back", "Left", lambda: self.stretch.move(-1)),
            ("A step on", "Right", lambda: self.stretch.move(1)),
            (f"{_SHIFTED} steps back", "Shift+Left", lambda: self.stretch.move(-_SHIFTED)),
            (f"{_SHIFTED} steps on", "Shift+Right", lambda: self.stretch.move(_SHIFTED)),
            ("First step", "Home", lambda: self.stretch.move_to_end(False)),
            ("Newest step", "End", lambda: self.stretch.move_to_end(True)),
        ):
            action = self._add_action(self._charts[0], words, keys, slot)
            for chart in self._charts[1:]:
                chart.addAction(action)
            if slot == self._on_table:  # the table's own keys move in it
                self._table.addAction(action)

    def _add_action(self, where: QWidget, words: str, keys: str, slot: object) -> QAction:
        action = QAction(words, self)
        action.setShortcut(QKeySequence(keys))
        action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        action.triggered.connect(slot)
        where.addAction(action)
        self.menu.addAction(action)
        return action

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._state.grown.connect(self._on_grown)
        self._pause.clicked.connect(self._on_pause)
        self._save.clicked.connect(self._on_save)
        self._stop.clicked.connect(self._on_stop)
        self._cancel.clicked.connect(self._state.cancel)
        self._loss.export.clicked.connect(self.export.open)
        self._loss.table.clicked.connect(self._on_table)
        self._table.back.clicked.connect(self._on_table)
        self._samples.all_asked.connect(lambda: self._show_left(self._all_samples))
        self._all_samples.back.clicked.connect(lambda: self._show_left(None))
        self._evaluate.clicked.connect(self._on_evaluations)
        self._evaluations.back_asked.connect(self._on_evaluations)
        self._evaluations.file_asked.connect(self._on_evaluate_file)
        self.app.evaluation.finished.connect(self._on_evaluated)
        self._state.saved.connect(lambda path: self.app.notices.say(f"Saved {path.name}"))
        self._state.refused.connect(self.show_error)
        self._memory.spike.connect(self._state.look_at_spike)
        self._memory.chosen.connect(self._state.measure_spike)
        self._memory.rows.clicked.connect(self._on_show_rows)
        self._loss.smoothing.connect(self._state.set_smoothing)
        self.stretch.pointed.connect(self._on_pointed)
        self.stretch.changed.connect(self._on_pointed)

    def _on_pause(self) -> None:
        """Ctrl+P resumes what the banner offers to resume, too."""
        state = self._state
        if not state.live:
            if self._can_resume():
                self._show_left(None)
                state.resume()
        elif self._pause.isEnabled():
            state.pause()

    def _on_save(self) -> None:
        if self._state.live and self._save.isEnabled():
            self._state.save_now()

    def _on_stop(self) -> None:
        if not self._stop.isEnabled() or self._stop.isHidden():
            return
        popover = Popover(
            self._stop,
            stop_words(self.app.engine.step),
            "Stop and save" if self.app.engine.step else "Stop",
            "Go on",
            name="monitor_stop_popover",
            danger=True,
        )
        popover.confirmed.connect(self._state.stop)
        popover.open()

    def _on_table(self) -> None:
        """The charts' place is the table's, or theirs again."""
        if self._state.sketched:
            return
        if self._table.isHidden():
            self._table.show_points(self.stretch.points)
            self._show_left(self._table)
            self._table.table.setFocus(Qt.FocusReason.OtherFocusReason)
        else:
            self._show_left(None)

    def _on_evaluations(self) -> None:
        """What the run was found to know, in place of the charts, or they again."""
        self._show_left(self._evaluations if self._evaluations.isHidden() else None)
        if self._evaluations.isVisible():
            self._evaluations.table.setFocus(Qt.FocusReason.OtherFocusReason)

    def _on_evaluate_file(self) -> None:
        dialog = QFileDialog(self, "Evaluate on a file: rows as in the training data", "", name_filter())
        dialog.setObjectName("monitor_pick")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self.app.evaluation.start)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_evaluated(self, evaluation: Evaluation) -> None:
        if self._evaluations.isHidden():
            words = f"Evaluated on {visible_line(Path(evaluation.file).name, 60)}"
            self.app.notices.say(words)

    def _show_left(self, shown: Card | None) -> None:
        """A card in place of the charts, or the charts."""
        self._loss.setVisible(shown is None)
        self._memory.setVisible(shown is None)
        for card in (self._table, self._all_samples, self._evaluations):
            card.setVisible(card is shown)
        if shown is None:
            self._loss.chart.setFocus(Qt.FocusReason.OtherFocusReason)

    def _on_action(self, action: Action) -> None:
        folder = self._state.folder
        match action:
            case Action.CHAT:
                self.app.show_page("chat", folder)
            case Action.EXPORT:
                self.app.show_page("export", folder)
            case Action.HALF_RATE:
                self._state.change_for_next(action)
                self.app.show_page("train")
            case _ if action in RESUMING:
                self._show_left(None)
                self._state.resume(action)
            case Action.LOG if folder is not None:
                QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))

    def _on_show_rows(self) -> None:
        if self._state.named_rows is not None:
            self.app.show_page("data", self._state.named_rows)

    def _on_pointed(self) -> None:
        place = self.stretch.place
        if place < 0:
            self._readout.hide()
            return
        self._readout.show_place(self.stretch.points, place)
        chart = self._loss.chart
        self._readout.stand_beside(chart.x_of(float(self.stretch.points.steps[place])), chart.width())

    # What is shown ----------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        wide = self.window().width() >= theme().px(SIDE_BELOW)
        across, down = QBoxLayout.Direction.LeftToRight, QBoxLayout.Direction.TopToBottom
        self._columns_box.setDirection(across if wide else down)
        self._numbers.fit(self.width() - 2 * theme().px(theme().size.page_margin[0]))
        self._tag_area.setVisible(self.width() >= theme().px(TAGS_FROM))
        self._show_buttons()
        self._show_evaluations()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._on_grown()

    def _on_grown(self) -> None:
        """More points: at most ten times a second, and only while somebody looks."""
        if not self.isVisible():
            return
        points = self._state.points
        self.stretch.take(points)
        self._heat.set_readings(self._state.card_points)
        self._memory.show_points(points)
        if self._table.isVisible():
            self._table.show_points(no_points() if self._state.sketched else points)
        self._show_waiting()
        self._show_figures()

    def _awaits_samples(self) -> bool:
        """Without prompts of the person's own, rows held out are asked: only a checkpoint tells whether."""
        record = self._state.run.record if self._state.run else None
        has_none = record is not None and not record.config.samples and len(self._state.points.checkpoints)
        return self._state.live or not has_none

    def _refresh(self) -> None:
        state = self._state
        folder = state.folder.name if state.folder is not None else ""
        self.set_title(state.name or "Monitor", "Runs", "runs", tip=folder)
        self._show_state()
        self._show_buttons()
        self._show_banner()
        self._show_evaluations()
        self._show_waiting()
        self._loss.show_weight(state.smoothing)
        record = state.run.record if state.run else None
        self._samples.show_samples(
            state.samples, self._awaits_samples(), state.folder is not None or state.awaiting
        )
        self._all_samples.show_samples(state.samples)
        self._grad.set_clip(record.config.training.max_grad_norm if record else 0.0)
        self._loss.show_method(record.config.training.method if record else "sft")
        self._memory.show_state(state)
        on_card = record is not None and record.device != "cpu"
        self._heat_card.setVisible(on_card and bool(state.card_points))
        self._show_figures()

    def _show_waiting(self) -> None:
        for button in (self._loss.table, self._loss.export):
            allow(button, self._state.words if self._state.sketched else "")
        self._loss.show_waiting(self._state.words or self._empty_words())
        self._loss.show_skipped(self._state.points.skipped_lines)

    def _empty_words(self) -> str:
        if self._state.folder is None:
            return "No run is open. Choose one on the Runs page, or start one on the Train page."
        return "" if len(self._state.points) else "No step was measured yet."

    def _show_state(self) -> None:
        state, engine = self._state, self.app.engine
        if state.preparing:
            word = StateWord("Preparing", "hourglass", Tone.ACCENT)
        elif state.live:
            icon_name = _DOING_ICONS.get(engine.doing, "activity")
            word = StateWord(engine.doing.value, icon_name, Tone.ACCENT)
        elif state.run is not None:
            standing = state.run.state
            word = state_word(standing.state, standing.cause, elsewhere=state.elsewhere)
        else:
            word = state_word("unreadable") if state.problem else StateWord("", "", Tone.NEUTRAL)
        self._chip.set(word.word, word.tone, word.icon_name)
        self._chip.setVisible(bool(word.word))
        self._show_tags()

    def _show_tags(self) -> None:
        tags = self._state.run.notes.tags[:4] if self._state.run else ()
        while (item := self._tags.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for tag in tags:
            self._tags.addWidget(Chip(tag, "neutral", "tag"))

    def _show_buttons(self) -> None:
        state = self._state
        ending = state.live and self.app.engine.doing in _ENDING
        paused = state.ending is not None and state.ending.at_pause and state.resume_step is not None
        self._pause.setVisible(state.live or paused)
        self._pause.become(*(("Pause", "pause") if state.live else ("Resume", "play")))
        why_not = self.app.engine.words if ending else "" if state.live else state.why_no_resume
        allow(self._pause, why_not)
        self._cancel.setVisible(state.preparing)
        if not state.live:
            keep_focus(self._save)
            keep_focus(self._stop)
        self._save.setVisible(state.live and self.width() >= theme().px(SAVE_FROM))
        self._stop.setVisible(state.live)
        for button in (self._save, self._stop):
            allow(button, self.app.engine.words if ending else "")
        self._save_entry.setEnabled(state.live and not ending)
        self._stop_entry.setEnabled(state.live and not ending)
        self._pause_entry.setEnabled(not ending if state.live else self._can_resume())

    def _can_resume(self) -> bool:
        state = self._state
        offered = state.ending is not None and not RESUMING.isdisjoint(state.ending.actions)
        return offered and state.resume_step is not None and not state.why_no_resume

    def _show_evaluations(self) -> None:
        """Of the run that is open; while it trains there is nothing to ask yet."""
        run = self._state.run
        if run is not self.app.evaluation.run:
            self.app.evaluation.look_at(run)
        roomy = self.width() >= theme().px(EVALUATE_FROM) or self._pause.isHidden()
        self._evaluate.setVisible(run is not None and not self._state.live and roomy)

    def _show_banner(self) -> None:
        """Renewed where it says or offers something else; one that was put away stays away until then."""
        state = self._state
        shown = Ending("bad", state.problem) if state.problem else state.ending
        if state.live and self.app.engine.doing in _ENDING:
            shown = Ending("accent", self.app.engine.words)
        why = state.why_no_resume if shown is not None and not RESUMING.isdisjoint(shown.actions) else ""
        banner = (shown, state.resume_step, why)
        if banner == self._shown_banner:
            return
        self._shown_banner = banner
        if shown is None:
            self.banner.clear()
        else:
            buttons = ending_buttons(shown, state.resume_step, why, self._on_action)
            self.banner.show_text(f"{shown.words} {why}".strip(), shown.tone, *buttons, closable=not why)

    def _show_figures(self) -> None:
        state = self._state
        found = state.figures
        self._numbers.show_figures(found, live=state.live or state.elsewhere, on_card=state.on_card)
        points = state.points
        if len(points):
            self._rate.show_value(in_powers(float(points.learning_rate[-1])))
            self._grad_card.show_value(f"{points.grad_norm[-1]:.2f}")
            self._speed.show_value(f"{found.tokens_per_second or 0:,.0f}")
        else:
            for card in (self._rate, self._grad_card, self._speed):
                card.show_value("–")
        self._show_rewards()
        self._show_answers()
        if state.card_points:
            last = state.card_points[-1]
            degrees = f"{last.temperature_c} °C" if last.temperature_c is not None else ""
            watts = f"{last.power_w:.0f} W" if last.power_w is not None else ""
            self._heat_card.show_value(" · ".join(filter(None, (degrees, watts))))
        self._describe(found.loss)

    def _show_rewards(self) -> None:
        """Of the rows held out, or else of the newest step."""
        points, run = self._state.points, self._state.run
        method = run.record.config.training.method if run is not None else "sft"
        self._rewards.setVisible(method in PREFERENCES or bool(len(points.rewards)))
        measured = points.held_out_rewards if len(points.held_out_rewards) else points.rewards
        if not len(measured):
            self._rewards.show_value("–")
            return
        margin, accuracy = float(measured.margins[-1]), float(measured.accuracies[-1])
        right = "" if math.isnan(accuracy) else f" · {accuracy * 100:.0f}{figures.THIN}% right"
        self._rewards.show_value(("–" if math.isnan(margin) else f"{margin:.3f}") + right)

    def _show_answers(self) -> None:
        counted = self._state.points.counted
        self._answers.setVisible(bool(counted))
        if counted:
            last = counted[-1]
            kind = last.kind or "letters"
            self._answers.show_value(f"{last.right:,} of {last.questions:,} {kind}")
            self._answers.chart.setAccessibleDescription(
                f"Counted {len(counted):,} times; last {last.right:,} of {last.questions:,} {kind} right."
            )

    def _describe(self, loss: float | None) -> None:
        """For those who don't see the charts."""
        points = self._state.points
        words = f"{len(points):,} steps, smoothed loss {figures.loss(loss)}"
        self._loss.chart.setAccessibleDescription(words if len(points) else "No step was measured yet.")
        newest = figures.in_gib(float(points.memory_total[-1])) if len(points) else ""
        self._memory.chart.setAccessibleDescription(newest)


def side_by_side(*cards: SmallCard) -> QHBoxLayout:
    """A row of equal shares."""
    row = QHBoxLayout()
    row.setSpacing(theme().px(theme().size.grid))
    for card in cards:
        card.keep_snug()
        row.addWidget(card, 1)
    return row


def stop_words(step: int) -> str:
    """What a stop will do; step: the last one that is finished."""
    if step:
        return f"Stop after saving step {step:,}? What was learned is written; the run can be resumed later."
    return (
        "Stop now? No step is finished yet. One that is under way is finished and saved first; otherwise "
        "nothing is learned or written, and the run can begin again later."
    )
