"""Garbage with a QObject in it dies in the window's thread, whichever thread makes work for the collector."""

from __future__ import annotations

import gc
import threading

import pytest
from PySide6.QtCore import QObject

from qlora_studio.ui import garbage
from qlora_studio.ui.garbage import Collector


class _Circle(QObject):
    """Refers to itself; tells in which thread it was collected."""

    def __init__(self, died_in: list[int]) -> None:
        super().__init__()
        self.itself = self
        self.told = _Told(died_in)


class _Told:
    def __init__(self, died_in: list[int]) -> None:
        self._died_in = died_in

    def __del__(self) -> None:
        self._died_in.append(threading.get_ident())


@pytest.fixture
def collector(qapp, monkeypatch):
    monkeypatch.setattr(garbage, "LOOK_EVERY_MS", 10)
    parent = QObject()
    yield Collector(parent)
    gc.enable()


def test_a_thread_that_makes_much_garbage_collects_nothing_of_the_windows(collector):
    died_in: list[int] = []
    _Circle(died_in)
    busy = threading.Thread(target=lambda: [[] for _ in range(100_000)])
    busy.start()
    busy.join()
    assert died_in == []
    gc.collect()
    assert died_in == [threading.get_ident()]


def test_what_has_grown_is_collected_by_the_timer(collector, qtbot):
    died_in: list[int] = []
    _Circle(died_in)
    kept = [[] for _ in range(2 * gc.get_threshold()[0])]
    qtbot.waitUntil(lambda: died_in == [threading.get_ident()])
    assert kept
