"""Every page as a person sees it first, in both themes: something is drawn, and nothing of it is only ground.

The pictures lie in the test's own folder; `make gallery` takes those of the documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

from qlora_studio.config import places
from qlora_studio.state.app import AppState
from qlora_studio.ui.pages import page_factories
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.theme import ThemeChoice, theme
from tests.ui.example_runs import Example, make_run
from tests.ui.silent import silent_app

SIZE = (1440, 900)
EVERY = 4  # pixels between two that are looked at


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[AppState]:
    make_run(places.runs_folder(), Example(steps=60, total_steps=60, evaluate_every=20, end="finished"))
    with silent_app(monkeypatch) as (state, _):
        yield state
    theme().set_choice(ThemeChoice.SYSTEM)


@pytest.fixture
def shell(app: AppState, qtbot) -> Shell:
    window = Shell(app)
    qtbot.addWidget(window)
    window.resize(*SIZE)
    window.show()
    return window


@pytest.mark.parametrize("name", list(page_factories()))
def test_each_page_is_drawn_in_light_and_in_dark(shell: Shell, qtbot, tmp_path: Path, name: str) -> None:
    run = next(places.runs_folder().iterdir()) if name == "monitor" else None
    shell.open_page(name, run)
    grounds = []
    for choice in (ThemeChoice.LIGHT, ThemeChoice.DARK):
        theme().set_choice(choice)
        qtbot.wait(200)  # the page's files are read beside the window, and charts repaint at their own pace
        file = tmp_path / f"{name}-{choice}-100.png"
        assert shell.grab().save(str(file))
        picture = QImage(str(file))
        brightness = brightness_of(picture)
        ((ground, pixels),) = brightness.most_common(1)
        grounds.append(ground)
        assert (picture.width(), picture.height()) == SIZE
        assert len(brightness) > 20
        assert pixels < 0.97 * brightness.total()
    light, dark = grounds
    assert light > dark


def brightness_of(picture: QImage) -> Counter[int]:
    """Brightness, from 0 to 255, and how many of the pixels that are looked at have it."""
    return Counter(
        picture.pixelColor(x, y).lightness()
        for y in range(0, picture.height(), EVERY)
        for x in range(0, picture.width(), EVERY)
    )
