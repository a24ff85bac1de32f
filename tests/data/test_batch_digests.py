"""Rows on disk have the digests that they were imported with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data.batch_digests import digests_of
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.marked_rows import equal_rows
from qlora_studio.data.record import Conversation
from qlora_studio.data.row_digest import digest_of
from qlora_studio.data.row_table import SCHEMA
from tests.data.imported_files import import_path
from tests.data.test_recipe import write
from tests.data.test_saved_copy import OF_EACH_FORMAT, TALK, TOOLS

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(str.strip)


def one_by_one(rows: Dataset) -> list[bytes]:
    return [
        digest_of(Conversation(row.messages, row.rejected, row.label, row.text, row.tools)) for row in rows
    ]


@pytest.mark.parametrize("format", OF_EACH_FORMAT)
@given(st.lists(st.tuples(*[TEXTS] * 4), min_size=1, max_size=8), st.randoms())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_gives_the_digests_of_its_rows(
    tmp_path: Path, format: str, texts: list[tuple[str, str, str, str]], lot: Any
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    good = OF_EACH_FORMAT[format]("What is it?", "It is this.", "It is that.", "It is both.")
    records = [good, *(OF_EACH_FORMAT[format](*four) for four in texts)]
    rows = import_path(write(folder / "rows.jsonl", *records), format)
    (batch,) = rows.batches()
    kept = sorted(lot.sample(range(len(rows)), k=lot.randint(1, len(rows))))

    digests = one_by_one(rows)

    assert digests_of(batch) == digests
    assert digests_of(batch.slice(1)) == digests[1:]
    assert digests_of(batch.take(pa.array(kept))) == [digests[row] for row in kept]


def test_chats_with_tools_among_plain_ones_have_theirs_too(tmp_path: Path) -> None:
    plain = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows = import_path(write(tmp_path / "rows.jsonl", plain, TALK | TOOLS, TALK))
    (batch,) = rows.batches()

    assert digests_of(batch) == one_by_one(rows)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_equal_rows_are_those_that_an_earlier_one_equals(said: list[int], at_once: int) -> None:
    rows = pa.RecordBatch.from_pylist([{"text": str(number)} for number in said], schema=SCHEMA)
    parts = [rows.slice(start, at_once) for start in range(0, len(said), at_once)]

    found = equal_rows(parts)

    later = [row for row, number in enumerate(said) if number in said[:row]]
    assert found.rows.tolist() == found.left_out.tolist() == later
    assert sorted(row for group in found.groups for row in group[1:]) == later
    assert all(said.index(said[group[0]]) == group[0] for group in found.groups)
    assert all(np.ptp([said[row] for row in group]) == 0 for group in found.groups)
