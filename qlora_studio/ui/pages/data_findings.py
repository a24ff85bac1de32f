"""What is odd about the rows: each finding with its count, its reason, its rows, and what would mend it."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QAbstractButton, QApplication, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.data.report import Finding
from qlora_studio.plain_text import visible_line
from qlora_studio.state.data import DataState
from qlora_studio.state.data_findings import NOTHING
from qlora_studio.state.data_fixes import AppliedFix
from qlora_studio.ui.pages.data_encoding import HINT, EncodingPick
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    Chip,
    IconLabel,
    LinkButton,
    Meter,
    PlainLabel,
    SecondaryButton,
    Separator,
    empty_layout,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.flow import Flow

TONE_ICONS = {"bad": "circle-alert", "warn": "triangle-alert", "info": "info", "ok": "check"}
TONE_COLORS = {"bad": "bad", "warn": "warn", "info": "accent", "ok": "ok"}
_LONGEST_NAME = 24  # characters of a data set's name on a button
_GUESSED = ("guess", "header")  # kinds that a person mends by saying what the columns mean
BUSY = "Rows are being read"
_WITH_KEYS = (
    Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier | Qt.KeyboardModifier.MetaModifier
)


class FindingsCard(Card):
    """Findings come while the rows can be read already; fixes stay listed, each with its way back.

    asked:     the key of the finding whose rows are to be listed
    fix_asked: the key of the finding that is to be mended
    fix_set_asked: the same, in the data set alone that is chosen in the mixture
    undo_asked: the AppliedFix to take back
    compare_asked, save_asked: for the file with tests, for the file of the copy
    encoding_chosen: of a test file, or of one that is held out
    columns_asked: to say what the columns mean
    """

    asked = Signal(str)
    compare_asked = Signal()
    save_asked = Signal()
    fix_asked = Signal(str)
    fix_set_asked = Signal(str)
    undo_asked = Signal(object)
    encoding_chosen = Signal(str)
    columns_asked = Signal()

    def __init__(self, state: DataState) -> None:
        super().__init__("Data doctor", name="data_findings")
        self._state = state
        self._to_decide = Chip("", "warn", name="data_to_decide")
        self._work = DoctorWork()
        self._of_all = PlainLabel("", "note", wrap=True, name="data_fixes_of_all")
        self._list = QVBoxLayout()
        self._compare = LinkButton("Compare with a test file…", small=True, name="data_compare")
        self._save = LinkButton("Save cleaned copy…", small=True, name="data_save_copy")
        self._saving = PlainLabel("", "note", wrap=True, name="data_saving")
        self._stop_saving = SecondaryButton("Stop", "square", small=True, name="data_stop_saving")
        self._shown: object = None
        self._lines: list[QWidget] = []
        self._left_at: int | None = None  # the line that had the focus before rows were read anew
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)  # a place for the keyboard while lines come and go
        self._build()
        self._bind()

    def refresh(self) -> None:
        """After another import, or where the doctor is further."""
        state, doctor = self._state, self._state.doctor
        self._work.show_state(state)
        self._saving.setText(state.copy.words or "Your file is never changed.")
        self._stop_saving.setVisible(bool(state.copy.words))
        self._save.setVisible(not state.copy.words)
        findings, fixes, sets = state.findings(), state.fixes(), len(state.mix.sets)
        shown = (findings, fixes, sets, state.part, doctor.knows, doctor.test, state.file.busy)
        if state.report is None or shown == self._shown:
            return
        self._shown = shown
        self._show_chip(list(findings.values()))
        mends = sets and any(finding.fix is not None for finding in findings.values())
        self._of_all.setVisible(bool(mends))
        self._of_all.setText(
            f"A fix holds for all {sets:,} data sets, or with “Only in” for the one chosen in their list."
        )
        lines: list[QWidget] = [self._finding_row(key, finding) for key, finding in findings.items()]
        lines += [FineRow(words, why) for words, why in _fine(state, list(findings.values()))]
        lines += [self._fix_row(fix) for fix in fixes]
        self._show_lines(lines)

    def fix_first(self) -> None:
        """The first of those that can be mended."""
        findings = self._state.findings().items()
        first = next((key for key, finding in findings if finding.fix is not None), None)
        if first is not None:
            self.fix_asked.emit(first)

    def has_keyboard(self) -> bool:
        """Whether the focus is somewhere in it."""
        focused = QApplication.focusWidget()
        return focused is not None and (focused is self or self.isAncestorOf(focused))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter presses the button that has the focus: a fix, its way back, [Show]."""
        focused = QApplication.focusWidget()
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not event.modifiers() & _WITH_KEYS
        if enter and isinstance(focused, QAbstractButton) and self.isAncestorOf(focused):
            focused.click()
        else:
            super().keyPressEvent(event)

    def _show_lines(self, lines: list[QWidget]) -> None:
        """In place of those before. Whoever works with the keyboard goes on at the same place."""
        focused = QApplication.focusWidget()
        for place, line in enumerate(self._lines):
            if focused is not None and line.isAncestorOf(focused):
                self._left_at = place
                self.setFocus(Qt.FocusReason.OtherFocusReason)
        empty_layout(self._list)
        self._lines = lines
        for number, line in enumerate(lines):
            if number:
                self._list.addWidget(Separator())
            self._list.addWidget(line)
        if self._left_at is not None and not self._state.file.busy:
            self._go_on_at(self._left_at)
            self._left_at = None

    def _go_on_at(self, place: int) -> None:
        """At the first button from there on, or else the last before."""
        if not self.hasFocus():
            return  # the person went elsewhere meanwhile
        buttons = [
            (number, button)
            for number, line in enumerate(self._lines)
            for button in line.findChildren(QAbstractButton)
            if button.isEnabled() and not button.isHidden()
        ]
        after = [found for found in buttons if found[0] >= place]
        for number, button in after[:1] or buttons[-1:]:
            self._lines[number].show()  # else a moment later, and only what is shown takes the focus
            button.setFocus(Qt.FocusReason.OtherFocusReason)

    def _show_chip(self, findings: list[Finding]) -> None:
        decide = sum(finding.fix is not None for finding in findings)
        grave = sum(finding.tone in ("bad", "warn") for finding in findings)
        if decide:
            self._to_decide.set(f"{decide:,} to decide", "warn")
        elif grave:
            self._to_decide.set(f"{grave:,} to look at", "warn")
        else:
            self._to_decide.set("Nothing to decide", "ok")
        self._to_decide.setVisible(bool(decide or grave) or self._state.doctor.findings is not None)

    def _finding_row(self, key: str, finding: Finding) -> FindingRow:
        one = self._state.chosen_set if self._state.can_fix_set(finding) else None
        row = FindingRow(
            key, finding, one.name if one is not None else "", BUSY if self._state.file.busy else ""
        )
        row.fix_set.clicked.connect(lambda: self.fix_set_asked.emit(key))
        row.show_rows.clicked.connect(lambda: self.asked.emit(key))
        row.fix.clicked.connect(lambda: self.fix_asked.emit(key))
        row.columns.clicked.connect(self.columns_asked)
        return row

    def _fix_row(self, fix: AppliedFix) -> FixRow:
        row = FixRow(fix, BUSY if self._state.file.busy else "")
        row.undo.clicked.connect(lambda: self.undo_asked.emit(fix))
        return row

    def _build(self) -> None:
        self._list.setSpacing(theme().px(6))
        self.add_to_head(self._to_decide)
        self.body.addWidget(self._work)
        self.body.addWidget(self._of_all)
        self.body.addLayout(self._list)
        self.body.addStretch()
        saving = QHBoxLayout()
        saving.setSpacing(theme().px(8))
        saving.addWidget(self._saving, 1)
        saving.addWidget(self._stop_saving)
        buttons = QWidget()
        flow = Flow(gap=6, line_gap=4, parent=buttons)
        flow.addWidget(self._compare)
        flow.addWidget(self._save)
        self.body.addLayout(saving)
        self.body.addWidget(buttons)

    def _bind(self) -> None:
        doctor = self._state.doctor
        self._work.stop.clicked.connect(doctor.stop)
        self._work.go.clicked.connect(doctor.look_now)
        self._work.encoding.chosen.connect(self.encoding_chosen)
        self._compare.clicked.connect(self.compare_asked)
        self._save.clicked.connect(self.save_asked)
        self._stop_saving.clicked.connect(self._state.copy.stop)


