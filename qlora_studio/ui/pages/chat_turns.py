"""One turn of a chat: what the person said, and the replies beside each other."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.state.chat_turns import LEFT, Reply, Turn, Writing
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, Chip, IconButton, PlainLabel, SecondaryButton

ENDS = {"length": "stopped at the longest reply", "stopped": "stopped", "context": "no room is left"}


class TurnRow(QWidget):
    """again: the Reply to give once more. copied: a text. change_asked: to say the message otherwise."""

    again = Signal(object)
    copied = Signal(str)
    change_asked = Signal()

    def __init__(self, turn: Turn, number: int) -> None:
        super().__init__()
        self._turn = turn
        self._number = number
        self._panes: dict[int, ReplyPane] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(12))
        said = QFrame()
        said.setObjectName("chat_said")
        line = QHBoxLayout(said)
        line.setContentsMargins(theme().px(14), theme().px(6), theme().px(10), theme().px(6))
        line.setSpacing(theme().px(12))
        you = PlainLabel("You", "strong")
        you.set_tone("accent")
        text = PlainLabel(turn.text, "chat", wrap=True)
        text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        copy = IconButton("copy", "Copy the message", small=True, name=f"chat_copy_said_{number}")
        copy.clicked.connect(lambda: self.copied.emit(turn.text))
        self._change = IconButton(
            "pencil", "Change the message", small=True, name=f"chat_change_said_{number}"
        )
        self._change.clicked.connect(self.change_asked)
        for label in (you, text):  # level with the button's icon, also where the message has many lines
            label.setContentsMargins(0, theme().px(5), 0, theme().px(5))
        line.addWidget(you, 0, Qt.AlignmentFlag.AlignTop)
        line.addWidget(text, 1, Qt.AlignmentFlag.AlignTop)
        line.addWidget(copy, 0, Qt.AlignmentFlag.AlignTop)
        line.addWidget(self._change, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(said)
        self._replies = QHBoxLayout()
        self._replies.setSpacing(theme().px(12))
        layout.addLayout(self._replies)

    def refresh(self, busy: bool) -> None:
        """After replies were replaced. busy: one is being written, here or in another turn."""
        self._change.setVisible(not busy)
        for reply in self._turn.replies:
            pane = self._panes.get(reply.side)
            if pane is None:
                pane = ReplyPane(reply.side, self._number)
                pane.again.connect(lambda side=reply.side: self._on_again(side))
                pane.copied.connect(self.copied)
                self._panes[reply.side] = pane
                self._replies.addWidget(pane, 1)
            pane.show_reply(reply)
            pane.allow_again(not busy)

    def show_reply(self, reply: Reply) -> bool:
        """False where it isn't one of this turn."""
        if not any(reply is own for own in self._turn.replies):
            return False
        self._panes[reply.side].show_reply(reply)
        return True

    def _on_again(self, side: int) -> None:
        reply = self._turn.reply(side)
        if reply is not None:
            self.again.emit(reply)


class ReplyPane(Card):
    """One side's answer, with what it took."""

    again = Signal()
    copied = Signal(str)

    def __init__(self, side: int, number: int) -> None:
        name = "base" if side == LEFT else "tuned"
        super().__init__(name=f"chat_reply_{number}_{name}")
        self.setAccessibleName(f"Reply of the {name} model")
        self._text = PlainLabel("", "chat", wrap=True, name=f"chat_text_{number}_{name}")
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._text.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self._figures = PlainLabel("", "note", wrap=True, name=f"chat_figures_{number}_{name}")
        self._state = Chip("", "accent", name=f"chat_state_{number}_{name}")
        self._copy = IconButton("copy", "Copy the reply", small=True, name=f"chat_copy_{number}_{name}")
        self._again = IconButton("refresh-cw", "Answer again", small=True, name=f"chat_again_{number}_{name}")
        self._retry = SecondaryButton("Again", small=True, name=f"chat_retry_{number}_{name}")
        self._copy.clicked.connect(self._on_copy)
        self._again.clicked.connect(self.again)
        self._retry.clicked.connect(self.again)
        self._reply: Reply = Reply(side)
        self._can_ask = True
        foot = QHBoxLayout()
        foot.setSpacing(theme().px(8))
        foot.addWidget(self._figures, 1)
        for widget in (self._state, self._retry, self._copy, self._again):
            foot.addWidget(widget)
        self.body.addWidget(self._text, 1)
        self.body.addLayout(foot)

    def allow_again(self, allowed: bool) -> None:
        """One reply at a time: nothing is asked again meanwhile."""
        self._can_ask = allowed
        self._show_again()

    def _show_again(self) -> None:
        self._retry.setVisible(self._can_ask and self._reply.state is Writing.FAILED)
        self._again.setVisible(self._can_ask and self._reply.state is Writing.DONE)

    def _on_copy(self) -> None:
        self.copied.emit(self._reply.text)

    def show_reply(self, reply: Reply) -> None:
        """As far as it is."""
        self._reply = reply
        if reply.problem is not None:
            self._text.setText(f"{reply.problem.message} {reply.problem.hint}".strip())
            self._text.set_tone("bad")
        else:
            cursor = " ▌" if reply.state is Writing.WRITING else ""
            self._text.setText(reply.text + cursor)
            self._text.set_tone("")
        self._figures.setText(reply.words if reply.state is Writing.LOADING else _figures(reply))
        chip = _CHIPS.get(reply.state)
        self._state.setVisible(chip is not None)
        if chip is not None:
            self._state.set(*chip)
        ended = reply.state in (Writing.DONE, Writing.FAILED)
        self._copy.setVisible(ended and bool(reply.text))
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
        return ""
    words = (
        f"{reply.tokens_per_second:.1f} tokens/s   {reply.tokens:,} tokens   "
        f"first after {reply.first_token_seconds:.2f} s"
    )
    end = ENDS.get(reply.ended)
    return f"{words}   {end}" if end else words
