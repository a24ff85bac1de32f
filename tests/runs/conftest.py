"""Run folders on a disk that answers at once; whether fsync is called where it must, the fault shim tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.runs.example import new_run


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def run(home: Path) -> Path:
    """A run folder that nobody has trained in yet."""
    return new_run(home)
