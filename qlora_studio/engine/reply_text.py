"""Turns the tokens of a reply into text as they come, and says only what no later token changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"  # what a decoder makes of bytes that are no whole character yet
_LONGEST_CHARACTER = 8  # tokens; more that give no whole character never will


class ReplyText:
    """`decode`: token ids to text, as the tokenizer does it."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._known_from = 0  # from here to `_told` lie the tokens of the piece said last
        self._told = 0
        self.text = ""

    def add(self, token: int) -> None:
        """`text` grows by what can be said now: often a word, sometimes nothing."""
        self._ids.append(token)
        new = self._new_text()
        if not new.endswith(_UNFINISHED) or len(self._ids) - self._told >= _LONGEST_CHARACTER:
            self._say(new)

    def finish(self) -> None:
        """The reply ends here: what was held back is said as it is."""
        self._say(self._new_text())

    def _new_text(self) -> str:
        """Decoded together with the tokens before: a token's text may depend on the one before it."""
        before = self._decode(self._ids[self._known_from : self._told])
        return self._decode(self._ids[self._known_from :])[len(before) :]

    def _say(self, new: str) -> None:
        if new:
            self._known_from, self._told = self._told, len(self._ids)
            self.text += new
