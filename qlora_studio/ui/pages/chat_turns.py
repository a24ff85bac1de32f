"""One turn of a chat: what the person said, and the replies beside each other."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, SignalInstance
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.state.chat import ChatState
from qlora_studio.state.chat_turns import LEFT, RIGHT, Reply, Turn, Writing
from qlora_studio.state.reply_marks import PartMarks, marks_between
from qlora_studio.ui.figures import THIN
from qlora_studio.ui.pages.chat_text import ReplyText
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, Chip, IconButton, PlainLabel, SecondaryButton
from qlora_studio.ui.widgets.flow import Flow

GOOD_TIP = "Good answer: keep it as a row for training"
GOOD_ALREADY_TIP = "Kept as a row for training. Take it out again"
CORRECT_TIP = "Write this answer as it should be"
IN_A_LINE = 2  # replies; of three or four the others stand below
ENDS = {
    "length": "stopped at the longest reply",
    "stopped": "stopped",
    "context": "no room is left",
    "stop_word": "ended at a stop word",
    "corrected": "corrected by you",
}


class TurnRow(QWidget):
    """copied: a text. change_asked: the turn to say otherwise.

    again:          (turn, the reply to give once more)
    message_chosen: the turn that has another version of the message
    reply_chosen:   (turn, another version of one of its replies)
    correct_asked:  (turn, the reply to be written otherwise)
    good_switched:  (turn, the reply to keep for training, or no longer)
    """

    again = Signal(object, object)
    copied = Signal(str)
    change_asked = Signal(object)
    message_chosen = Signal(object)
    reply_chosen = Signal(object, object)
    correct_asked = Signal(object, object)
    good_switched = Signal(object, object)

    def __init__(self, turn: Turn, number: int, state: ChatState) -> None:
        super().__init__()
        self._turn = turn
        self._number = number
        self._state = state
        self._panes: dict[int, ReplyPane] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(12))
        layout.addWidget(self._build_said())
        self._replies = QGridLayout()
        self._replies.setSpacing(theme().px(12))
        for column in range(IN_A_LINE):
            self._replies.setColumnStretch(column, 1)
        layout.addLayout(self._replies)

    def _build_said(self) -> QFrame:
        number = self._number
        said = QFrame()
        said.setObjectName("chat_said")
        line = QHBoxLayout(said)
        line.setContentsMargins(theme().px(14), theme().px(6), theme().px(10), theme().px(6))
        line.setSpacing(theme().px(12))
        you = PlainLabel("You", "strong")
        you.set_tone("accent")
        self._said = PlainLabel(self._turn.text, "chat", wrap=True)
        self._said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._versions = Versions("message", name=f"chat_said_version_{number}")
        self._versions.stepped.connect(self._on_message_stepped)
        copy = IconButton("copy", "Copy the message", small=True, name=f"chat_copy_said_{number}")
        copy.clicked.connect(lambda: self.copied.emit(self._turn.text))
        self._change = IconButton(
            "pencil", "Change the message", small=True, name=f"chat_change_said_{number}"
        )
        self._change.clicked.connect(lambda: self.change_asked.emit(self._turn))
        for label in (you, self._said):  # level with the button's icon, also where the message has many lines
            label.setContentsMargins(0, theme().px(5), 0, theme().px(5))
        line.addWidget(you, 0, Qt.AlignmentFlag.AlignTop)
        line.addWidget(self._said, 1, Qt.AlignmentFlag.AlignTop)
        for widget in (self._versions, copy, self._change):
            line.addWidget(widget, 0, Qt.AlignmentFlag.AlignTop)
        return said

    def show_turn(self, turn: Turn, busy: bool) -> None:
        """This one from now on. busy: a reply is being written, here or in another turn."""
        if turn is not self._turn:
            self._turn = turn
            self._said.setText(turn.text)
        self._change.setVisible(not busy)
        messages = self._state.branches.messages(turn)
        self._versions.show_place(messages.index(turn), len(messages), not busy)
        for side, pane in self._panes.items():
            pane.setVisible(turn.reply(side) is not None)
        named = len(turn.replies) > IN_A_LINE or not all(map(self._state.is_as_chosen, turn.replies))
        for place, reply in enumerate(turn.replies):
            pane = self._panes.get(reply.side) or self._add_pane(reply.side)
            across = IN_A_LINE if len(turn.replies) == 1 else 1
            self._replies.addWidget(pane, place // IN_A_LINE, place % IN_A_LINE, 1, across)
            pane.show_name(self._state.name_of(reply) if named else "")
            pane.show_reply(reply, *self._marks(turn, reply))
            pane.allow_again(not busy)
            if reply.state is Writing.DONE and reply.text:
                pane.show_good(self._state.is_good(turn, reply))
            versions = self._state.branches.versions(turn, reply.side)
            pane.versions.show_place(versions.index(reply), len(versions), not busy)

    def show_reply(self, reply: Reply) -> bool:
        """False where it isn't one of this turn."""
        if not any(reply is own for own in self._turn.replies):
            return False
        self._panes[reply.side].show_reply(reply)  # its marks come once all are complete
        return True

    def _marks(self, turn: Turn, reply: Reply) -> tuple[PartMarks, str]:
        """Where it differs, and how in words: the base's from the tuned one, all others from the base's."""
        other = turn.reply(RIGHT if reply.side == LEFT else LEFT)
        if other is None or not self._state.mark_differences:
            return (), ""
        if not all(one.state is Writing.DONE and one.text for one in (reply, other)):
            return (), ""
        first, second = sorted((reply, other), key=lambda one: one.side)
        marks = marks_between(first.text, second.text)
        name = "the base's" if other.side == LEFT else "the tuned reply"
        if not marks.compared:
            return (), f"hardly a word as in {name}" if marks.unlike else "too long to mark differences"
        own = marks.first if reply is first else marks.second
        return own, f"underlined: not in {name}" if any(own) else ""

    def _add_pane(self, side: int) -> ReplyPane:
        pane = ReplyPane(side, self._number)
        pane.again.connect(lambda: self._tell(self.again, side))
        pane.correct_asked.connect(lambda: self._tell(self.correct_asked, side))
        pane.good_switched.connect(lambda: self._tell(self.good_switched, side))
        pane.copied.connect(self.copied)
        pane.versions.stepped.connect(lambda place: self._on_reply_stepped(side, place))
        self._panes[side] = pane
        return pane

    def _tell(self, signal: SignalInstance, side: int) -> None:
        reply = self._turn.reply(side)
        if reply is not None:
            signal.emit(self._turn, reply)

    def _on_message_stepped(self, place: int) -> None:
        self.message_chosen.emit(self._state.branches.messages(self._turn)[place])

    def _on_reply_stepped(self, side: int, place: int) -> None:
        self.reply_chosen.emit(self._turn, self._state.branches.versions(self._turn, side)[place])


