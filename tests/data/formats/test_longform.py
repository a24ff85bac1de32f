"""LongForm: input and output beside where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings

ROW = {"input": "Write.", "output": "Long.", "source": "C4", "subset": "train"}
ROWS: list[tuple[Any, Any]] = [
    (ROW, ["user: Write. | assistant: Long."]),
    (ROW | {"source": "Wikipedia"}, MERGED),
    (ROW | {"source": None, "subset": None, "output": "a"}, ["user: Write. | assistant: a"]),
    (ROW | {"output": "a\n\nb\n"}, ["user: Write. | assistant: a\n\nb\n"]),
    (ROW | {"output": "x" * 30_000}, ["user: Write. | assistant: " + "x" * 30_000]),
    (ROW | {"input": " Write. "}, ["user:  Write.  | assistant: Long."]),
    (ROW | {"input": "Schreib über Ä\u0301."}, ["user: Schreib über Ä\u0301. | assistant: Long."]),
    (ROW | {"input": "", "output": "b"}, ["user:  | assistant: b"]),
    (ROW | {"input": None, "output": "c"}, ["user:  | assistant: c"]),
    (ROW | {"input": 5}, ["user: 5 | assistant: Long."]),
    (ROW | {"output": 6.0}, ["user: Write. | assistant: 6.0"]),
    (ROW | {"output": False}, ["user: Write. | assistant: false"]),
    (ROW | {"output": ""}, "no answer"),
    (ROW | {"output": "\n"}, "no answer"),
    (ROW | {"output": None}, "'output' is null, not text"),
    (ROW | {"output": {"text": "d"}}, ["user: Write. | assistant: d"]),
    (ROW | {"output": ["e", "f"]}, ["user: Write. | assistant: e"]),
    (ROW | {"input": ["Write."]}, "'input' is a list, not text"),
    ({"input": "Write.", "output": "g"}, ["user: Write. | assistant: g"]),
    ({"output": "Long.", "source": "C4", "subset": "train"}, "no column 'input'"),
    ({"input": "Write.", "source": "C4", "subset": "train"}, "no column 'output'"),
]


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "longform"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (21, 14, 6, 1, 14)
    assert findings(data) == {
        "skipped": 6,
        "duplicates": 1,
        "number": 3,
        "several_answers": 1,
        "empty_prompt": 2,
    }


def test_the_output_and_its_end_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [ROW])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\nWrite.<|im_end|>\n<|im_start|>assistant\nLong.<|im_end|>\n",
        "Long.",
    )
