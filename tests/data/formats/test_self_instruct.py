"""Self-Instruct: an instruction with instances, or the prompts and completions that it was finetuned on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes


def task(*instances: Any, instruction: Any = "Add.", **beside: Any) -> dict[str, Any]:
    return {
        "id": "seed",
        "instruction": instruction,
        "instances": list(instances),
        "is_classification": False,
    } | beside


def instance(output: Any, given: Any = "") -> dict[str, Any]:
    return {"input": given, "output": output}


ROWS: list[tuple[Any, Any]] = [
    (task(instance("4", "2 2")), ["user: Add.\n\n2 2 | assistant: 4"]),
    (task(instance("4")), ["user: Add. | assistant: 4"]),
    (task(instance("5", None)), ["user: Add. | assistant: 5"]),
    (task(instance("6", "<noinput>")), ["user: Add. | assistant: 6"]),
    (task(instance("6", "<NoInput> ")), MERGED),
    (task(instance("a", "1"), instance("b", "2"), instance("c", "3")),
     ["user: Add.\n\n1 | assistant: a", "user: Add.\n\n2 | assistant: b", "user: Add.\n\n3 | assistant: c"]),
    (task(instance("d", "1"), instance("", "2"), instance("e", "3")),
     ["user: Add.\n\n1 | assistant: d", "user: Add.\n\n3 | assistant: e"]),
    (task(instance("a", "1"), instance("f", "4")), ["user: Add.\n\n4 | assistant: f"]),
    (task(instance("a", "1"), instance("b", "2")), MERGED),
    (task(instance(None)), "no answer"),
    (task(instance("")), "no answer"),
    (task(), "no answer"),
    (task("4"), "an instance is text, not an object"),
    (task(instance(["4"])), "an output is a list, not text"),
    (task(instance("4", {"a": 1})), "an input is an object, not text"),
    (task(instance(7)), ["user: Add. | assistant: 7"]),
    (task(instance(7.25)), ["user: Add. | assistant: 7.25"]),
    (task(instruction="Say."), "no answer"),
    (task(instance("h"), instruction=""), ["user:  | assistant: h"]),
    (task(instance("h"), instruction=None), "'instruction' is null, not text"),
    ({"instruction": "Add.", "instances": None}, "the instances are null, not a list"),
    ({"instruction": "Add.", "instances": "4"}, "the instances are text, not a list"),
    ({"instruction": "Add.", "instances": json.dumps([instance("8")])}, ["user: Add. | assistant: 8"]),
    ({"instruction": "Add."}, "no column 'instances'"),
]  # fmt: skip


def test_each_instance_is_a_row_and_each_record_counts_once(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "self_instruct"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (24, 11, 11, 2, 14)
    assert findings(data) == {
        "skipped": 11,
        "duplicates": 3,
        "part_left_out": 1,
        "number": 2,
        "empty_prompt": 1,
    }


def test_the_end_mark_of_a_completion_is_left_out(tmp_path: Path) -> None:
    rows: list[tuple[Any, Any]] = [
        (" 4<|endoftext|>", ["user: Add.\nOutput: | assistant: 4"]),
        (" a\nb<|endoftext|>\n", ["user: Add.\nOutput: | assistant: a\nb"]),
        ("<|endoftext|>", "no answer"),
        (" c", ["user: Add.\nOutput: | assistant:  c"]),
        (None, "'completion' is null, not text"),
    ]

    data = import_records(tmp_path, [{"prompt": "Add.\nOutput:", "completion": said} for said, _ in rows])

    assert data.report.format == "self_instruct"
    assert outcomes(data, len(rows)) == [expected for _, expected in rows]
    assert findings(data) == {"skipped": 2, "end_mark": 2}


def test_instances_in_json_in_a_cell_are_read(tmp_path: Path) -> None:
    cell = json.dumps([instance("4", "2 2")]).replace('"', '""')

    data = import_bytes(tmp_path / "rows.csv", f'instruction,instances\nAdd.,"{cell}"\n'.encode())

    assert (data.report.format, outcomes(data, 2)[1]) == (
        "self_instruct",
        ["user: Add.\n\n2 2 | assistant: 4"],
    )


def test_the_output_and_its_end_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [task(instance("4", "2 2"))])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\nAdd.\n\n2 2<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n",
        "4",
    )
