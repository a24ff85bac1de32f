"""The window's folders: counted, exchanged, and a cache that loses only what can be made again."""

from __future__ import annotations

import pytest

from qlora_studio.config import places
from qlora_studio.config.run_config import RunConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.run_record import Prepared, RunRecord
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.state.folders import check_writable, clear_cache, rows_in_use, size_of


def test_a_folder_is_as_large_as_its_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "two").write_bytes(b"x" * 5)
    assert size_of(tmp_path) == 15


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert size_of(tmp_path / "nowhere") == 0


def test_a_place_that_can_not_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudioError, match="file"):
        check_writable(tmp_path / "file" / "runs")


def test_clearing_the_cache_keeps_the_rows_of_a_run_that_is_not_finished():
    cache, runs = places.cache_folder(), places.runs_folder()
    needed, done = cache / "tokens" / "needed", cache / "tokens" / "done"
    for folder in (needed, done, cache / "datasets", cache / "indicators"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x")
    runs.mkdir(parents=True)
    _make_run(runs, "paused-run", needed, "paused")
    _make_run(runs, "finished-run", done, "finished")

    clear_cache(cache, rows_in_use(runs))

    assert (needed / "file").exists()
    assert (cache / "indicators" / "file").exists()
    assert not done.exists()
    assert not (cache / "datasets").exists()


def _make_run(runs, name, prepared, state):
    record = RunRecord(name=name, created=1.0, config=RunConfig(), prepared=Prepared(folder=str(prepared)))
    write_state(create_run(runs, record), RunState(state=state, step=1))
