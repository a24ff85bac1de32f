"""All that was said in a chat: what is said otherwise or answered again begins a branch beside the old."""

from __future__ import annotations

from qlora_studio.state.chat_turns import Reply, Turn


class Branches:
    """One branch is shown. A reply may stand in several turns, beside other replies of the other side."""

    def __init__(self) -> None:
        self._root = Turn("")

    def shown(self) -> list[Turn]:
        """The turns of the branch that is looked at, from the first on."""
        turns = []
        turn = self._root.chosen
        while turn is not None:
            turns.append(turn)
            turn = turn.chosen
        return turns

    def said_before(self, turn: Turn) -> list[Turn]:
        """The turns that lead to it, from the first on."""
        turns = []
        at = turn.before
        while at is not None and at is not self._root:
            turns.append(at)
            at = at.before
        return turns[::-1]

    def every_turn(self) -> list[Turn]:
        """Of all branches, each after the one it was said after."""
        turns: list[Turn] = []
        waiting = list(reversed(self._root.after))
        while waiting:
            turns.append(waiting.pop())
            waiting.extend(reversed(turns[-1].after))
        return turns

    def add(self, turn: Turn, before: Turn | None) -> None:
        """A new branch after `before`, or at the beginning; it is looked at from now on."""
        turn.before = before or self._root
        turn.before.after.append(turn)
        self.show(turn)

    def is_first(self, turn: Turn) -> bool:
        """Whether nothing was said before it."""
        return turn.before is self._root

    def show(self, turn: Turn) -> None:
        """The branch it is on, down to what was last looked at there."""
        at = turn
        while at.before is not None:
            at.before.chosen = at
            at = at.before

    def messages(self, turn: Turn) -> list[Turn]:
        """In what ways this message was said: the last turn of each, but `turn` itself for its own."""
        ways = {other.text: other for other in _beside(turn)}
        return [turn if text == turn.text else other for text, other in ways.items()]

    def versions(self, turn: Turn, side: int) -> list[Reply]:
        """Each reply that this side gave to this message."""
        return list(
            dict.fromkeys(reply for other in _alike(turn) if (reply := other.reply(side)) is not None)
        )

    def with_reply(self, turn: Turn, version: Reply) -> Turn:
        """The turn with this reply and the other side's as it is; a new branch where there is none yet."""
        replies = [version if reply.side == version.side else reply for reply in turn.replies]
        for other in _alike(turn):
            if other.replies == replies:
                return other
        return self.branch(turn, replies)

    def branch(self, turn: Turn, replies: list[Reply]) -> Turn:
        """The same message with other replies, looked at from now on."""
        fresh = Turn(turn.text, replies)
        self.add(fresh, None if self.is_first(turn) else turn.before)
        return fresh


def _beside(turn: Turn) -> list[Turn]:
    """All that was said after the same turn, itself among them."""
    return turn.before.after if turn.before is not None else [turn]


def _alike(turn: Turn) -> list[Turn]:
    """Those with the same message."""
    return [other for other in _beside(turn) if other.text == turn.text]
