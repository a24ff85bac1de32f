"""What a run was found to know is kept in its folder, line by line."""

from __future__ import annotations

import msgspec
import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs import durable
from qlora_studio.runs.evaluations import EVALUATIONS_FILE, Evaluation, add_evaluation, read_evaluations, when

FIRST = Evaluation(time=1.0, step=10, file="mmlu.jsonl", rows=24, loss=1.5, accuracy=0.5, base_accuracy=0.25)
SECOND = Evaluation(time=2.0, step=20, file="mmlu.jsonl", rows=24, loss=1.25)


def test_evaluations_are_read_in_the_order_they_were_made(tmp_path):
    add_evaluation(tmp_path, FIRST)
    add_evaluation(tmp_path, SECOND)
    assert read_evaluations(tmp_path).found == (FIRST, SECOND)


def test_a_run_that_was_never_evaluated_has_none(tmp_path):
    assert read_evaluations(tmp_path).found == ()


@pytest.mark.parametrize(
    "tail", [b'{"step": 30', b"\x00\x00", b'{"schema_version": 2, "time": 1}', b"\xff\n"]
)
def test_a_line_that_can_not_be_read_is_counted_and_the_next_begins_anew(tmp_path, tail):  # R5, R15
    add_evaluation(tmp_path, FIRST)
    with (tmp_path / EVALUATIONS_FILE).open("ab") as file:
        file.write(tail)
    add_evaluation(tmp_path, SECOND)
    read = read_evaluations(tmp_path)
    assert (read.found, read.skipped_lines) == ((FIRST, SECOND), 1)


def test_of_a_huge_file_the_newest_are_read(tmp_path):
    old = msgspec.structs.replace(FIRST, notes=("n" * 900_000,))
    for _ in range(20):
        add_evaluation(tmp_path, old)
    add_evaluation(tmp_path, SECOND)
    read = read_evaluations(tmp_path)
    assert read.found[-1] == SECOND
    assert (len(read.found), read.skipped_lines) == (18, 1)


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, monkeypatch):  # R10
    add_evaluation(tmp_path, FIRST)
    monkeypatch.setattr(durable.os, "write", _no_space)
    with pytest.raises(StudioError, match="Could not save the evaluation"):
        add_evaluation(tmp_path, SECOND)
    assert read_evaluations(tmp_path).found == (FIRST,)


def test_a_date_beyond_the_calendar_is_no_error(tmp_path):
    assert when(Evaluation(time=1e300, step=1, file="a", rows=1)) == ""


def _no_space(descriptor, data):
    raise OSError(28, "No space left on device")