class DoctorWork(QWidget):
    """How far the doctor is, or why it doesn't look; nothing once it has looked."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("data_doctor")
        self._words = PlainLabel("", "note", wrap=True, name="data_doctor_words")
        self._bar = Meter(name="data_doctor_bar", label="Share of the rows that were looked at")
        self.stop = SecondaryButton("Stop", "square", small=True, name="data_doctor_stop")
        self.go = SecondaryButton("Look now", "search", small=True, name="data_doctor_go")
        self.encoding = EncodingPick(name="data_encoding_beside", small=True)
        row = QHBoxLayout()
        row.setSpacing(theme().px(8))
        row.addWidget(self._words, 1)
        row.addWidget(self.stop)
        row.addWidget(self.go)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, theme().px(4))
        column.setSpacing(theme().px(6))
        column.addLayout(row)
        column.addWidget(self.encoding)
        column.addWidget(self._bar)

    def show_state(self, state: DataState) -> None:
        doctor = state.doctor
        looks = bool(doctor.words)
        if doctor.problem is not None:
            hint = HINT if doctor.likely_encoding else doctor.problem.hint
            words = f"{doctor.problem.message} {hint}".strip()
        elif looks:
            words = doctor.words
        else:
            rows = state.report.conversations if state.report is not None else 0
            words = f"Not all was looked for yet: that takes minutes in {rows:,} rows."
            if not doctor.is_long:
                words = "Not all was looked for yet."
        self._words.set_tone("bad" if doctor.problem is not None else "")
        self._words.setText(words)
        self._bar.setVisible(looks and doctor.share >= 0)
        self._bar.set_share(doctor.share)
        self.stop.setVisible(looks)
        self.go.setVisible(not looks and not doctor.likely_encoding)
        self.encoding.setVisible(bool(doctor.likely_encoding))
        self.encoding.propose(doctor.likely_encoding)
        self.setVisible(not doctor.knows)


class FindingRow(QWidget):
    """Icon, count in words, why; below them [Show] and the one fix.

    only: the data set of a mixture that can be mended alone; empty: none
    """

    def __init__(self, key: str, finding: Finding, only: str, why_not: str) -> None:
        super().__init__()
        self.show_rows = LinkButton("Show", small=True, name=f"data_show_{key}")
        self.show_rows.setAccessibleName(f"Show: {finding.words}")
        self.fix = SecondaryButton(finding.fix_words or "Mend", small=True, name=f"data_fix_{key}")
        self.fix.setAccessibleName(f"{finding.fix_words}: {finding.words}")
        name = visible_line(only)
        name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        self.fix_set = LinkButton(f"Only in {name}", small=True, name=f"data_fix_set_{key}")
        self.fix_set.setAccessibleName(f"{finding.fix_words}, only in {only}: {finding.words}")
        self.columns = SecondaryButton("Columns…", small=True, name=f"data_columns_{key}")
        self.columns.setAccessibleName(f"Columns: {finding.words}")
        allow(self.fix, why_not)
        allow(self.fix_set, why_not)
        is_guess = finding.kind in _GUESSED
        shows = bool(finding.rows) or finding.kind in (NOTHING, "skipped")
        mends = finding.fix is not None
        buttons = QWidget(self)
        flow = Flow(gap=6, line_gap=4, parent=buttons)
        flow.addWidget(self.show_rows)
        flow.addWidget(self.fix)
        flow.addWidget(self.fix_set)
        flow.addWidget(self.columns)
        self.show_rows.setVisible(shows)
        self.fix.setVisible(mends)
        self.fix_set.setVisible(mends and bool(only))
        self.columns.setVisible(is_guess)
        buttons.setVisible(shows or mends or is_guess)
        words = QVBoxLayout()
        words.setSpacing(theme().px(2))
        words.addWidget(PlainLabel(finding.words, "label", wrap=True))
        words.addWidget(PlainLabel(finding.why, "note", wrap=True))
        words.addWidget(buttons)
        if why_not and mends:
            words.addWidget(PlainLabel(why_not, "note"))
        layout = _beside_icon(self, IconLabel(TONE_ICONS[finding.tone], TONE_COLORS[finding.tone]))
        layout.addLayout(words, 1)


class FineRow(QWidget):
    """What was looked for and isn't there."""

    def __init__(self, words: str, why: str) -> None:
        super().__init__()
        column = QVBoxLayout()
        column.setSpacing(theme().px(1))
        column.addWidget(PlainLabel(words, "label", wrap=True))
        column.addWidget(PlainLabel(why, "note", wrap=True))
        _beside_icon(self, IconLabel("check", "ok")).addLayout(column, 1)


