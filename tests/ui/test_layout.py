"""Nothing is cut, squeezed or pushed out on any page, at any text size, in a small window too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qlora_studio.ui.pages import page_factories
from qlora_studio.ui.theme import theme
from tests.ui.clipped import clipped
from tests.ui.filled_pages import FILLED, Filler

SIZES = ((1440, 900), (1280, 800), (1024, 600))
TEXT_SIZES = (100, 150, 200)


@pytest.fixture
def filler(filler) -> Iterator[Filler]:
    filler.app.machine._on_read(None, 412 * 10**9)
    yield filler
    theme().set_text_size(100)


@pytest.mark.parametrize("name", FILLED)
def test_all_that_is_on_a_page_is_whole_at_every_text_size(filler, name):
    filler.fill(name)
    assert _not_whole(filler) == []


@pytest.mark.parametrize("name", list(page_factories()))
def test_an_empty_page_is_whole_at_every_text_size(filler, name):
    filler.shell.open_page(name)
    assert _not_whole(filler) == []


def _not_whole(filler: Filler) -> list[str]:
    """What stays clipped once everything has found its place."""
    return [
        f"{text_size} % at {width}: {item}"
        for text_size in TEXT_SIZES
        for width, height in SIZES
        for item in _clipped_at(filler, text_size, width, height)
    ]


def _clipped_at(filler: Filler, text_size: int, width: int, height: int) -> list[str]:
    theme().set_text_size(text_size)
    filler.shell.resize(width, height)
    for _ in range(20):
        filler.qtbot.wait(50)
        if not clipped(filler.shell):
            break
    return clipped(filler.shell)
