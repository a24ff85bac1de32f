"""Runs as a person names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.config import places
from qlora_studio.errors import StudioError
from qlora_studio.runs.named_run import run_folder
from tests.ui.example_runs import Example, make_run


@pytest.fixture
def listed(home):
    folder = places.runs_folder() / "2026-01-02-030405-sums"
    folder.mkdir(parents=True)
    return folder


def test_a_run_is_found_by_the_name_that_runs_lists(listed):
    assert run_folder(Path(listed.name)) == listed


def test_a_folder_where_one_stands_comes_first(listed, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / listed.name).mkdir(parents=True)
    monkeypatch.chdir(here)
    assert run_folder(Path(listed.name)) == here / listed.name


def test_a_run_is_found_through_a_persons_own_link_and_by_its_run_json(listed, tmp_path):
    (listed / "run.json").write_text("{}")
    (tmp_path / "latest").symlink_to(listed)
    assert run_folder(tmp_path / "latest") == listed
    assert run_folder(tmp_path / "latest" / "run.json") == listed
    assert run_folder(listed / "run.json") == listed


def test_a_run_is_found_by_what_the_person_called_it(home):
    folder = make_run(places.runs_folder(), Example(name="sums", steps=2, end="finished"))
    assert run_folder(Path("sums")) == folder


def test_a_name_of_several_runs_is_refused_with_their_folders(home):
    folders = [make_run(places.runs_folder(), Example(name="sums", steps=2, end="finished")) for _ in "ab"]
    with pytest.raises(StudioError, match="2 runs are called sums") as refused:
        run_folder(Path("sums"))
    assert all(folder.name in refused.value.hint for folder in folders)


def test_a_name_that_is_no_run_is_refused_with_the_way_to_the_list(home):
    with pytest.raises(StudioError, match="no run of that name") as refused:
        run_folder(Path("sums"))
    assert "qlora-studio runs" in refused.value.hint


def test_a_path_is_never_looked_for_among_the_runs(listed):
    with pytest.raises(StudioError):
        run_folder(Path("..") / "runs" / listed.name / "nowhere")
