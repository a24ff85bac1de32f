"""What a file gives only from its beginning on, read by position all the same."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data.source_file import Feed, SourceFile
from qlora_studio.data.turned_file import TurnedFile

LETTERS = string.ascii_lowercase.encode() * 4


def upper(feed: Feed) -> Iterator[bytes]:
    while piece := feed.read(7):
        yield piece.upper()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(
    reads=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 40), st.booleans())),
    copied=st.sampled_from([0, 10, 50, 1_000]),
)
def test_any_part_can_be_read_in_any_order(
    tmp_path: Path, reads: list[tuple[int, int, bool]], copied: int
) -> None:
    (tmp_path / "letters").write_bytes(LETTERS)
    with SourceFile(tmp_path / "letters") as source:
        turned = TurnedFile(source, upper, tmp_path / "copy", copied)
        found = []
        for offset, size, rests in reads:
            found.append(turned.read(offset, size))
            turned.rest() if rests else None
        turned.rest()

    assert found == [LETTERS.upper()[offset : offset + size] for offset, size, _ in reads]
    assert LETTERS.upper().startswith((tmp_path / "copy").read_bytes())
    assert (tmp_path / "copy").stat().st_size <= copied + 7


def test_it_is_turned_once_where_it_is_read_in_order(tmp_path: Path) -> None:
    begun = []

    def turn(feed: Feed) -> Iterator[bytes]:
        begun.append(feed)
        return upper(feed)

    (tmp_path / "letters").write_bytes(LETTERS)
    with SourceFile(tmp_path / "letters") as source:
        turned = TurnedFile(source, turn, tmp_path / "copy", 0)
        parts = [turned.read(offset, 9) for offset in range(0, 104, 9)]
        turned.rest()

    assert (b"".join(parts), len(begun)) == (LETTERS.upper(), 1)
    assert (turned.done, turned.turned) == (104, 104)


def test_lines_are_given_whole(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"one\ntwo\nthree")
    with SourceFile(tmp_path / "lines") as source:
        turned = TurnedFile(source, upper, tmp_path / "copy")
        found = [turned.read_lines(0, 9), turned.read_lines(8, 9), turned.read_lines(13, 9)]
        turned.rest()

    assert found == [b"ONE\nTWO\n", b"THREE", b""]
