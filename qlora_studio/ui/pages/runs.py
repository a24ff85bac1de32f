"""Runs: find, compare, repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, QPoint, Qt, QUrl
from PySide6.QtGui import QAction, QDesktopServices, QGuiApplication, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFileDialog, QHBoxLayout, QMenu, QWidget

from qlora_studio.state.app import AppState
from qlora_studio.state.run_differences import as_text
from qlora_studio.state.runs_table import MOST_CHOSEN, NAMES
from qlora_studio.ui.page import SIDE_BELOW, Page
from qlora_studio.ui.pages.runs_chart import AXES, METRICS, RunsChart
from qlora_studio.ui.pages.runs_diff import DiffCard
from qlora_studio.ui.pages.runs_list import RunsList
from qlora_studio.ui.pages.runs_sweep import SweepCard
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    ChoiceBox,
    ChoiceChip,
    ElidedLabel,
    EmptyState,
    LinkButton,
    PlainLabel,
    PrimaryButton,
    SearchBox,
    SecondaryButton,
    Segmented,
    empty_layout,
)
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.rows import in_line
from qlora_studio.ui.widgets.text_size import at_text_size

if TYPE_CHECKING:
    from qlora_studio.runs.history import RunSummary

_MOST_TAGS = 6


class RunsPage(Page):
    """The list above; below it the chosen runs over each other, and what differs between them."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "runs", "Runs", side=False)
        self._state = app.runs
        self._tag = ""
        self._wanted: Path | None = None  # a run to put the keyboard on once it is listed
        self._actions: dict[str, QAction] = {}
        self._action_words: dict[str, str] = {}
        self._build_page()
        self._build_actions()
        self._bind()
        self._refresh()
        self._show_compared()

    def opened(self, what: object) -> None:
        """what: a run folder to put the keyboard on, or None."""
        self._wanted = what if isinstance(what, Path) else None
        self._state.refresh()
        self.app.sweep.look()

    def rescan(self) -> None:
        """F5: looks at the runs folder again."""
        self._state.refresh()

    # Layout -----------------------------------------------------------------------------------------

    def _build_page(self) -> None:
        self._export = SecondaryButton("Export table", "download", name="runs_export")
        self._new = PrimaryButton("New run", "plus", name="runs_new")
        self.add_header(self._export)
        self.add_header(self._new)
        self._start_sample = PrimaryButton("Start sample run", "play", name="runs_start_sample")
        self._empty = EmptyState("chart-line", "No run yet", "", self._start_sample, name="runs_empty")
        self._empty_card = Card(name="runs_empty_card")
        self._empty_card.body.addWidget(self._empty)
        self.main.addWidget(self._empty_card, 1)
        self._list_card = self._build_list()
        self.main.addWidget(self._list_card, 6)
        self._sweep = SweepCard(self.app.sweep)
        self.main.addWidget(self._sweep)
        self._below = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._below.setSpacing(theme().px(theme().size.grid))
        self._below.addWidget(self._build_chart(), 16)
        self._diff = DiffCard()
        self._below.addWidget(self._diff, 12)
        self.main.addLayout(self._below, 8)

    def _build_list(self) -> Card:
        card = Card(name="runs_list_card")
        self._search = self.search = SearchBox("Search name, model, data, tag, note", name="runs_search")
        at_text_size(self._search, self._search.setFixedWidth, 300)
        self._tags = QHBoxLayout()
        self._tags.setSpacing(theme().px(6))
        tags = QWidget()
        tags.setObjectName("runs_tags")
        tags.setLayout(self._tags)
        self._tags.setContentsMargins(0, 0, 0, 0)
        self._count = PlainLabel("", "muted", name="runs_chosen")
        self._clear = LinkButton("Clear", name="runs_clear")
        row = Flow(gap=8, line_gap=6, last_at_right=True)
        row.addWidget(self._search)
        row.addWidget(tags)
        row.addWidget(in_line(self._count, self._clear))
        self._list = RunsList(self._state.table)
        at_text_size(self._list, self._list.setMinimumHeight, 150)
        self._about = ElidedLabel("", "note", name="runs_about")
        card.body.addLayout(row)
        card.body.addWidget(self._list, 1)
        card.body.addWidget(self._about)
        return card

    def _build_chart(self) -> Card:
        card = Card(name="runs_chart_card")
        self._metric = ChoiceBox(METRICS, name="runs_metric", label="What is compared")
        self._across = Segmented(list(AXES), name="runs_axis", label="Across")
        self._faint = PlainLabel("", "muted")
        row = Flow(gap=10, line_gap=6, last_at_right=True)
        row.addWidget(self._metric)
        row.addWidget(self._faint)
        row.addWidget(self._across)
        self._chart = RunsChart()
        at_text_size(self._chart, self._chart.setMinimumHeight, 220)
        self._choose = PlainLabel("Choose runs in the list to lay them over each other.", "muted", wrap=True)
        self._choose.setAlignment(Qt.AlignmentFlag.AlignCenter)
        card.body.addLayout(row)
        card.body.addWidget(self._choose, 1)
        card.body.addWidget(self._chart, 1)
        self._chart_card = card
        return card

    def _build_actions(self) -> None:
        for key, words, keys, slot in (
            ("open", "Open\tEnter", "", self._on_open),  # the list takes that key by itself
            ("choose", "Choose to compare", "Space", self._on_choose),
            ("resume", "Resume", "Ctrl+R", self._on_resume),
            ("chat", "Chat with it", "", self._on_chat),
            ("copy", "Copy settings to Train", "", self._on_copy_settings),
            ("train_on", "Train on from this run", "", self._on_train_on),
            ("rename", "Rename", "F2", lambda: self._list.edit_cell(NAMES.index("Name"))),
            ("tag", "Tag…", "Ctrl+T", lambda: self._list.edit_cell(NAMES.index("Tags"))),
            ("note", "Note…", "", lambda: self._list.edit_cell(NAMES.index("Note"))),
            ("folder", "Show folder", "", self._on_folder),
            ("check", "Check files", "", self._on_check),
            ("bin", "Move to the bin", "Del", self._on_bin),
        ):
            action = QAction(words, self)
            action.setObjectName(f"runs_action_{key}")
            if keys:
                action.setShortcut(QKeySequence(keys))
                action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(slot)
            self._list.addAction(action)
            self._actions[key] = action
            self._action_words[key] = words
        self.menu.addActions(list(self._actions.values()))

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._state.compared_changed.connect(self._show_compared)
        self._state.told.connect(self._on_told)
        self._search.textChanged.connect(self._list.proxy.search)
        self._list.opened.connect(lambda _: self._on_open())
        self._list.customContextMenuRequested.connect(self._show_row_menu)
        self._list.selectionModel().currentRowChanged.connect(self._on_row)
        self._clear.clicked.connect(self._state.table.clear)
        self._metric.chosen.connect(lambda _: self._show_compared())
        self._across.changed.connect(lambda _: self._show_compared())
        self._diff.only_changed.connect(self._show_compared)
        self._diff.copied.connect(self._on_copy_differences)
        self._sweep.lay_over.connect(self._on_lay_over)
        self._new.clicked.connect(lambda: self.app.show_page("train"))
        self._export.clicked.connect(self._on_export)
        self._start_sample.clicked.connect(self._on_start_sample)
        self.menu.aboutToShow.connect(self._enable_actions)

    def _show_row_menu(self, place: QPoint) -> None:
        if self._list.indexAt(place).isValid():
            self._enable_actions()
            menu = QMenu(self)
            menu.setObjectName("runs_row_menu")
            menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            menu.setToolTipsVisible(True)
            menu.addActions(list(self._actions.values()))
            menu.popup(self._list.viewport().mapToGlobal(place))

    def _enable_actions(self) -> None:
        """What can't be done now says why."""
        run = self._list.current_run()
        for key, action in self._actions.items():
            why = self._why_not(key, run)
            action.setEnabled(not why)
            words, tab, keys = self._action_words[key].partition("\t")
            action.setText(f"{words} ({why}){tab}{keys}" if why else self._action_words[key])

    def _why_not(self, key: str, run: RunSummary | None) -> str:
        """Why an entry of the menu can't be chosen, in words; empty where it can."""
        if run is None:
            return "choose a run first"
        if run.run is None:
            return "" if key in ("folder", "bin") else "the run can't be read"
        if key == "resume":
            return self._state.why_not_resume(run).rstrip(".")
        if key == "chat" and run.run.adapter is None and run.run.model is None:
            return f"it has no {'model' if run.run.record.config.trains_all else 'adapter'} yet"
        if key == "train_on" and run.run.adapter is None:
            return "it trained all weights" if run.run.record.config.trains_all else "it has no adapter yet"
        return "it is training" if key == "bin" and run.run.locked else ""

    def _on_row(self, current: QModelIndex) -> None:
        run: RunSummary | None = current.data(Qt.ItemDataRole.UserRole) if current.isValid() else None
        self._about.setText(_about(run))
        self._about.set_tone("bad" if run is not None and run.reason else "")

    def _on_open(self) -> None:
        if (run := self._list.current_run()) is not None and run.run is not None:
            self.app.show_page("monitor", run.folder)

    def _on_choose(self) -> None:
        index = self._list.currentIndex()
        if index.isValid():
            row = self._list.proxy.mapToSource(index).row()
            if not self._state.table.toggle(row) and len(self._state.table.chosen) >= MOST_CHOSEN:
                self.app.notices.say(f"{MOST_CHOSEN} runs are compared at most.", "warn")

    def _on_lay_over(self) -> None:
        """As many of its finished runs as fit, the first of each label first."""
        opened, table = self.app.sweep.opened, self._state.table
        if opened is None:
            return
        done = [item.point for item in opened.results if item.state == "finished"]
        table.clear()
        for point in done[:MOST_CHOSEN]:
            row = table.row_of(Path(point.run))
            if row >= 0:
                table.toggle(row)
        if len(done) > MOST_CHOSEN:
            self.app.notices.say(f"The first {MOST_CHOSEN} of {len(done)} are laid over each other.")

    def _on_resume(self) -> None:
        run = self._list.current_run()
        if run is None:
            return
        why = self._state.why_not_resume(run)
        if why:
            self.app.notices.say(why, "warn")
            return
        self._state.resume(run)
        self.app.show_page("monitor", run.folder)

    def _on_chat(self) -> None:
        if (run := self._list.current_run()) is not None:
            self.app.show_page("chat", run.folder)

    def _on_copy_settings(self) -> None:
        if (run := self._list.current_run()) is not None and run.run is not None:
            self._state.copy_settings(run)
            self.app.show_page("train")

    def _on_train_on(self) -> None:
        if (run := self._list.current_run()) is not None and run.run is not None:
            self._state.train_on(run)
            self.app.show_page("train")

    def _on_folder(self) -> None:
        if (run := self._list.current_run()) is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(run.folder)))

    def _on_check(self) -> None:
        if (run := self._list.current_run()) is not None:
            self._state.check(run)

    def _on_bin(self) -> None:
        run = self._list.current_run()
        if run is not None and (run.run is None or not run.run.locked):
            self._state.move_to_bin(run)

    def _on_start_sample(self) -> None:
        self._state.start_sample_run()
        self.app.show_page("monitor")

    def _on_told(self, words: str, tone: str) -> None:
        self.banner.show_text(words, tone)

    def _on_copy_differences(self) -> None:
        model = self._diff.model
        QGuiApplication.clipboard().setText(as_text(model.rows, model.names))
        self.app.notices.say("Copied")

    def _on_export(self) -> None:
        dialog = QFileDialog(self, "Export table", "", "Table (*.csv)")
        dialog.setObjectName("runs_export_csv")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("csv")
        dialog.selectFile("runs.csv")
        dialog.fileSelected.connect(self.save_list)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def save_list(self, path: str) -> None:
        """The rows as they are shown, in their order."""
        self._state.save_list(self._list.shown_runs(), Path(path))

    # What is shown ----------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        wide = self.window().width() >= theme().px(SIDE_BELOW)
        self._below.setDirection(
            QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom
        )

    def _refresh(self) -> None:
        state, table = self._state, self._state.table
        some = bool(table.runs)
        if state.problem:
            self.show_error(state.problem)
        self._empty_card.setVisible(not some)
        self._start_sample.setVisible(state.loaded)
        if state.loaded:
            self._empty.set_words("No run yet", "The first one shows here while it trains.")
        else:
            self._empty.set_words("Reading the runs", str(self.app.preferences.runs_folder))
        for widget in (self._list_card, self._chart_card, self._diff, self._export, self._new):
            widget.setVisible(some)
        self._count.setText(f"{len(table.chosen)} of {len(table.runs):,} chosen")
        self._clear.setVisible(bool(table.chosen))
        self._show_tags()
        if self._wanted is not None and (row := table.row_of(self._wanted)) >= 0:
            self._list.selectRow(self._list.proxy.mapFromSource(table.index(row, 0)).row())
            self._wanted = None
        elif some and not self._list.currentIndex().isValid():
            self._list.selectRow(0)
        self._on_row(self._list.currentIndex())

    def _show_tags(self) -> None:
        tags = self._state.tags()[:_MOST_TAGS]
        chips = self.findChildren(ChoiceChip)
        if tags == [chip.text() for chip in chips]:
            return
        empty_layout(self._tags)
        for place, tag in enumerate(tags):
            chip = ChoiceChip(tag, name=f"runs_tag_{place}")
            chip.setChecked(tag == self._tag)
            chip.toggled.connect(lambda on, tag=tag: self._on_tag(tag if on else ""))
            self._tags.addWidget(chip)
        if self._tag not in tags:
            self._on_tag("")

    def _on_tag(self, tag: str) -> None:
        """One at a time."""
        self._tag = tag
        self._list.proxy.show_tag(tag)
        for chip in self.findChildren(ChoiceChip):
            if chip.isChecked() and chip.text() != tag:
                chip.blockSignals(True)
                chip.setChecked(False)
                chip.blockSignals(False)

    def _show_compared(self) -> None:
        compared = self._state.compared()
        metric = self._metric.value()
        self._choose.setVisible(not compared)
        self._chart.setVisible(bool(compared))
        self._faint.setText("faint: training, smoothed" if metric == "evaluation" and compared else "")
        self._chart.show_runs(compared, metric, self._across.value())
        rows = self._state.differences(self._diff.only)
        self._diff.show_differences(compared, rows, self._state.same_words())


def _about(run: RunSummary | None) -> str:
    """One line about the row the keyboard is on."""
    if run is None:
        return ""
    if run.run is None:
        return f"{run.folder.name}: {run.reason}"
    warnings = " · ".join(run.run.warnings)
    parts = (run.reason, run.run.state.hint if run.reason else "", run.run.notes.note, warnings)
    return "  ".join(filter(None, parts)) or str(run.folder)
