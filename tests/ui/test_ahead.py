"""What the window does while nobody waits, and how long it is busy with it at a time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import pytest
from PySide6.QtCore import QCoreApplication

from qlora_studio.state.app import AppState
from qlora_studio.ui.ahead import LONG_PAUSE_MS, Ahead
from qlora_studio.ui.pages import page_factories
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.window import load_pages

# Seconds of the window's thread, the least of some tries, as neighbours on the machine can lengthen them too.
MOST_OWN_S = 0.1
TRIES = 3


@pytest.fixture
def app(qtbot, monkeypatch) -> Iterator[AppState]:
    load_pages()
    state = AppState()
    monkeypatch.setattr(state.machine, "start", lambda: None)
    gc.disable()  # as the window does until all pages are built
    yield state
    gc.enable()
    state.close()


def two_pieces(name: str, done: list[str]) -> Iterator[None]:
    for piece in (1, 2):
        done.append(f"{name} {piece}")
        yield


def test_jobs_are_done_in_their_order_and_the_window_answers_between_two_pieces(qtbot):
    done: list[str] = []

    ahead = Ahead()
    with qtbot.waitSignal(ahead.finished):
        ahead.add(two_pieces("a", done))
        ahead.add(two_pieces("b", done))
        assert done == []
        qtbot.waitUntil(lambda: len(done) == 1)
    assert done == ["a 1", "a 2", "b 1", "b 2"]


def test_a_job_may_be_added_after_the_others_are_done(qtbot):
    ahead = Ahead()
    for _ in range(2):
        with qtbot.waitSignal(ahead.finished):
            ahead.add(iter((None,)))


def test_what_a_person_waits_for_comes_before_what_is_done_ahead(qtbot):
    done: list[str] = []

    ahead = Ahead()
    with qtbot.waitSignal(ahead.finished):
        ahead.add(two_pieces("ahead", done))
        qtbot.waitUntil(lambda: done == ["ahead 1"])
        ahead.add_awaited(two_pieces("awaited", done))
        assert done == ["ahead 1"]
    assert done == ["ahead 1", "awaited 1", "awaited 2", "ahead 2"]


def test_what_a_person_asks_for_comes_before_the_next_piece(qtbot):
    done: list[int] = []
    ahead = Ahead()
    ahead.add(done.append(piece) for piece in range(2))
    asked = time.monotonic()
    ahead.make_way()
    qtbot.waitUntil(lambda: len(done) == 1)
    assert time.monotonic() - asked >= 0.9 * LONG_PAUSE_MS / 1000
    with qtbot.waitSignal(ahead.finished, timeout=LONG_PAUSE_MS - 100):
        pass
    assert done == [0, 1]


@pytest.mark.parametrize("name", list(page_factories()))
def test_no_page_holds_the_window_while_it_is_built_or_first_shown(app, qtbot, name):
    tries = [_longest_turns(app, qtbot, name) for _ in range(TRIES)]
    ahead, visit = (min(times) for times in zip(*tries, strict=True))
    assert ahead < MOST_OWN_S
    assert visit < MOST_OWN_S


def _longest_turns(app: AppState, qtbot, name: str) -> tuple[float, float]:
    """Of the event loop, while a page is built ahead, and at its first visit. Another one is in front."""
    shell = Shell(app)
    qtbot.addWidget(shell)
    shell.resize(1440, 900)
    shell.show()
    shell.open_page("settings" if name == "home" else "home")
    _settle()
    pieces = shell._build_of(name)
    building = []
    while True:
        building += [_own_s(lambda: next(pieces, None)), _own_s(_settle)]
        if name in shell._pages:
            break
    visiting = [_own_s(lambda: shell.open_page(name)), _own_s(_settle)]
    return max(building), max(visiting)


def _own_s(do: Callable[[], object]) -> float:
    start = time.thread_time()
    do()
    return time.thread_time() - start


def _settle() -> None:
    QCoreApplication.processEvents()
