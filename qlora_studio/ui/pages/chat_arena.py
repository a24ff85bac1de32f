"""In place of a chat: the arena, where answers are judged without names, and who is how strong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QHBoxLayout, QHeaderView, QScrollArea, QVBoxLayout, QWidget

from qlora_studio.plain_text import visible_line
from qlora_studio.runs.arena import TIE, Arena, Standing
from qlora_studio.runs.arena_judge import trust, trust_words
from qlora_studio.state.arena import ArenaState
from qlora_studio.ui.pages.chat_text import ReplyText
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    EmptyState,
    IconButton,
    LinkButton,
    Meter,
    PlainLabel,
    SecondaryButton,
    TableView,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.columns import Columns
from qlora_studio.ui.widgets.text_size import at_text_size

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex

WHAT_IT_IS = (
    "Base and tuned models answer a list of prompts. You see two answers at a time, in random order and "
    "without names, and say which is better: a rating with its interval comes of it."
)
_LETTERS = "ABCD"
LEFT_KEY, TIE_KEY, RIGHT_KEY = "1", "T", "2"


class ArenaCard(Card):
    """back_asked: the chat again. prompts_, table_ and judge_asked: a file or folder is to be chosen."""

    back_asked = Signal()
    prompts_asked = Signal()
    table_asked = Signal()
    judge_asked = Signal()

    def __init__(self, state: ArenaState) -> None:
        super().__init__("Arena", " ", name="chat_arena")
        self._state = state
        self._counting = False  # the standing is looked at in place of answers
        self._build()
        self._bind()
        self.refresh()

    # Layout -----------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._new = SecondaryButton("New arena…", "file-input", small=True, name="chat_arena_new")
        self._switch = SecondaryButton("Standing", "table", small=True, name="chat_arena_standing")
        self._back = LinkButton("Chat", "message-square", name="chat_arena_back")
        for button in (self._switch, self._new, self._back):
            self.add_to_head(button)
        self.body.addWidget(self._build_progress())
        self._problem = PlainLabel("", "", wrap=True, name="chat_arena_problem")
        self._problem.set_tone("bad")
        self._why_not = PlainLabel("", "note", wrap=True, name="chat_arena_why_not")
        self._why_not.set_tone("warn")
        self._empty = EmptyState("git-compare", "Judge answers blindly", WHAT_IT_IS, name="chat_arena_empty")
        self.body.addWidget(self._problem)
        self.body.addWidget(self._why_not)
        self.body.addWidget(self._empty, 1)
        self.body.addWidget(self._build_answers(), 1)
        self.body.addWidget(self._build_votes())
        self.body.addWidget(self._build_standing(), 1)

    def _build_progress(self) -> QWidget:
        self._progress = QWidget()
        self._doing = PlainLabel("", "", wrap=True, name="chat_arena_doing")
        self._meter = Meter(name="chat_arena_meter", label="How many answers are there", height=6)
        at_text_size(self._meter, self._meter.setFixedWidth, 110)
        self._stop = SecondaryButton("Stop", "square", small=True, name="chat_arena_stop")
        self._go_on = SecondaryButton("Go on", "play", small=True, name="chat_arena_go_on")
        row = _row(self._progress)
        row.addWidget(self._doing, 1)
        for widget in (self._meter, self._stop, self._go_on):
            row.addWidget(widget)
        return self._progress

    def _build_answers(self) -> QWidget:
        self._prompt = PlainLabel("", "strong", wrap=True, name="chat_arena_prompt")
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(theme().px(10))
        column.addWidget(self._prompt)
        sides = Columns(most=2, least=240, gap=12, line_gap=12)
        self._texts = []
        for name in ("left", "right"):
            pane = Card(name=f"chat_arena_{name}_card")
            text = ReplyText(name=f"chat_arena_{name}")
            pane.body.addWidget(text)
            sides.addWidget(pane)
            self._texts.append(text)
        column.addLayout(sides)
        column.addStretch(1)
        self._answers = QScrollArea(widgetResizable=True)
        self._answers.setObjectName("chat_arena_answers")
        self._answers.setAccessibleName("Two answers to judge")
        self._answers.setFrameShape(QScrollArea.Shape.NoFrame)
        self._answers.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._answers.setWidget(inside)
        for ground in (self._answers.viewport(), inside):
            ground.setAutoFillBackground(False)  # the card's own
        at_text_size(self._answers, self._answers.setMinimumHeight, 240)
        return self._answers

    def _build_votes(self) -> QWidget:
        self._votes = QWidget()
        self._better = {
            "left": SecondaryButton(f"Left is better  ({LEFT_KEY})", name="chat_arena_left_better"),
            "tie": SecondaryButton(f"Tie  ({TIE_KEY})", name="chat_arena_tie"),
            "right": SecondaryButton(f"Right is better  ({RIGHT_KEY})", name="chat_arena_right_better"),
        }
        self._undo = IconButton("undo-2", "Take the last vote back (Ctrl+Z)", name="chat_arena_undo")
        row = _row(self._votes)
        row.addStretch(1)
        for button in self._better.values():
            row.addWidget(button)
        row.addStretch(1)
        row.addWidget(self._undo)
        return self._votes

    def _build_standing(self) -> QWidget:
        self._found = QWidget()
        column = QVBoxLayout(self._found)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(theme().px(8))
        self.model = StandingTable(self)
        self._table = TableView(name="chat_arena_table", label="Who is how strong")
        self._table.setModel(self.model)
        self._table.setSelectionMode(TableView.SelectionMode.SingleSelection)
        at_text_size(self._table, self._table.setMinimumHeight, 150)
        self._how = PlainLabel("", "note", wrap=True, name="chat_arena_how")
        self._csv = LinkButton("Save all votes…", "download", small=True, name="chat_arena_csv")
        self._judge = LinkButton("Ask a judge model…", "gauge", small=True, name="chat_arena_judge")
        self._trust = PlainLabel("", "note", wrap=True, name="chat_arena_trust")
        foot = QHBoxLayout()
        foot.addWidget(self._how, 1)
        foot.addWidget(self._judge)
        foot.addWidget(self._csv)
        column.addWidget(self._table, 1)
        column.addLayout(foot)
        column.addWidget(self._trust)
        return self._found

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        state = self._state
        state.changed.connect(self.refresh)
        self._new.clicked.connect(self.prompts_asked)
        self._back.clicked.connect(self.back_asked)
        self._csv.clicked.connect(self.table_asked)
        self._judge.clicked.connect(self.judge_asked)
        self._switch.clicked.connect(self._on_switch)
        self._stop.clicked.connect(state.stop)
        self._go_on.clicked.connect(state.go_on)
        self._undo.clicked.connect(state.take_back)
        self._better["left"].clicked.connect(lambda: self._vote("left"))
        self._better["tie"].clicked.connect(lambda: self._vote("tie"))
        self._better["right"].clicked.connect(lambda: self._vote("right"))
        for keys, which in ((LEFT_KEY, "left"), (RIGHT_KEY, "right"), (TIE_KEY, "tie")):
            action = QAction(self)
            action.setShortcut(QKeySequence(keys))
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(lambda _=False, which=which: self._vote(which))
            self.addAction(action)

    def take_focus(self) -> None:
        """For the keys."""
        buttons = (*self._better.values(), self._new, self._back)
        next(button for button in buttons if button.isEnabled() and button.isVisibleTo(self)).setFocus()

    def _vote(self, which: str) -> None:
        pair = self._state.pair
        if pair is not None and not self._counting:
            self._state.vote({"left": pair.left, "right": pair.right, "tie": TIE}[which])
            self._answers.verticalScrollBar().setValue(0)

    def _on_switch(self) -> None:
        self._counting = not self._counting
        self.refresh()

    # What is shown ----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """After anything changed."""
        state, arena = self._state, self._state.arena
        if not self.isVisible():
            return
        self._show_progress()
        self._problem.setText(f"{state.problem.message} {state.problem.hint}" if state.problem else "")
        self._problem.setVisible(state.problem is not None)
        why_not = state.why_no_start
        allow(self._new, why_not)
        self._why_not.setText(why_not)
        self._why_not.setVisible(bool(why_not) and not state.busy)
        self._empty.setVisible(arena is None)
        self._switch.setVisible(arena is not None)
        self._switch.become(*(("Judge", "eye") if self._counting else ("Standing", "table")))
        judging = arena is not None and not self._counting
        self._votes.setVisible(judging)
        self._answers.setVisible(judging)
        self._found.setVisible(arena is not None and self._counting)
        self.set_note(judged_words(arena) if arena is not None else "")
        if arena is not None and judging:
            self._show_pair(arena)
        elif arena is not None:
            self._show_standing(arena)

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self.refresh()

    def _show_progress(self) -> None:
        state = self._state
        there, every = state.progress
        answered, of = state.answered
        left = answered < of
        self._progress.setVisible(state.busy or left)
        words = state.words or "Answers are missing"
        self._doing.setText(f"{words}: {there:,} of {every:,}" if every else words)
        self._meter.setVisible(bool(every))
        self._meter.set_share(there / every if every else 0.0)
        self._stop.setVisible(state.busy)
        self._go_on.setVisible(left and not state.busy)

    def _show_pair(self, arena: Arena) -> None:
        pair = self._state.pair
        for button in self._better.values():
            allow(button, "" if pair is not None else "Nothing is to be judged")
        allow(self._undo, "" if arena.votes else "Nothing was judged yet")
        if pair is None:
            waits = self._state.busy
            self._prompt.setText("The next answers are being written." if waits else "All is judged.")
        else:
            self._prompt.setText(arena.prompts[pair.prompt])
        for text, place in zip(self._texts, (pair.left, pair.right) if pair else (None, None), strict=True):
            said = arena.answers[pair.prompt][place] if pair is not None and place is not None else ""
            text.show_text(said or "", written=False)

    def _show_standing(self, arena: Arena) -> None:
        allow(self._judge, self._state.why_no_judge)
        self._trust.setText(trust_words(trust(arena)) if arena.judgements else "")
        self._trust.setVisible(bool(arena.judgements))
        if self._state.standing is None:
            self._how.setText("Counting")
            self._state.count()
            return
        self.model.show(arena, self._state.standing)
        self._how.setText(
            "Elo from 1000, K = 32: the mean over 10,000 random orders of the games, and where 95 % of them "
            "lie. Equal answers count as a tie."
        )
        head = self._table.horizontalHeader()
        for column in range(self.model.columnCount()):
            head.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)


def judged_words(arena: Arena) -> str:
    """How far it is."""
    pairs = len(arena.prompts) * len(arena.players) * (len(arena.players) - 1) // 2
    return f"{len(arena.votes):,} of {pairs:,} judged"


def _row(widget: QWidget) -> QHBoxLayout:
    row = QHBoxLayout(widget)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(theme().px(10))
    return row


class StandingTable(QAbstractTableModel):
    """A row a player, the strongest first; after the ratings a column for each one it played against."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._titles: list[str] = []
        self._rows: list[list[str]] = []

    def show(self, arena: Arena, found: Standing) -> None:
        """Others in place of what it showed."""
        order = sorted(range(len(arena.players)), key=lambda place: -found.ratings[place].elo)
        names = [visible_line(player.name, 40) for player in arena.players]
        against = (f"Won vs {letter}" for letter, _ in zip(_LETTERS, order, strict=False))
        titles = ["", "Model", "Elo", "95 %", "Games", *against]
        rows = [
            [letter, *_cells(place, order, names, found)]
            for letter, place in zip(_LETTERS, order, strict=False)
        ]
        if (titles, rows) != (self._titles, self._rows):
            self.beginResetModel()
            self._titles, self._rows = titles, rows
            self.endResetModel()

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._titles)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return self._titles[section]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if index.isValid() and role == Qt.ItemDataRole.DisplayRole:
            return self._rows[index.row()][index.column()]
        return None


def _cells(place: int, order: list[int], names: list[str], found: Standing) -> Iterator[str]:
    rating = found.ratings[place]
    yield names[place]
    yield f"{rating.elo:,.0f}"
    yield f"{rating.low:,.0f} to {rating.high:,.0f}"
    yield f"{found.games[place]:,}"
    for other in order:
        played = found.won[place][other] + found.won[other][place]
        yield f"{found.won[place][other]:g} of {played:g}" if other != place else "–"
