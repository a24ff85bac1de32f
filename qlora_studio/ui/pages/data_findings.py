"""What is odd about the rows: each finding with its count, its reason, its rows, and what would mend it."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.data.report import Finding, FixCount
from qlora_studio.state.data import NOTHING, DataState
from qlora_studio.state.data_fixes import fix_words
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
BUSY = "Rows are being read"


class FindingsCard(Card):
    """Findings come while the rows can be read already; fixes stay listed, each with its way back.

    asked:     the kind of the finding whose rows are to be listed
    fix_asked: the kind of the finding that is to be mended
    undo_asked: the place of a fix in the recipe
    compare_asked, save_asked: for the file with tests, for the file of the copy
    """

    asked = Signal(str)
    compare_asked = Signal()
    save_asked = Signal()
    fix_asked = Signal(str)
    undo_asked = Signal(int)

    def __init__(self, state: DataState) -> None:
        super().__init__("Data doctor", name="data_findings")
        self._state = state
        self._to_decide = Chip("", "warn", name="data_to_decide")
        self._work = DoctorWork()
        self._list = QVBoxLayout()
        self._compare = LinkButton("Compare with a test file…", small=True, name="data_compare")
        self._save = LinkButton("Save cleaned copy…", small=True, name="data_save_copy")
        self._saving = PlainLabel("", "note", wrap=True, name="data_saving")
        self._stop_saving = SecondaryButton("Stop", "square", small=True, name="data_stop_saving")
        self._shown: object = None
        self._build()
        self._bind()

    def refresh(self) -> None:
        """After another import, or where the doctor is further."""
        state, doctor = self._state, self._state.doctor
        self._work.show_state(state)
        self._saving.setText(state.copy.words or "Your file is never changed.")
        self._stop_saving.setVisible(bool(state.copy.words))
        self._save.setVisible(not state.copy.words)
        findings, report = state.findings(), state.report
        fixes = report.fixes if report is not None else ()
        shown = (findings, fixes, doctor.findings is None, doctor.test, state.file.busy)
        if report is None or shown == self._shown:
            return
        self._shown = shown
        self._show_chip(findings)
        empty_layout(self._list)
        rows: list[QWidget] = [self._finding_row(finding) for finding in findings]
        rows += [FineRow(words, why) for words, why in _fine(state, findings)]
        rows += [self._fix_row(place, count) for place, count in enumerate(fixes)]
        for number, row in enumerate(rows):
            if number:
                self._list.addWidget(Separator())
            self._list.addWidget(row)

    def fix_first(self) -> None:
        """What Enter does: the first of those that can be mended."""
        first = next((finding for finding in self._state.findings() if finding.fix is not None), None)
        if first is not None:
            self.fix_asked.emit(first.kind)

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

    def _finding_row(self, finding: Finding) -> FindingRow:
        row = FindingRow(finding, BUSY if self._state.file.busy else "")
        row.show_rows.clicked.connect(lambda _, kind=finding.kind: self.asked.emit(kind))
        row.fix.clicked.connect(lambda _, kind=finding.kind: self.fix_asked.emit(kind))
        return row

    def _fix_row(self, place: int, count: FixCount) -> FixRow:
        row = FixRow(place, fix_words(count), BUSY if self._state.file.busy else "")
        row.undo.clicked.connect(lambda _, place=place: self.undo_asked.emit(place))
        return row

    def _build(self) -> None:
        self._list.setSpacing(theme().px(6))
        self.add_to_head(self._to_decide)
        self.body.addWidget(self._work)
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
        row = QHBoxLayout()
        row.setSpacing(theme().px(8))
        row.addWidget(self._words, 1)
        row.addWidget(self.stop)
        row.addWidget(self.go)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, theme().px(4))
        column.setSpacing(theme().px(6))
        column.addLayout(row)
        column.addWidget(self._bar)

    def show_state(self, state: DataState) -> None:
        doctor = state.doctor
        looks = bool(doctor.words)
        if doctor.problem is not None:
            words = f"{doctor.problem.message} {doctor.problem.hint}".strip()
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
        self.go.setVisible(not looks)
        self.setVisible(doctor.findings is None)


class FindingRow(QWidget):
    """Icon, count in words, why; below them [Show] and the one fix."""

    def __init__(self, finding: Finding, why_not: str) -> None:
        super().__init__()
        self.show_rows = LinkButton("Show", small=True, name=f"data_show_{finding.kind}")
        self.show_rows.setAccessibleName(f"Show: {finding.words}")
        self.fix = SecondaryButton(finding.fix_words or "Mend", small=True, name=f"data_fix_{finding.kind}")
        self.fix.setAccessibleName(f"{finding.fix_words}: {finding.words}")
        allow(self.fix, why_not)
        shows = bool(finding.rows) or finding.kind in (NOTHING, "skipped")
        mends = finding.fix is not None
        buttons = QWidget(self)
        flow = Flow(gap=6, line_gap=4, parent=buttons)
        flow.addWidget(self.show_rows)
        flow.addWidget(self.fix)
        self.show_rows.setVisible(shows)
        self.fix.setVisible(mends)
        buttons.setVisible(shows or mends)
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

    def __init__(self, place: int, words: str, why_not: str) -> None:
        super().__init__()
        self.undo = LinkButton("Undo", "undo-2", small=True, name=f"data_undo_{place}")
        self.undo.setAccessibleName(f"Undo: {words}")
        allow(self.undo, why_not)
        layout = _beside_icon(self, IconLabel("check", "ok"))
        column = QVBoxLayout()
        column.setSpacing(theme().px(1))
        column.addWidget(PlainLabel(words, "label", wrap=True))
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
    if doctor.findings is None or report is None:
        return []
    rows = f"{report.conversations:,} rows were looked at"
    fine = []
    if doctor.test and not any(finding.kind == "test_rows" for finding in findings):
        fine.append((f"No row of {Path(doctor.test).name} is among these", rows))
    if not findings:
        fine.append(("Nothing odd was found", rows))
    return fine
