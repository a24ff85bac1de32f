"""Unnatural Instructions: instances that hold the whole prompt, and the instruction in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings


def task(*instances: Any, reworded: Any = None, instruction: Any = "Say {INPUT}.") -> dict[str, Any]:
    return {"instruction": instruction, "instances": list(instances), "reformulations": reworded}


def instance(whole: Any, output: Any, given: Any = "i") -> dict[str, Any]:
    return {"instruction_with_input": whole, "input": given, "constraints": "None.", "output": output}


REWORDED = [{"instruction": "Tell.", "instruction_with_input": "Tell i.", "input": "i", "output": "r"}]

ROWS: list[tuple[Any, Any]] = [
    (task(instance("Say i.", "a")), ["user: Say i. | assistant: a"]),
    (task(instance("Say i.", "a"), reworded=REWORDED), MERGED),
    (task(instance("Say j.", "b"), instance("Say k.", "c")),
     ["user: Say j. | assistant: b", "user: Say k. | assistant: c"]),
    (task(instance(None, "d", "l")), ["user: Say l. | assistant: d"]),
    (task(instance(None, "d", "l"), instruction="Say:"), ["user: Say:\n\nl | assistant: d"]),
    (task(instance(None, "e", None), instruction="Say."), ["user: Say. | assistant: e"]),
    (task(instance("", "e", None)), ["user:  | assistant: e"]),
    (task(instance("Say m.", " f\n")), ["user: Say m. | assistant:  f\n"]),
    (task(instance("Say m.", 3)), ["user: Say m. | assistant: 3"]),
    (task(instance("Say m.", 0.5)), ["user: Say m. | assistant: 0.5"]),
    (task(instance("Say m.", False)), ["user: Say m. | assistant: false"]),
    (task(instance("Say m.", "")), "no answer"),
    (task(instance("Say m.", None)), "no answer"),
    (task(instance("Say n.", ""), instance("Say n.", "g")), ["user: Say n. | assistant: g"]),
    (task(), "no answer"),
    (task(None), "an instance is null, not an object"),
    (task(instance("Say m.", ["h"])), "an output is a list, not text"),
    (task(instance(["Say m."], "h")), "an instruction with its input is a list, not text"),
    (task(instance("Say o.", "h"), reworded="[]"), ["user: Say o. | assistant: h"]),
    (task(instance("Say p.", "h"), reworded=""), ["user: Say p. | assistant: h"]),
    (task(instance("Say q.", "h"), instruction=None), ["user: Say q. | assistant: h"]),
    ({"instances": [instance("Say r.", "h")]}, ["user: Say r. | assistant: h"]),
    ({"instruction": "Say.", "instances": {}}, "the instances are an object, not a list"),
    ({"instruction": "Say."}, "no column 'instances'"),
]  # fmt: skip


def test_each_instance_is_a_row_and_each_record_counts_once(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "unnatural_instructions"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (24, 15, 8, 1, 16)
    assert findings(data) == {
        "skipped": 8,
        "duplicates": 1,
        "part_left_out": 1,
        "number": 3,
        "empty_prompt": 1,
    }


def test_the_instruction_in_other_words_is_learned_where_all_are_asked_for(tmp_path: Path) -> None:
    record = task(instance("Say i.", "a"), reworded=REWORDED)

    core = import_records(tmp_path, [record])
    full = import_records(tmp_path, [record], alternatives="all")

    assert outcomes(core, 1) == [["user: Say i. | assistant: a"]]
    assert outcomes(full, 1) == [["user: Say i. | assistant: a", "user: Tell i. | assistant: r"]]
    assert add_up(full) == (1, 1, 0, 0, 2)


def test_the_output_and_its_end_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [task(instance("Say i.", "a"))])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\nSay i.<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n",
        "a",
    )
