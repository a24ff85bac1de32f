from __future__ import annotations

from collections.abc import Sequence

from qlora_studio.engine.reply_text import ReplyText


def from_bytes(ids: Sequence[int]) -> str:
    """A tokenizer of single bytes."""
    return bytes(ids).decode("utf-8", "replace")


def said(text: bytes) -> list[str]:
    """The whole text after each token, and at the end."""
    reply = ReplyText(from_bytes)
    seen = []
    for byte in text:
        reply.add(byte)
        seen.append(reply.text)
    reply.finish()
    return [*seen, reply.text]


def test_a_character_is_said_once_it_is_whole() -> None:
    assert said("aé😀".encode()) == ["a", "a", "aé", "aé", "aé", "aé", "aé😀", "aé😀"]


def test_what_stays_unfinished_is_said_at_the_end() -> None:
    assert said(b"ok\xf0\x9f")[-2:] == ["ok", "ok\ufffd"]


def test_bytes_that_are_no_text_hold_nothing_back_for_long() -> None:
    assert len(said(b"\xff" * 20)[-2]) >= 12


def test_text_that_depends_on_the_token_before_it_is_kept() -> None:
    def words(ids: Sequence[int]) -> str:  # the first word of a text has no space before it
        return " ".join("abc"[id] for id in ids)

    reply = ReplyText(words)
    for token in (0, 1, 2):
        reply.add(token)
    assert reply.text == "a b c"
