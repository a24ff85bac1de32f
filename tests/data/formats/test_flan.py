"""FLAN: inputs and targets, with the name of the task beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qlora_studio.data.formats import Layout
from qlora_studio.data.plain_chats import may_be_plain
from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

ROW = {"inputs": "Q: a?\nA:", "targets": "yes", "task": "boolq", "template_type": "zs_opt"}
ROWS: list[tuple[Any, Any]] = [
    (ROW, ["user: Q: a?\nA: | assistant: yes"]),
    (ROW | {"template_type": "fs_opt"}, MERGED),
    (ROW | {"targets": "(A)"}, ["user: Q: a?\nA: | assistant: (A)"]),
    (ROW | {"targets": " no "}, ["user: Q: a?\nA: | assistant:  no "]),
    (ROW | {"targets": ["b"]}, ["user: Q: a?\nA: | assistant: b"]),
    (ROW | {"targets": ["c", "d"]}, ["user: Q: a?\nA: | assistant: c"]),
    (ROW | {"targets": 1}, ["user: Q: a?\nA: | assistant: 1"]),
    (ROW | {"targets": 1.5}, ["user: Q: a?\nA: | assistant: 1.5"]),
    (ROW | {"targets": True}, ["user: Q: a?\nA: | assistant: true"]),
    (ROW | {"inputs": "OPTIONS:\n- x\n- y"}, ["user: OPTIONS:\n- x\n- y | assistant: yes"]),
    (ROW | {"inputs": ""}, ["user:  | assistant: yes"]),
    (ROW | {"inputs": None, "targets": "e"}, ["user:  | assistant: e"]),
    (ROW | {"inputs": "数 😀"}, ["user: 数 😀 | assistant: yes"]),
    (ROW | {"task": None, "targets": "f"}, ["user: Q: a?\nA: | assistant: f"]),
    (ROW | {"targets": ""}, "no answer"),
    (ROW | {"targets": []}, "no answer"),
    (ROW | {"targets": None}, "'targets' is null, not text"),
    (ROW | {"targets": {"a": 1}}, "'targets' is an object, not text"),
    (ROW | {"inputs": {"a": 1}}, "'inputs' is an object, not text"),
    ({"inputs": "Q"}, "no column 'targets'"),
    ({"targets": "A"}, "no column 'inputs'"),
]


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "flan"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (21, 13, 7, 1, 13)
    assert findings(data) == {
        "skipped": 7,
        "duplicates": 1,
        "number": 3,
        "several_answers": 1,
        "empty_prompt": 2,
    }


def test_rows_are_read_many_at_once(tmp_path: Path) -> None:
    lines = [f'{{"inputs": "Q{number}", "targets": "A"}}' for number in range(3000)]

    data = import_bytes(tmp_path / "rows.jsonl", "\n".join(lines).encode())

    assert may_be_plain(Layout("flan", data.report.map))
    assert add_up(data) == (3000, 3000, 0, 0, 3000)
    assert outcomes(data, 3000)[2999] == ["user: Q2999 | assistant: A"]


def test_the_target_and_its_end_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [ROW])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\nQ: a?\nA:<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n",
        "yes",
    )
