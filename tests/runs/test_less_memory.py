"""What a run does to take less memory: chosen by a person, kept beside run.json, read back or refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qlora_studio.config.run_config import RunConfig, TrainingConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.less_memory import (
    LESS_MEMORY_FILE,
    LessMemory,
    less_after,
    named_rows,
    read_less_memory,
    ways_for,
    write_less_memory,
)
from qlora_studio.runs.run_record import RunRecord, read_record
from qlora_studio.runs.run_state import RunState, write_state


def record(device: str = "cuda", **training: object) -> RunRecord:
    config = RunConfig(training=TrainingConfig(**{"batch_size": 6, **training}))  # type: ignore[arg-type]
    return RunRecord(name="tiny", created=0.0, config=config, device=device)


def ended(folder: Path, ways: tuple[str, ...], rows: tuple[int, ...] = ()) -> None:
    state = RunState(state="failed", step=3, cause="out_of_memory", ways=ways, rows=rows)
    write_state(folder, state)


@pytest.mark.parametrize(
    ("made", "less", "recomputed", "rows", "ways"),
    [
        (record(), LessMemory(), False, (4,), ("recompute", "half_rows", "eight_bit", "without_rows")),
        (record(), LessMemory(), True, (), ("half_rows", "eight_bit")),
        (record(), LessMemory(rows_at_once=1, eight_bit_optimizer=True), True, (), ()),
        (record(batch_size=1, optimizer="paged_adamw_8bit"), LessMemory(), False, (), ("recompute",)),
        (record("cpu"), LessMemory(), True, (), ("half_rows",)),
    ],
)
def test_only_what_takes_less_than_now_is_offered(made, less, recomputed, rows, ways):  # R14
    assert ways_for(made, less, recomputed=recomputed, rows=rows) == ways


def test_rows_are_halved_again_and_again_down_to_one(tmp_path):
    rows = []
    for _ in range(3):
        write_less_memory(tmp_path, less_after(tmp_path, record(), ("half_rows",)))
        rows.append(read_less_memory(tmp_path).rows_at_once)
    assert rows == [3, 2, 1]
    with pytest.raises(StudioError, match="One row is computed at once already"):
        less_after(tmp_path, record(), ("half_rows",))


def test_rows_left_out_are_those_that_the_failure_named_and_those_before(tmp_path):
    write_less_memory(tmp_path, LessMemory(left_out=(7,)))
    ended(tmp_path, ("without_rows",), (12, 3))
    assert less_after(tmp_path, record(), ("without_rows",)).left_out == (3, 7, 12)


@pytest.mark.parametrize(
    ("way", "device", "words"),
    [("without_rows", "cuda", "No rows were named"), ("eight_bit", "cpu", "On a processor")],
)
def test_a_way_that_changes_nothing_is_refused(tmp_path, way, device, words):
    with pytest.raises(StudioError, match=words):
        less_after(tmp_path, record(device), (way,))


def test_a_run_that_ran_out_of_memory_recomputes_by_itself_and_not_where_something_else_was_chosen(tmp_path):
    ended(tmp_path, ("recompute", "half_rows"))
    (tmp_path / "metrics.jsonl").write_bytes(b'{"type":"run_failed","cause":"out_of_memory"}\n')
    assert less_after(tmp_path, record(), ()) == LessMemory(recompute_all=True)
    assert less_after(tmp_path, record(), ("half_rows",)) == LessMemory(rows_at_once=3)


def test_a_run_of_an_older_version_goes_on_recomputing_all_layers(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"type":"run_failed","cause":"out_of_memory"}\n')
    assert less_after(tmp_path, record(), ()).recompute_all


def test_what_either_of_two_does_is_done():
    one = LessMemory(rows_at_once=4, left_out=(5,))
    other = LessMemory(recompute_all=True, rows_at_once=2, left_out=(1,))
    assert one.joined(other) == LessMemory(recompute_all=True, rows_at_once=2, left_out=(1, 5))
    assert one.joined(LessMemory()) == one


def test_each_is_said_in_a_sentence():
    less = LessMemory(recompute_all=True, rows_at_once=1, eight_bit_optimizer=True, left_out=(11, 44))
    assert less.words(record()) == (
        "All layers are recomputed, as the run was short of memory before; its result is the same.",
        "1 row at once instead of 6; an update has as many as before.",
        "The optimizer keeps its state in 8 bit.",
        "2 rows are left out: 12, 45.",
    )
    assert LessMemory().words(record()) == ()
    (words,) = LessMemory(recompute_all=True).words(record(keep_dequantized=True))
    assert words.startswith("All layers are recomputed, and weights aren't kept dequantized, as the run was")
    assert named_rows(range(8)) == "1, 2, 3, 4, 5, 6 and 2 more"


@pytest.mark.fault(12)
@pytest.mark.parametrize("content", [b"", b"\0\xff", b'{"rows_at_once":-1}', b"[" * 5_000])
def test_a_damaged_file_is_named_and_the_run_can_be_looked_at(run, content):  # R6
    (run / LESS_MEMORY_FILE).write_bytes(content)
    with pytest.raises(StudioError, match=LESS_MEMORY_FILE):
        less_after(run, read_record(run).record, ())
    opened = open_run(run)
    assert opened.less_memory is None
    assert LESS_MEMORY_FILE in " ".join(opened.warnings)


def test_a_newer_versions_file_is_refused_and_stays(tmp_path):  # R15
    newer = msgspec.json.encode({"schema_version": 2, "more": True})
    (tmp_path / LESS_MEMORY_FILE).write_bytes(newer)
    with pytest.raises(StudioError, match="newer version"):
        read_less_memory(tmp_path)
    assert (tmp_path / LESS_MEMORY_FILE).read_bytes() == newer
