"""What an import counted: rows in the file = imported + skipped + merged, each a way to those rows."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from qlora_studio.data.report import ImportReport
from qlora_studio.state.data import DataState
from qlora_studio.state.draft import RunDraft
from qlora_studio.ui.figures import THIN, count
from qlora_studio.ui.pages.data_format import FormatChip
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, Chip, DecimalBox, LinkButton, PlainLabel, Separator
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.buttons import RingedButton
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.rows import in_line

HELD_OUT = "data.validation"


class EquationCard(Card):
    """The four numbers always add up.

    asked:      rows_in | imported | skipped | merged: one of the numbers was pressed
    format_set: the format to read the file in
    add_asked:  another file is to be added, which makes a mixture
    """

    asked = Signal(str)
    format_set = Signal(str)
    add_asked = Signal()

    def __init__(self, draft: RunDraft, state: DataState) -> None:
        super().__init__(name="data_equation")
        self.setAccessibleName("What the import counted")
        self._draft = draft
        self._state = state
        self._numbers = {
            "rows_in": NumberButton("rows in the file", name="data_rows_in"),
            "imported": NumberButton("imported", "ok", name="data_imported"),
            "skipped": NumberButton("skipped, with reasons", "warn", name="data_skipped_count"),
            "merged": NumberButton("merged as equal", name="data_merged"),
        }
        self._train, self._evaluate = PlainLabel("", "number"), PlainLabel("", "number")
        self._left_out = PlainLabel("", "number", name="data_left_out")
        self._share = DecimalBox(
            0.0, 50.0, 5.0, name="data_validation", label="Share held out for evaluation",
            step=1.0, places=1, unit="%",
        )  # fmt: skip
        self.format = FormatChip(name="data_format")
        self.encoding = Chip("", name="data_encoding")
        self._add = LinkButton("Add a file…", "plus", name="data_add")
        self._build()
        self._bind()

    def refresh(self) -> None:
        """After another import, count or share."""
        report = self._state.report
        if report is None:
            return
        for name, button in self._numbers.items():
            button.set_number(getattr(report, name))
        self._numbers["rows_in"].set_words("rows in all files" if report.parts else "rows in the file")
        self._numbers["skipped"].set_idle("" if report.skipped else "none skipped")
        self._numbers["merged"].set_idle("" if report.merged else "none equal")
        self._left_out.setText(count(report.left_out_by_fixes))
        self._fixed.setVisible(bool(report.fixes) or report.left_out_by_fixes > 0)
        train, evaluate = self._state.split()
        share = self._draft.value(HELD_OUT)
        self._train.setText(count(train))
        self._evaluate.setText("a file" if isinstance(share, str) else count(evaluate))
        self._share.setVisible(not isinstance(share, str))
        if not isinstance(share, str):
            self._share.blockSignals(True)
            self._share.setValue(share * 100)
            self._share.blockSignals(False)
        self._show_chips(report)

    def _show_chips(self, report: ImportReport) -> None:
        """Of a mixture they stand at each of its data sets."""
        state, data = self._state, self._state.data
        self._read_as.setVisible(not state.mix.sets)
        allow(self._add, state.file.words if state.file.busy else "")
        chosen = data is not None and (data.format != "auto" or bool(data.map))
        self.format.show_report(report, chosen=chosen)
        self.encoding.set(report.encoding.upper(), "neutral", "check")

    # Layout and wiring ------------------------------------------------------------------------------

    def _build(self) -> None:
        flow = Flow(gap=8, line_gap=8, last_at_right=True)
        for name, button in self._numbers.items():
            sign = {"rows_in": "", "imported": "="}.get(name, "+")
            flow.addWidget(in_line(PlainLabel(sign, "card_title"), button, gap=8) if sign else button)
        self._fixed = in_line(
            Separator(upright=True),
            _in_column(self._left_out, PlainLabel("left out by fixes", "muted")),
            gap=8,
        )
        flow.addWidget(self._fixed)
        split = in_line(
            Separator(upright=True),
            _in_column(self._train, PlainLabel("for training, about", "muted")),
            _in_column(self._evaluate, PlainLabel("for evaluation", "muted")),
            self._share,
            gap=8,
        )
        flow.addWidget(split)
        at_right = Qt.AlignmentFlag.AlignRight
        self._read_as = _in_column(
            self.format, in_line(self._add, self.encoding, gap=8), side=at_right, gap=6
        )
        flow.addWidget(self._read_as)
        self.body.addLayout(flow)

    def _bind(self) -> None:
        for name, button in self._numbers.items():
            button.clicked.connect(self._asker(name))
        self.format.picked.connect(self.format_set)
        self._add.clicked.connect(self.add_asked)
        self._share.valueChanged.connect(lambda percent: self._draft.set(HELD_OUT, round(percent / 100, 4)))

    def _asker(self, name: str) -> Callable[[], None]:
        return lambda: self.asked.emit(name)


class NumberButton(RingedButton):
    """A number with its words below; a click leads to the rows it counts."""

    def __init__(self, words: str, tone: str = "", *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._words, self._tone = words, tone
        self._number = PlainLabel("0", "number")
        self._caption = PlainLabel(words, "muted")
        self._column = layout = QVBoxLayout(self)
        layout.setContentsMargins(theme().px(4), 0, theme().px(4), 0)
        layout.setSpacing(0)
        layout.addStretch()
        for label in (self._number, self._caption):
            label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            layout.addWidget(label)
        layout.addStretch()
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def set_words(self, words: str) -> None:
        """What is counted."""
        self._words = words
        self._caption.setText(words)
        self.setAccessibleName(f"{self._number.text()} {words}")

    def set_number(self, number: int) -> None:
        """In its tone only where it isn't zero."""
        self._number.setText(count(number))
        self._number.set_tone(self._tone if number else "")
        self.setAccessibleName(f"{number:,} {self._words}")
        self.updateGeometry()

    def set_idle(self, reason: str) -> None:
        """Where there are no such rows, there is nothing to press."""
        allow(self, reason)
        self._caption.setText(reason or self._words)

    def sizeHint(self) -> QSize:
        return self._column.sizeHint()


def _in_column(
    *widgets: QWidget, side: Qt.AlignmentFlag = Qt.AlignmentFlag.AlignLeft, gap: int = 0
) -> QWidget:
    block = QWidget()
    column = QVBoxLayout(block)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(theme().px(gap))
    for widget in widgets:
        column.addWidget(widget, 0, side)
    return block


def percent(share: float) -> str:
    """5 %; below one: 0.4 %."""
    number = share * 100
    return f"{number:.0f}{THIN}%" if number >= 1 or not number else f"{number:.1f}{THIN}%"
