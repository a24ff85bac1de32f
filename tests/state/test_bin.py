"""What is put into the bin can be taken out again (R11)."""

from __future__ import annotations

import sys

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.state.bin import move_to_bin
from tests.own_bin import use_own_bin

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems' bins tell nobody where things lie"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    use_own_bin(monkeypatch, tmp_path / "data")
    made = tmp_path / "a run"
    made.mkdir()
    (made / "run.json").write_text("{}")
    return made


def test_it_is_gone_and_comes_back(folder):
    take_out = move_to_bin(folder)
    assert not folder.exists()
    take_out()
    assert (folder / "run.json").read_text() == "{}"


def test_what_stands_in_its_place_meanwhile_is_never_replaced(folder):
    take_out = move_to_bin(folder)
    folder.mkdir()
    with pytest.raises(StudioError, match="is there again"):
        take_out()


def test_a_folder_that_is_gone_already_is_refused_in_words(tmp_path):
    with pytest.raises(StudioError, match="could not be moved"):
        move_to_bin(tmp_path / "nothing")
