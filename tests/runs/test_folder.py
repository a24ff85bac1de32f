"""A run folder is made whole, read by any version that can, and one broken folder hides no other."""

from __future__ import annotations

import contextlib
import itertools
import json
import stat
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.folder import create_run, open_run, remove_unstarted
from qlora_studio.runs.history import list_runs
from qlora_studio.runs.notes import Notes, read_notes, write_notes
from qlora_studio.runs.run_record import write_record
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.runs.run_writer import RunWriter
from tests.faults.disk import KilledError, disk
from tests.runs.example import RECORD, new_run

_BROKEN = {
    "empty": b"",
    "cut": b'{"schema_version": 1, "na',
    "deep": b"[" * 200_000,
    "binary": b"\x00\xff" * 100,
    "another type": b"[]",
    "without a version": b"{}",
    "huge": b" " * 8_000_001,
}
_OUT_OF_BOUNDS = {
    "a day that never comes": b'{"schema_version": 1, "name": "x", "created": 1e300, "config": {}}',
    "made before time": b'{"schema_version": 1, "name": "x", "created": -1e300, "config": {}}',
    "endless rows": b'{"schema_version": 1, "name": "x", "created": 0, "config": {}, '
    b'"prepared": {"tokens": ' + b"9" * 4000 + b"}}",
}


def test_a_new_run_has_a_plain_name_and_reads_back_as_it_was(home: Path) -> None:
    record = msgspec.structs.replace(RECORD, name="GSM8K / Smöl:LM2 \u202e ..")
    folder = create_run(home / "runs", record)
    assert folder.parent == home / "runs"
    assert folder.name.endswith("-gsm8k-smol-lm2")
    assert folder.name.isascii()
    run = open_run(folder)
    assert run.record == record
    assert (run.newer, run.locked, run.warnings) == (False, False, ())


def test_two_runs_of_the_same_second_have_folders_of_their_own(home: Path) -> None:
    folders = {create_run(home / "runs", RECORD) for _ in range(5)}
    assert len(folders) == 5


def test_run_folders_are_private(run: Path) -> None:  # S12
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "run.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "gone", "kill"])
def test_a_run_is_made_whole_or_not_at_all(home: Path, fault: str) -> None:
    for call in itertools.count(1):
        with disk(call, fault) as faulty, contextlib.suppress(StudioError, KilledError):
            create_run(home / f"runs-{call}", RECORD)
        assert [row.state for row in list_runs(home / f"runs-{call}")] in ([], ["interrupted"])
        if not faulty.fired:
            break


def test_the_record_never_changes(run: Path) -> None:  # R6
    before = (run / "run.json").read_bytes()
    with RunWriter(run) as writer:
        writer.save_state(RunState(state="running", step=1))
    write_notes(run, Notes(name="Better name", tags=("good",), note="It works."))
    with pytest.raises(StudioError, match="never changes"):
        write_record(run, RECORD)
    assert (run / "run.json").read_bytes() == before
    assert open_run(run).name == "Better name"


@pytest.mark.fault(12)
def test_one_broken_run_does_not_hide_the_others(home: Path) -> None:  # R6
    for kind, content in _BROKEN.items():
        (broken := home / "runs" / kind).mkdir(parents=True)
        (broken / "run.json").write_bytes(content)
    (home / "runs" / "not a run").mkdir()
    (home / "runs" / "a link").symlink_to(home / "runs" / "cut")
    (home / "runs" / ".staging-run-0").mkdir()
    (home / "runs" / "a file").touch()
    good = new_run(home)
    rows = {row.name: row for row in list_runs(home / "runs")}
    assert rows.pop(RECORD.name).folder == good
    assert rows.keys() == {*_BROKEN, "not a run", "a link"}
    assert {row.state for row in rows.values()} == {"unreadable"}
    assert all("run.json" in row.reason for name, row in rows.items() if name != "a link")


@pytest.mark.fault(12)
@pytest.mark.parametrize("content", [*_BROKEN.values(), *_OUT_OF_BOUNDS.values()])
def test_a_record_that_is_none_is_named_with_its_file(run: Path, content: bytes) -> None:  # R6, R16
    (run / "run.json").write_bytes(content)
    with pytest.raises(StudioError, match=r"run\.json"):
        open_run(run)


def test_the_newest_run_comes_first(home: Path) -> None:
    for name, created in (("old", 1e9), ("newest", 3e9), ("middle", 2e9)):
        create_run(home / "runs", msgspec.structs.replace(RECORD, name=name, created=created))
    assert [row.name for row in list_runs(home / "runs")] == ["newest", "middle", "old"]


def test_no_runs_folder_means_no_runs(home: Path) -> None:
    assert list_runs(home / "nowhere") == []


@pytest.mark.fault(12)
def test_a_record_of_a_newer_version_can_be_looked_at_only(run: Path) -> None:  # R15
    _change(run, schema_version=2, something_new=[1, 2])
    opened = open_run(run)
    assert opened.newer
    assert opened.record.name == RECORD.name
    with pytest.raises(StudioError, match="newer version"):
        RunWriter(run)


def test_new_optional_settings_are_read_but_not_continued(run: Path) -> None:  # R3, R15
    values = json.loads((run / "run.json").read_bytes())
    values["config"]["training"]["lookahead"] = 5
    values["config"]["swarm"] = {"size": 3}
    (run / "run.json").write_text(json.dumps(values))
    opened = open_run(run)
    assert opened.unknown_keys == ("swarm", "training.lookahead")
    assert opened.record.config == RECORD.config
    with pytest.raises(StudioError, match=r"Unknown settings: swarm, training\.lookahead"):
        RunWriter(run)


def test_a_record_with_settings_out_of_their_limits_is_not_trained(run: Path) -> None:
    values = json.loads((run / "run.json").read_bytes())
    values["config"]["lora"]["r"] = 10**9
    (run / "run.json").write_text(json.dumps(values))
    with pytest.raises(StudioError, match=r"run\.json: lora\.r is 1,000,000,000"):
        RunWriter(run)


@pytest.mark.parametrize("content", _BROKEN.values(), ids=_BROKEN.keys())
def test_broken_notes_are_empty_notes(run: Path, content: bytes) -> None:
    (run / "notes.json").write_bytes(content)
    assert read_notes(run) == Notes()


def test_two_hundred_runs_are_listed_fast(home: Path) -> None:
    for _ in range(200):
        write_state(new_run(home), RunState(state="paused", step=1))
    start = time.process_time()
    assert len(list_runs(home / "runs")) == 200
    assert time.process_time() - start < 0.4  # a millisecond or two each


def _change(run: Path, **values: Any) -> None:
    record = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps(record | values))


def test_a_name_that_a_record_can_not_keep_is_refused_by_name(home: Path):  # D11 R16
    config = msgspec.structs.replace(
        RECORD.config, data=msgspec.structs.replace(RECORD.config.data, path="/data/\udcff.jsonl")
    )

    with pytest.raises(StudioError, match=r"hold '/data/\\udcff\.jsonl', which is no UTF-8"):
        create_run(home / "runs", msgspec.structs.replace(RECORD, config=config))

    assert list((home / "runs").iterdir()) == []


def test_a_run_that_was_given_up_is_removed_with_all_that_it_was_made_with(home: Path) -> None:
    given_up = create_run(home / "runs", RECORD, template="{{ messages }}", start=[b"weights"])
    begun = new_run(home)
    (begun / "engine.log").write_text("said")
    for run in (given_up, begun):
        remove_unstarted(run)
    assert list((home / "runs").iterdir()) == [begun]