class Versions(QWidget):
    """Which of several is shown: "2 of 3", with arrows that go around. stepped: the place to show."""

    stepped = Signal(int)

    def __init__(self, what: str, *, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self._place = self._count = 0
        self._before = IconButton("chevron-left", f"The {what} before", small=True, name=f"{name}_before")
        self._words = PlainLabel("", "note", name=f"{name}_words")
        self._next = IconButton("chevron-right", f"The next {what}", small=True, name=f"{name}_next")
        self._before.clicked.connect(lambda: self._step(-1))
        self._next.clicked.connect(lambda: self._step(1))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(2))
        for widget in (self._before, self._words, self._next):
            layout.addWidget(widget)
        self.hide()

    def show_place(self, place: int, count: int, may_step: bool) -> None:
        """Hidden where there is one alone."""
        self._place, self._count = place, count
        self._words.setText(f"{place + 1} of {count}")
        for button in (self._before, self._next):
            button.setVisible(may_step)
        self.setVisible(count > 1)

    def _step(self, by: int) -> None:
        self.stepped.emit((self._place + by) % self._count)


class ReplyPane(Card):
    """One side's answer, with what it took."""

    again = Signal()
    copied = Signal(str)
    correct_asked = Signal()
    good_switched = Signal()

    def __init__(self, side: int, number: int) -> None:
        name = {LEFT: "base", RIGHT: "tuned"}.get(side, f"tuned_{side}")
        super().__init__(name=f"chat_reply_{number}_{name}")
        self.setAccessibleName(f"Reply of the {name} model")
        self._name = PlainLabel("", "strong", wrap=True, name=f"chat_name_{number}_{name}")
        self._name.hide()
        self._text = ReplyText(name=f"chat_text_{number}_{name}")
        self._text.copied.connect(self.copied)
        self._figures = PlainLabel("", "note", wrap=True, name=f"chat_figures_{number}_{name}")
        self._state = Chip("", "accent", name=f"chat_state_{number}_{name}")
        self._copy = IconButton("copy", "Copy the reply", small=True, name=f"chat_copy_{number}_{name}")
        self._again = IconButton("refresh-cw", "Answer again", small=True, name=f"chat_again_{number}_{name}")
        self._correct = IconButton("pencil", CORRECT_TIP, small=True, name=f"chat_correct_{number}_{name}")
        self._good = IconButton("list-plus", GOOD_TIP, small=True, name=f"chat_good_{number}_{name}")
        self._retry = SecondaryButton("Again", small=True, name=f"chat_retry_{number}_{name}")
        self._copy.clicked.connect(self._on_copy)
        self._again.clicked.connect(self.again)
        self._retry.clicked.connect(self.again)
        self._correct.clicked.connect(self.correct_asked)
        self._good.clicked.connect(self.good_switched)
        self._reply: Reply = Reply(side)
        self._can_ask = True
        self._is_good = False
        foot = QHBoxLayout()
        foot.setSpacing(theme().px(8))
        foot.addWidget(self._figures, 1)
        buttons = QWidget(self)
        flow = Flow(gap=8, line_gap=4, parent=buttons)  # under each other in a narrow pane with large text
        self.versions = Versions("reply", name=f"chat_version_{number}_{name}")
        for widget in (
            *(self._state, self.versions, self._retry),
            *(self._good, self._copy, self._correct, self._again),
        ):
            flow.addWidget(widget)
        foot.addWidget(buttons, 0, Qt.AlignmentFlag.AlignVCenter)
        self.body.addWidget(self._name)
        self.body.addWidget(self._text, 1)
        self.body.addLayout(foot)

    def show_name(self, name: str) -> None:
        """Whose answer it is; empty where its place says it."""
        self._name.setText(name)
        self._name.setVisible(bool(name))

    def allow_again(self, allowed: bool) -> None:
        """One reply at a time: nothing is asked again meanwhile."""
        self._can_ask = allowed
        self._show_again()

    def show_good(self, good: bool) -> None:
        """Whether it is kept for training."""
        if good is not self._is_good:
            self._is_good = good
            self._good.set_icon("check" if good else "list-plus")
            label = GOOD_ALREADY_TIP if good else GOOD_TIP
            self._good.setToolTip(label)
            self._good.setAccessibleName(label)

    def _show_again(self) -> None:
        self._retry.setVisible(self._can_ask and self._reply.state is Writing.FAILED)
        self._again.setVisible(self._can_ask and self._reply.state is Writing.DONE)
        self._correct.setVisible(self._again.isVisibleTo(self) and bool(self._reply.text))

    def _on_copy(self) -> None:
        self.copied.emit(self._reply.text)

    def show_reply(self, reply: Reply, marks: PartMarks = (), difference: str = "") -> None:
        """As far as it is. marks: where it differs from another; difference: how, in words."""
        self._reply = reply
        if reply.problem is not None:
            self._text.show_problem(f"{reply.problem.message} {reply.problem.hint}".strip())
        else:
            self._text.show_text(reply.text, written=reply.state is Writing.WRITING, marks=marks)
        figures = reply.words if reply.state is Writing.LOADING else _figures(reply)
        self._figures.setText("   ".join(filter(None, (figures, difference))))
        chip = _CHIPS.get(reply.state)
        self._state.setVisible(chip is not None)
        if chip is not None:
            self._state.set(*chip)
        ended = reply.state in (Writing.DONE, Writing.FAILED)
        self._copy.setVisible(ended and bool(reply.text))
        self._good.setVisible(reply.state is Writing.DONE and bool(reply.text.strip()))
        self._show_again()


_CHIPS = {
    Writing.WAITS: ("waits", "neutral", "hourglass"),
    Writing.LOADING: ("loading", "accent", "hourglass"),
    Writing.WRITING: ("writing", "accent", "activity"),
}


def _figures(reply: Reply) -> str:
    if reply.state is Writing.WRITING:
        return f"{reply.tokens:,} tokens"
    if reply.state is not Writing.DONE or not reply.tokens:
        return ENDS["corrected"] if reply.ended == "corrected" else ""
    words = (
        f"{reply.tokens_per_second:.1f} tokens/s   {reply.tokens:,} tokens   "
        f"first after {reply.first_token_seconds:.2f}{THIN}s"
    )
    end = ENDS.get(reply.ended)
    return f"{words}   {end}" if end else words