class FixRow(QWidget):
    """A fix that is in force, and the way back."""

    def __init__(self, fix: AppliedFix, why_not: str) -> None:
        super().__init__()
        of = "" if fix.part is None else f"{fix.part}_"
        self.undo = LinkButton("Undo", "undo-2", small=True, name=f"data_undo_{of}{fix.place}")
        self.undo.setAccessibleName(f"Undo: {fix.words}")
        allow(self.undo, why_not)
        layout = _beside_icon(self, IconLabel("check", "ok"))
        column = QVBoxLayout()
        column.setSpacing(theme().px(1))
        column.addWidget(PlainLabel(fix.words, "label", wrap=True))
        if why_not:
            column.addWidget(PlainLabel(why_not, "note"))
        layout.addLayout(column, 1)
        layout.addWidget(self.undo, 0, Qt.AlignmentFlag.AlignVCenter)


def _beside_icon(row: QWidget, icon: IconLabel) -> QHBoxLayout:
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, theme().px(2), 0, theme().px(2))
    layout.setSpacing(theme().px(10))
    layout.addWidget(icon, 0, Qt.AlignmentFlag.AlignTop)
    return layout


def _fine(state: DataState, findings: list[Finding]) -> list[tuple[str, str]]:
    """What the doctor looked for in vain: words and note."""
    doctor, report = state.doctor, state.report
    if not doctor.knows or report is None:
        return []
    rows = f"{report.conversations:,} rows were looked at"
    fine = []
    if doctor.test and not any(finding.kind == "test_rows" for finding in findings):
        fine.append((f"No row of {Path(doctor.test).name} is among these", rows))
    if not findings:
        fine.append(("Nothing odd was found", rows))
    return fine
