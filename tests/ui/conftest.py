"""The whole state over silent children, and a window whose pages can be filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from qlora_studio.memory.devices import RamReading
from qlora_studio.protocol.events import RunStarted
from qlora_studio.state import launch
from qlora_studio.state.app import AppState
from qlora_studio.ui.pages.monitor import MonitorPage
from qlora_studio.ui.shell import Shell
from tests.ui.example_runs import TRAINING, Example, make_run
from tests.ui.filled_pages import Filler
from tests.ui.silent import Silent, silent_app

GIB = 2**30


@pytest.fixture
def app_and_silent(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AppState, Silent]]:
    with silent_app(monkeypatch) as both:
        yield both


@pytest.fixture
def app(app_and_silent: tuple[AppState, Silent]) -> AppState:
    return app_and_silent[0]


@pytest.fixture
def silent(app_and_silent: tuple[AppState, Silent]) -> Silent:
    return app_and_silent[1]


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that trains on its processor."""
    monkeypatch.setattr(launch, "card_reading", lambda: None)


@pytest.fixture
def no_card_but_memory(no_card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has 48 GiB free."""
    ram = RamReading(total_bytes=64 * GIB, free_bytes=48 * GIB, load=0.0)
    monkeypatch.setattr(launch, "ram_reading", lambda: ram)


@pytest.fixture
def asked(app: AppState) -> list[tuple[str, object]]:
    """(page, what) of each page that was asked for."""
    pages: list[tuple[str, object]] = []
    app.page_asked.connect(lambda name, what: pages.append((name, what)))
    return pages


@pytest.fixture
def filler(app: AppState, silent: Silent, qtbot: QtBot, tmp_path: Path) -> Filler:
    """Of a window that is shown."""
    shell = Shell(app)
    qtbot.addWidget(shell)
    shell.resize(1440, 900)
    shell.show()
    return Filler(shell, app, silent, qtbot, tmp_path)


# The Monitor ----------------------------------------------------------------------------------------


@pytest.fixture
def make(home: Path) -> Callable[..., Path]:
    """A run folder with 300 of 400 steps, or what fields of an Example say."""
    return lambda **fields: make_run(home / "runs", Example(**{"steps": 300, "total_steps": 400, **fields}))


@pytest.fixture
def open_run(app: AppState, qtbot: QtBot) -> Callable[[Path | None], MonitorPage]:
    def open_page(what: Path | None) -> MonitorPage:
        page = MonitorPage(app).whole()
        qtbot.addWidget(page)
        page.resize(1440, 860)
        page.show()
        page.opened(what)
        qtbot.waitUntil(lambda: not app.monitor.loading and not app.monitor.verifying)
        return page

    return open_page


@pytest.fixture
def training(
    app: AppState, silent: Silent, home: Path, open_run: Callable[[Path | None], MonitorPage]
) -> MonitorPage:
    """A page on a run that trains here, before its first step."""
    folder = make_run(home / "runs", TRAINING)
    app.engine.train(folder)
    page = open_run(folder)
    silent.hear(RunStarted(run=str(folder), step=0, total_steps=400, resumed=False, time=0.0))
    return page
