"""Data: see exactly what the model will see, before a device is touched."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QGuiApplication, QHideEvent, QKeySequence, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QBoxLayout, QFileDialog, QVBoxLayout, QWidget

from qlora_studio.config.run_config import SAMPLE
from qlora_studio.data.file_names import name_filter
from qlora_studio.data.report import ImportReport
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.reading import CopySaved
from qlora_studio.state.app import AppState
from qlora_studio.state.data import ALL, OF_SET
from qlora_studio.state.data_name import file_name
from qlora_studio.state.named_rows import NamedRows
from qlora_studio.ui.page import SIDE_BELOW, Page
from qlora_studio.ui.pages.data_columns import ColumnsCard
from qlora_studio.ui.pages.data_encoding import HINT, EncodingPick
from qlora_studio.ui.pages.data_equation import EquationCard, percent
from qlora_studio.ui.pages.data_findings import FindingsCard
from qlora_studio.ui.pages.data_list import RowsCard
from qlora_studio.ui.pages.data_mix import MixCard
from qlora_studio.ui.pages.data_reading import RowCard
from qlora_studio.ui.pages.data_side import LengthsCard
from qlora_studio.ui.pages.data_skipped import SkippedCard
from qlora_studio.ui.pages.data_start import ReadingStrip, StartArea
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import PrimaryButton, SecondaryButton

LIST_WIDTH = 324  # px at 100 %
LEAST_ROW_WIDTH = 440
LEAST_HEIGHT = 380
LEAST_HEADER_WIDTH = 640
QWIDGETSIZE_MAX = 16_777_215


class DataPage(Page):
    """The equation above; below it the list of rows, the row that is looked at, lengths and findings."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "data", "Data", side=False)
        self._state = app.data
        self._skipped_open = self._columns_open = False
        self._told = ("", False)  # what the banner said of a refused file, with a way to mend it or not

    def opened(self, what: object) -> None:
        """what: a file chosen or dropped elsewhere, several in a tuple, "sample", rows of a run, or None."""
        if isinstance(what, Path):
            self._state.read(str(what.absolute()))
        elif isinstance(what, tuple):
            self._state.read_all([str(path.absolute()) for path in what])
        elif isinstance(what, NamedRows):
            self._state.show_named(what)
        elif what == SAMPLE:
            self._state.read(SAMPLE)

    def rescan(self) -> None:
        """F5: reads the file again."""
        self._state.read_again()

    def undo(self) -> bool:
        """Takes back the last fix, or the last change of a mixture."""
        return self._state.undo()

    def redo(self) -> bool:
        """Does it again."""
        return self._state.redo()

    def escape(self) -> bool:
        """Leaves the doctor for the rows; closes a panel; then empties the search."""
        if self._findings.has_keyboard():
            self._list.table.setFocus(Qt.FocusReason.OtherFocusReason)
            return True
        if self._columns_open or self._skipped_open:
            self._columns_open = self._skipped_open = False
            self._refresh()
            return True
        return super().escape()

    # Layout -----------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[None]:
        """A card or two at a time: all of them are seven frames' work."""
        yield from self._build_page()
        self._build_menu()
        self._bind()
        self._refresh()

    def _build_page(self) -> Iterator[None]:
        self._columns_button = SecondaryButton("Columns…", "columns-3", name="data_columns_open")
        self._import = SecondaryButton("Import…", "file-plus", name="data_import")
        self._use = PrimaryButton("Use for training", "arrow-right", name="data_use")
        for button in (self._columns_button, self._import, self._use):
            self.add_header(button)
        self._strip = ReadingStrip()
        self._start = StartArea()
        yield
        self._content = yield from self._build_content()
        self.main.addWidget(self._strip)
        self.main.addWidget(self._start)
        self.main.addWidget(self._content, 1)
        self.main.addStretch()  # while the first file is read, how far it is stands where it will stand

    def _build_content(self) -> Generator[None, None, QWidget]:
        app, grid = self.app, theme().px(theme().size.grid)
        self._equation = EquationCard(app.draft, self._state)
        self._skipped = SkippedCard()
        self._mix = MixCard(self._state)
        yield
        self._list = RowsCard(self._state)
        self.search = self._list.search
        self._row = RowCard(app.draft, self._state)
        yield
        self._lengths = LengthsCard(app.draft, self._state)
        self._lengths.keep_snug()
        yield
        self._columns_card = ColumnsCard()
        self._findings = FindingsCard(self._state)
        yield
        self._rows = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._rows.setSpacing(grid)
        self._rows.addWidget(self._list)
        self._rows.addWidget(self._row, 1)
        self._side = QWidget()
        self._side_column = QVBoxLayout(self._side)
        self._side_column.setContentsMargins(0, 0, 0, 0)
        self._side_column.setSpacing(grid)
        self._side_column.addWidget(self._columns_card)
        self._side_column.addWidget(self._lengths)
        self._side_column.addWidget(self._findings, 1)
        self._beside = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._beside.setSpacing(grid)
        self._beside.addLayout(self._rows, 1)
        self._beside.addWidget(self._side)
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(grid)
        layout.addWidget(self._equation)
        layout.addWidget(self._skipped)
        layout.addWidget(self._mix)
        layout.addLayout(self._beside, 1)
        return content

    def _build_menu(self) -> None:
        self._of_rows: list[QAction] = []  # hidden, with their keys, where there are no rows
        self._of_mix: list[QAction] = []  # hidden where there is no mixture
        of_rows = (self._on_add, self._on_add_folder, self._on_compare, self._on_save_copy)
        for words, keys, slot, at in (
            ("Import…", "Ctrl+O", self._on_import, self),
            ("Import a folder…", "", self._on_import_folder, self),
            ("Add a file…", "Ctrl+Shift+O", self._on_add, self),
            ("Add a folder…", "", self._on_add_folder, self),
            ("Weight of the data set", "F2", self._mix.edit_weight, self._mix.table),
            ("Take the data set out", "Del", self._mix.remove, self._mix.table),
            ("Columns…", "", self._on_columns, self),
            ("Compare with a test file…", "", self._on_compare, self),
            ("Save cleaned copy…", "Ctrl+E", self._on_save_copy, self),
            ("Mend the first finding", "Ctrl+Return", self._findings.fix_first, self),
            ("Previous row", "Up", partial(self._list.go, -1), self._list),
            ("Next row", "Down", partial(self._list.go, 1), self._list),
            ("Tokens: page up", "PgUp", partial(self._row.turn, -1), self._row),
            ("Tokens: page down", "PgDown", partial(self._row.turn, 1), self._row),
        ):
            action = QAction(words, self)
            action.setShortcut(QKeySequence(keys))
            context = Qt.ShortcutContext.WidgetWithChildrenShortcut
            action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut if at is self._mix.table else context)
            action.triggered.connect(lambda _=False, slot=slot: slot())
            at.addAction(action)
            self.menu.addAction(action)
            if slot in of_rows or slot == self._findings.fix_first:
                self._of_rows.append(action)
            if at is self._mix.table:
                self._of_mix.append(action)
        self._recent = self.menu.addMenu("Imported before")
        self._recent.setObjectName("data_recent_menu")
        self._recent.aboutToShow.connect(self._fill_recent)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place()

    def _place(self) -> None:
        """Three columns where there is room; else the sides below, and at last one column."""
        across, down = QBoxLayout.Direction.LeftToRight, QBoxLayout.Direction.TopToBottom
        list_width = max(theme().px(LIST_WIDTH), self._list.wanted_width())
        side_width = theme().px(theme().size.side_width)
        rows_width = list_width + theme().px(LEAST_ROW_WIDTH)
        all_three = rows_width + side_width + self._beside.spacing()
        beside = self.window().width() >= theme().px(SIDE_BELOW) and self.width() >= all_three
        roomy = self.width() >= theme().px(LEAST_HEADER_WIDTH)  # else these two stand in the menu alone
        self._import.setVisible(roomy)
        self._columns_button.setVisible(roomy and self._has_columns())
        together = self.width() >= rows_width
        self._beside.setDirection(across if beside else down)
        self._side.setMinimumWidth(side_width if beside else 0)
        self._side.setMaximumWidth(side_width if beside else QWIDGETSIZE_MAX)
        self._rows.setDirection(across if together else down)
        self._list.setMinimumWidth(list_width if together else 0)
        self._list.setMaximumWidth(list_width if together else QWIDGETSIZE_MAX)
        self._list.setMinimumHeight(theme().px(LEAST_HEIGHT))
        self._row.setMinimumHeight(theme().px(LEAST_HEIGHT))

    def _has_columns(self) -> bool:
        report, file = self._report_of_columns(), self._state.file
        return bool(file.columns if file.problem is not None else report and report.columns)

    def _report_of_columns(self) -> ImportReport | None:
        """Of the file; of a mixture, of the data set that is looked at."""
        one = self._state.chosen_set
        return self._state.report if one is None else one.report

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._state.look()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._state.look_away()

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        state = self._state
        state.changed.connect(self._refresh)
        self._import.clicked.connect(self._on_import)
        self._start.choose_file.clicked.connect(self._on_import)
        self._start.use_sample.clicked.connect(lambda: state.read(SAMPLE))
        self._start.chosen.connect(state.read)
        self._start.mend_columns.clicked.connect(self._on_columns)
        self._start.encoding.chosen.connect(state.read_encoded)
        self._strip.stop.clicked.connect(state.file.stop)
        self._use.clicked.connect(self._on_use)
        self._columns_button.clicked.connect(self._on_columns)
        self._columns_card.chosen.connect(state.read_columns)
        self._columns_card.closed.connect(self._on_columns)
        self._equation.asked.connect(self._on_number)
        self._equation.format_set.connect(state.read_as)
        self._equation.add_asked.connect(self._on_add)
        self._mix.add_asked.connect(self._on_add)
        self._mix.rows_asked.connect(lambda place: state.show(f"{OF_SET}{place}"))
        self._mix.columns_asked.connect(self._on_columns)
        self._list.chosen.connect(state.choose)
        self._row.stepped.connect(self._list.go)
        self._row.copied.connect(self.app.notices.say)
        self._row.unpack_asked.connect(state.unpack_sample)
        self._row.model_asked.connect(lambda: self.app.show_page("models"))
        self._lengths.model_asked.connect(lambda: self.app.show_page("models"))
        self._findings.asked.connect(self._on_finding)
        self._findings.fix_asked.connect(state.fix)
        self._findings.fix_set_asked.connect(state.fix_set)
        self._findings.columns_asked.connect(self._open_columns)
        self._findings.undo_asked.connect(state.undo_fix)
        self._findings.compare_asked.connect(self._on_compare)
        self._findings.encoding_chosen.connect(state.read_beside)
        self._findings.save_asked.connect(self._on_save_copy)
        state.copy.saved.connect(self._on_copy_saved)
        state.copy.refused.connect(self._on_copy_refused)
        self._skipped.copy_asked.connect(self._on_copy_skipped)
        self._skipped.save_asked.connect(self._on_save_skipped)
        self._skipped.closed.connect(self._on_skipped_closed)

    def _refresh(self) -> None:
        state, report = self._state, self._state.report
        self.set_title(state.name or "Data", "Data" if report else "", "")
        self._strip.setVisible(state.file.busy)
        self._strip.show_progress(state.file.words, state.file.share)
        self._start.setVisible(report is None and not state.file.busy)
        self._content.setVisible(report is not None)
        self._use.setVisible(report is not None)
        for action in self._of_rows:
            action.setVisible(report is not None)
        for action in self._of_mix:
            action.setVisible(bool(state.mix.sets))
        self._place()
        self._show_columns()
        self._show_banner()
        if report is None:
            self._show_start()
            return
        self._equation.refresh()
        self._mix.refresh()
        self._show_skipped(report)
        self._list.refresh(self.app.draft.value("data.too_long"))
        self._row.refresh()
        self._lengths.refresh()
        self._findings.refresh()

    def _show_columns(self) -> None:
        """Beside the rows; where a file gave none, in their place, with its records as they are."""
        state, report = self._state, self._state.report
        refused = state.file.problem is not None and bool(state.file.columns)
        self._columns_open = self._columns_open and (state.file.busy or self._has_columns())
        self._columns_card.setVisible(self._columns_open)
        if not self._columns_open:
            return
        (self.main if report is None else self._side_column).insertWidget(0, self._columns_card)
        file, shown, one = state.file.refused_file, self._report_of_columns(), state.chosen_set
        if refused and file is not None:
            self._columns_card.show_file(file_name(file.path) if state.file.refused is not None else "")
            self._columns_card.show_columns(state.file.columns, file.map, by_hand=True)
        elif shown is not None:
            by_hand = one.part.map if one is not None else state.data.map if state.data is not None else {}
            self._columns_card.show_file(one.name if one is not None else "")
            self._columns_card.show_columns(shown.columns, shown.map, by_hand=bool(by_hand))
        if refused and report is None:
            self._columns_card.show_records(state.file.records)
        else:
            self._columns_card.show_rows(state.first_rows)

    def _show_skipped(self, report: ImportReport) -> None:
        self._skipped_open = self._skipped_open and report.skipped > 0
        self._skipped.setVisible(self._skipped_open)
        if self._skipped_open:
            self._skipped.show_problems(report.problems, report.skipped, report.rows_in)

    def _show_start(self) -> None:
        file = self._state.file
        self._start.show_recent(self.app.preferences.values.data)
        if file.problem is not None:
            mendable, refused = bool(file.columns), file.refused_file
            name = file_name(refused.path) if refused is not None else "The mixture"
            self._start.show_problem(name, file.problem, mendable=mendable, encoding=file.likely_encoding)
        else:
            self._start.show_empty()

    def _show_banner(self) -> None:
        state, problem = self._state, self._state.file.problem
        if state.report is not None and problem is not None:
            hint = HINT if state.file.likely_encoding else problem.hint
            self._tell_problem(f"{problem.message} {hint}".strip())
        elif state.asks_about_skipped:
            self._ask_about_skipped()
        elif self.banner.isVisible():
            self.banner.clear()
        if problem is None:
            self._told = ("", False)

    def _tell_problem(self, words: str) -> None:
        mendable = bool(self._state.file.columns)
        if (words, mendable) == self._told:
            return
        self._told = words, mendable
        ways: list[QWidget] = []
        if mendable:
            mend = SecondaryButton("Choose the columns…", small=True, name="data_mend_columns_here")
            mend.clicked.connect(self._on_columns)
            ways.append(mend)
        if likely := self._state.file.likely_encoding:
            encoding = EncodingPick(likely, "data_encoding_here", small=True)
            encoding.chosen.connect(self._state.read_encoded)
            ways.append(encoding)
        self.banner.show_text(words, "bad", *ways)

    def _ask_about_skipped(self) -> None:
        report = self._state.report
        assert report is not None
        reasons = ", ".join(f"{problem.reason} ({problem.count:,})" for problem in report.problems[:2])
        first = f" First: line {min(problem.line for problem in report.problems):,}."
        words = (
            f"{report.skipped:,} of {report.rows_in:,} rows ({percent(report.skipped / report.rows_in)}) "
            f"skipped: {reasons}.{'' if report.parts else first}"  # whose line it is stands in the list
        )
        if self.banner.text() == words:
            return
        look = SecondaryButton("Show all", small=True, name="data_ask_show")
        go_on = SecondaryButton("Use the others", small=True, name="data_ask_accept")
        look.clicked.connect(lambda: self._on_number("skipped"))
        go_on.clicked.connect(self._state.accept_skipped)
        self.banner.show_text(words, "warn", look, go_on, closable=False)

    def _on_import(self) -> None:
        dialog = QFileDialog(self, "Import data: one file, or several to be mixed", "", name_filter())
        dialog.setObjectName("data_pick")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        self._pick(dialog, self._state.read_all)

    def _on_import_folder(self) -> None:
        dialog = _folder_dialog(self, "Import a folder of data files")
        dialog.setObjectName("data_pick_folder")
        self._pick(dialog, self._state.read_all)

    def _on_add(self) -> None:
        dialog = QFileDialog(self, "Add files to the data", "", name_filter())
        dialog.setObjectName("data_pick_more")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        self._pick(dialog, self._add)

    def _on_add_folder(self) -> None:
        dialog = _folder_dialog(self, "Add a folder of data files")
        dialog.setObjectName("data_pick_more_folder")
        self._pick(dialog, self._add)

    def _add(self, paths: list[str]) -> None:
        there = self._state.add(paths)
        if there:
            names = ", ".join(Path(path).name for path in there)
            self.app.notices.say(f"{names} is among these rows already: raise its weight instead", "warn")

    def _pick(self, dialog: QFileDialog, take: Callable[[list[str]], None]) -> None:
        """Shown without holding the window up."""
        dialog.filesSelected.connect(lambda paths: take([str(Path(path).absolute()) for path in paths]))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_use(self) -> None:
        self._state.use()
        self.app.show_page("train")

    def _on_columns(self) -> None:
        self._columns_open = not self._columns_open
        self._refresh()

    def _open_columns(self) -> None:
        self._columns_open = True
        self._refresh()

    def _on_number(self, name: str) -> None:
        if name == "skipped":
            self._skipped_open = True
            self._refresh()
        else:
            self._state.show("duplicates" if name == "merged" else ALL)

    def _on_finding(self, key: str) -> None:
        finding = self._state.findings().get(key)
        if finding is not None and finding.kind == "skipped":
            self._on_number("skipped")
        else:
            self._state.show(key)

    def _on_compare(self) -> None:
        dialog = QFileDialog(self, "Compare with a test file", "", name_filter())
        dialog.setObjectName("data_pick_test")
        dialog.fileSelected.connect(lambda path: self._state.doctor.compare(str(Path(path).absolute())))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_save_copy(self) -> None:
        name = "mixture" if self._state.mix.sets else Path(self._state.name).stem or "data"
        name = f"{name}-cleaned.jsonl"
        dialog = QFileDialog(self, "Save a cleaned copy", name, "JSON lines (*.jsonl)")
        dialog.setObjectName("data_save_copy_as")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setOption(QFileDialog.Option.DontConfirmOverwrite)  # no file is ever written over
        dialog.setDefaultSuffix("jsonl")
        dialog.fileSelected.connect(lambda path: self._state.save_copy(str(Path(path).absolute())))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_copy_saved(self, answer: CopySaved) -> None:
        once = ", each once whatever its weight" if self._state.mix.sets else ""
        self.app.notices.say(f"Saved {answer.rows:,} rows to {Path(answer.path).name}{once}")

    def _on_copy_refused(self, problem: Problem) -> None:
        self.app.notices.say(f"{problem.message} {problem.hint}".strip(), "bad")

    def _on_skipped_closed(self) -> None:
        self._skipped_open = False
        self._refresh()

    def _on_copy_skipped(self) -> None:
        QGuiApplication.clipboard().setText(self._state.skipped_text())
        self.app.notices.say("Copied")

    def _on_save_skipped(self) -> None:
        dialog = QFileDialog(self, "Save the skipped lines", "skipped.txt", "Text (*.txt)")
        dialog.setObjectName("data_save_skipped_as")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.fileSelected.connect(self._on_skipped_file)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_skipped_file(self, path: str) -> None:
        problem = self._state.save_skipped(Path(path))
        self.app.notices.say(problem or f"Saved {Path(path).name}", "bad" if problem else "ok")

    def _fill_recent(self) -> None:
        self._recent.clear()
        for path in self.app.preferences.values.data[:10]:
            action = self._recent.addAction(Path(path).name.replace("&", "&&"))
            action.triggered.connect(lambda _=False, path=path: self._state.read(path))


def _folder_dialog(parent: QWidget, title: str) -> QFileDialog:
    dialog = QFileDialog(parent, title)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    return dialog
