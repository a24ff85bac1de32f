"""Single lines of a metrics file, found without reading the others."""

from __future__ import annotations

import os

import pytest

from qlora_studio.runs.metrics_search import ran_out_of_memory, rows_of_step


@pytest.mark.parametrize("content", [b"", b"{", b'{"type":"step_finished","step":5,"rows":[-1]}\n'])
def test_rows_that_can_not_be_read_are_none(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert rows_of_step(tmp_path, 5) == ()


def test_the_rows_of_a_step_are_those_of_its_newest_line(tmp_path):
    lines = b'{"type":"step_finished","step":5,"rows":[1,2]}\n{"type":"step_finished","step":5,"rows":[7]}\n'
    (tmp_path / "metrics.jsonl").write_bytes(lines + b'{"type":"step_finished","step":55,"rows":[9]}\n')
    assert rows_of_step(tmp_path, 5) == (7,)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.timeout(20)
def test_a_pipe_in_its_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert rows_of_step(tmp_path, 5) == ()
    assert not ran_out_of_memory(tmp_path)
