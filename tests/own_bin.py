"""A bin that belongs to one test: nothing of it reaches the person's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def use_own_bin(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """On systems whose bin is a folder by the freedesktop.org specification."""
    from send2trash import plat_other

    folder.mkdir(exist_ok=True)
    data = os.fsencode(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.setattr(plat_other, "XDG_DATA_HOME", data)  # read once, when it was imported
    monkeypatch.setattr(plat_other, "HOMETRASH_B", data + b"/Trash")
    monkeypatch.setattr(plat_other, "HOMETRASH", str(folder / "Trash"))
    monkeypatch.setattr("send2trash.send2trash", plat_other.send2trash)
