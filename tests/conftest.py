"""What every test has: folders of its own, no network in any process, no screen."""

from __future__ import annotations

import gc
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A wait for a core that other processes have is no slow code: examples have no deadline of their own.
settings.register_profile("checks", deadline=None)
settings.load_profile("checks")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
os.environ["WAKEPY_FAKE_SUCCESS"] = "1"
runpy.run_path(str(Path(__file__).parent / "no_network" / "sitecustomize.py"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: at the end no process waits long for another's last test."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Libraries and tests stay to the end: garbage is looked for without walking through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def garbage(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of tests with widgets it is collected between them, in their own thread: see `ui.garbage`."""
    has_widgets = bool({"qapp", "qtbot"} & set(request.fixturenames))
    if has_widgets:
        gc.disable()
        gc.freeze()  # what was there before, libraries above all, isn't walked through again
    yield
    if has_widgets:
        gc.collect()
        gc.enable()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, none of its children, may reach itself at 127.0.0.1."""
    monkeypatch.setenv("QLORA_STUDIO_TEST_LOOPBACK", str(os.getpid()))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs, models, cache, settings and logs of this test alone, in its children too."""
    folder = tmp_path / "home"
    monkeypatch.setenv("QLORA_STUDIO_HOME", str(folder))
    return folder
