"""The row that is looked at: as tokens, as text, or as it stands in the file."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QBrush, QColor, QGuiApplication, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QStackedWidget, QVBoxLayout, QWidget

from qlora_studio.data.conversation import Row
from qlora_studio.protocol.reading import TokensShown
from qlora_studio.state.data import DataState
from qlora_studio.state.draft import RunDraft
from qlora_studio.ui.pages.data_text import RowSource, RowText
from qlora_studio.ui.pages.data_tokens import TokenView, drawn
from qlora_studio.ui.theme import fade, theme
from qlora_studio.ui.widgets import (
    Card,
    ElidedLabel,
    EmptyState,
    IconButton,
    IconLabel,
    LinkButton,
    PlainLabel,
    SecondaryButton,
    Segmented,
    Separator,
)
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.text_size import at_text_size

TOKENS, TEXT, SOURCE = "tokens", "text", "source"
FATES = ("learned", "avoided", "context", "cut")
_SHOWN = 30  # characters of a token in the foot line


class RowCard(Card):
    """stepped: 1 or -1: the next or last row. copied: what is in the clipboard now, in words."""

    stepped = Signal(int)
    copied = Signal(str)
    unpack_asked = Signal()
    model_asked = Signal()

    def __init__(self, draft: RunDraft, state: DataState) -> None:
        super().__init__("Row", name="data_row")
        self._draft = draft
        self._state = state
        self._shown_row: int | None = None
        self._about = ElidedLabel("", "muted", name="data_row_about")
        self._set = ElidedLabel("", "muted", name="data_row_set")
        self.view = Segmented(
            [(TOKENS, "Tokens"), (TEXT, "Text"), (SOURCE, "Source")],
            name="data_view",
            label="Show the row as",
        )
        self._previous = IconButton("chevron-up", "Previous row", name="data_prev", small=True)
        self._next = IconButton("chevron-down", "Next row", name="data_next", small=True)
        self._legend = {fate: LegendItem(fate) for fate in FATES}
        self.tokens = TokenView(name="data_tokens")
        self._text = RowText(name="data_text")
        self._source = RowSource(name="data_source")
        self._unpack = SecondaryButton("Unpack it now", "package-check", name="data_unpack_sample")
        self._choose = SecondaryButton("Choose a model", "box", name="data_choose_model")
        self._missing = EmptyState("box", "", "", self._unpack, self._choose, name="data_no_tokens")
        self._rating = RatingLine()
        self._stack = QStackedWidget()
        self._foot = TokenFoot()
        self._build()
        self._bind()

    # What is shown ----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """After another row, model or limit."""
        row = self._state.row
        tokens = row.tokens
        self.title.setText("Row" if row.row is None else f"Row {row.row + 1:,}")
        self._about.setText(self._note())
        self._show_set()
        self._rating.show_row(row.shown)
        self._text.show_row(row.shown)
        self._source.show_row(row.shown)
        self.tokens.show_tokens(tokens.tokens if tokens else (), keep_place=row.row == self._shown_row)
        self._shown_row = row.row
        self._show_legend()
        self._show_missing()
        self._show_view()
        self._foot.show_token(self.tokens, tokens)

    def _note(self) -> str:
        tokens, shown = self._state.row.tokens, self._state.row.shown
        words = []
        if tokens is not None:
            words.append(f"{tokens.total:,} tokens")
        if shown is not None and shown.messages:
            words.append(f"{len(shown.messages):,} turns")
        return ", ".join(words)

    def _show_set(self) -> None:
        """Of a mixture: where the row is from."""
        shown = self._state.row.shown
        one = self._state.set_of(shown.row) if shown is not None else None
        self._set.setVisible(one is not None)
        if one is not None and shown is not None:
            self._set.setText(f"From {one.name}, line {shown.line:,}")

    def _show_legend(self) -> None:
        tokens = self._state.row.tokens
        counts = dict.fromkeys(FATES, 0)
        for token in tokens.tokens if tokens else ():
            counts[token.fate] += 1
        cut = self._draft.value("data.too_long") == "truncate"
        limit = f"{self._draft.value('data.seq_len'):,}"
        if self._state.has_source:
            limit += f" or {self._draft.value('data.target_len'):,} of target"
        words = {
            "learned": "Learned",
            "avoided": "Worse answer",
            "context": "Context only",
            "cut": f"Cut off at {limit}" if cut else f"Left out, longer than {limit}",
        }
        for fate, item in self._legend.items():
            item.set_words(words[fate], counts[fate])
        for fate in ("avoided", "cut"):
            self._legend[fate].setVisible(bool(counts[fate]))

    def _show_missing(self) -> None:
        state, row = self._state, self._state.row
        self._unpack.hide()
        self._choose.setVisible(not row.has_model)
        if row.problem is not None:
            self._missing.set_words(
                "No tokens of this row", f"{row.problem.message} {row.problem.hint}".strip()
            )
        elif state.unpacking:
            self._missing.set_words("Unpacking the sample model, once", "Tokens appear when it is there.")
            self._choose.hide()
        elif state.sample_waits:
            words = "Its tokens appear once it is unpacked. That happens once, on this machine."
            if state.counts.problem is not None:
                words = f"{state.counts.problem.message} {state.counts.problem.hint}".strip()
            self._missing.set_words("The sample model is not unpacked yet", words)
            self._unpack.show()
        elif not row.has_model:
            self._missing.set_words(
                "Pick a model to see tokens", "The text of the row can be read without one."
            )
        else:
            self._missing.set_words("Reading", "")

    def _show_view(self, _: str = "") -> None:
        view = self.view.value()
        has_tokens = self._state.row.tokens is not None
        shown: QWidget = {TEXT: self._text, SOURCE: self._source}.get(view, self.tokens)
        if view == TOKENS and not has_tokens:
            shown = self._missing
        self._stack.setCurrentWidget(shown)
        for item in self._legend.values():
            item.setEnabled(view == TOKENS)
        self._legend_row.setVisible(view == TOKENS and has_tokens)
        self._foot.setVisible(view == TOKENS and has_tokens)

    # Layout and wiring ------------------------------------------------------------------------------

    def _build(self) -> None:
        self.head.insertWidget(1, self._about, 1)
        self.head.removeWidget(self.note)
        self.note.hide()
        for widget in (self.view, self._previous, self._next):
            self.add_to_head(widget)
        self._legend_row = QWidget()
        legend = Flow(gap=18, line_gap=4, parent=self._legend_row)
        for item in self._legend.values():
            legend.addWidget(item)
        for view in (self.tokens, self._text, self._source, self._missing):
            self._stack.addWidget(view)
        self.body.addWidget(self._set)
        self.body.addWidget(self._rating)
        self.body.addWidget(self._legend_row)
        self.body.addWidget(Separator())
        self.body.addWidget(self._stack, 1)
        self.body.addWidget(self._foot)

    def _bind(self) -> None:
        self._state.row.changed.connect(self.refresh)
        self.view.changed.connect(self._show_view)
        self._previous.clicked.connect(lambda: self.stepped.emit(-1))
        self._next.clicked.connect(lambda: self.stepped.emit(1))
        self.tokens.pointed.connect(lambda _: self._foot.show_token(self.tokens, self._state.row.tokens))
        self.tokens.page_asked.connect(self._state.row.turn_page)
        self._foot.turned.connect(self._state.row.turn_page)
        self._foot.copy.clicked.connect(self._on_copy)
        self._unpack.clicked.connect(self.unpack_asked)
        self._choose.clicked.connect(self.model_asked)

    def turn(self, by: int) -> None:
        """PgUp and PgDn: through the tokens in sight, then to the next page of them."""
        if self.view.value() == TOKENS and not self.tokens.scroll_page(by):
            self._state.row.turn_page(by)

    def _on_copy(self) -> None:
        tokens = self._state.row.tokens
        if tokens is not None:
            QGuiApplication.clipboard().setText(", ".join(str(token.id) for token in tokens.tokens))
            self.copied.emit(f"{len(tokens.tokens):,} token ids copied")


class RatingLine(QWidget):
    """Of a pair of answers, or a rated one: what of it is learned. Nothing of other rows."""

    def __init__(self) -> None:
        super().__init__()
        self._icon, self._words = IconLabel("check", "ok"), PlainLabel("", wrap=True, name="data_rating")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(6))
        layout.addWidget(self._icon, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self._words, 1)
        self.hide()

    def show_row(self, row: Row | None) -> None:
        """Plain finetuning, the one method so far, learns the better answers only."""
        paired = row is not None and bool(row.rejected)
        label = row.label if row is not None else None
        self.setVisible(paired or label is not None)
        if paired:
            self._icon.set_icon("git-compare", "accent")
            self._words.setText("A pair of answers: the chosen one is learned, the rejected one isn't.")
        elif label:
            self._icon.set_icon("check", "ok")
            self._words.setText("Rated good: this answer is learned.")
        elif label is not None:
            self._icon.set_icon("x", "bad")
            self._words.setText("Rated bad: plain finetuning doesn't learn this answer.")


class LegendItem(QWidget):
    """A sample of the ground, its words, and how many tokens of the page have it."""

    def __init__(self, fate: str) -> None:
        super().__init__()
        self._words, self._count = PlainLabel("", "label"), PlainLabel("", "muted")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(6))
        layout.addWidget(FateSample(fate))
        layout.addWidget(self._words)
        layout.addWidget(self._count)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def set_words(self, words: str, count: int) -> None:
        self._words.setText(words)
        self._count.setText(f"{count:,}")


class FateSample(QWidget):
    """Ground, underline, hatch and strike as the tokens have them."""

    def __init__(self, fate: str) -> None:
        super().__init__()
        self._fate = fate
        at_text_size(self, self.setFixedWidth, 26)
        at_text_size(self, self.setFixedHeight, 14)
        theme().changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(getattr(theme().colors, f"token_{self._fate}")[1]))
        if self._fate == "learned":
            painter.fillRect(0, self.height() - 2, self.width(), 2, theme().color("ok"))
        elif self._fate == "avoided":
            painter.setPen(QPen(theme().color("warn"), 2, Qt.PenStyle.DotLine))
            painter.drawLine(0, self.height() - 1, self.width(), self.height() - 1)
        elif self._fate == "cut":
            painter.fillRect(self.rect(), QBrush(fade(theme().colors.bad, 0.35), Qt.BrushStyle.BDiagPattern))
            painter.setPen(QPen(theme().color("bad"), 1.4))
            painter.drawLine(0, self.height() // 2, self.width(), self.height() // 2)


class TokenFoot(QWidget):
    """Number, text, id, role and fate of the token under the cursor; below, the pages of a long row.

    turned: 1 or -1: the next or last page of tokens
    """

    turned = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._number, self._text = PlainLabel("", "strong"), PlainLabel("")
        self._rest = ElidedLabel("", "muted", name="data_token_words")
        self._pages = PlainLabel("", "muted")
        self._last = IconButton("chevron-left", "Last page of tokens", name="data_tokens_last", small=True)
        self._next = IconButton("chevron-right", "Next page of tokens", name="data_tokens_next", small=True)
        self.copy = LinkButton("Copy ids", name="data_copy_ids")
        self._build()
        self._last.clicked.connect(lambda: self.turned.emit(-1))
        self._next.clicked.connect(lambda: self.turned.emit(1))
        theme().changed.connect(self._on_theme_changed)

    def show_token(self, view: TokenView, shown: TokensShown | None) -> None:
        """The one under the cursor of `view`, which shows this page."""
        token = view.token()
        if shown is None or token is None:
            return
        on_page = len(shown.tokens)
        paged = shown.total > on_page
        self._page_row.setVisible(paged)
        self._last.setVisible(shown.start > 0)
        self._next.setVisible(shown.start + on_page < shown.total)
        self._pages.setText(f"Tokens {shown.start + 1:,} to {shown.start + on_page:,} of {shown.total:,}")
        self.copy.setToolTip("Of the tokens on this page" if paged else "")
        self._number.setText(f"Token {shown.start + view.cursor_place() + 1:,}")
        self._text.setText(f"“{drawn(token)[:_SHOWN]}”")
        fates = {"avoided": "of a worse answer", "context": "context only", "cut": "not trained on"}
        fate = fates.get(token.fate, token.fate)
        special = " · special" if token.special else ""
        role = f" · {token.role}" if token.role else ""
        self._rest.setText(f"id {token.id}{special} · {fate}{role}")

    def _build(self) -> None:
        token = QHBoxLayout()
        token.setSpacing(theme().px(8))
        token.addWidget(IconLabel("crosshair"))
        token.addWidget(self._number)
        token.addWidget(self._text)
        token.addWidget(self._rest, 1)
        token.addWidget(self.copy)
        self._page_row = QWidget()
        pages = QHBoxLayout(self._page_row)
        pages.setContentsMargins(0, 0, 0, 0)
        pages.setSpacing(theme().px(8))
        for widget in (self._last, self._next, self._pages):
            keep = widget.sizePolicy()
            keep.setRetainSizeWhenHidden(True)  # the words beside them stay where they are
            widget.setSizePolicy(keep)
            pages.addWidget(widget)
        pages.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(2))
        layout.addWidget(self._page_row)
        layout.addLayout(token)
        self._on_theme_changed()

    def _on_theme_changed(self) -> None:
        self._text.setFont(theme().font("mono"))  # without ligatures, which a style sheet can't say
