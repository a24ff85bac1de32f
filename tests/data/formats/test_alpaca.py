"""Alpaca: an instruction, perhaps an input below it, an output; Dolly's names for the same."""

from __future__ import annotations

from pathlib import Path

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

ROW = {"instruction": "Add.", "input": "2 2", "output": "4", "system": "", "history": []}
ROWS = [
    (ROW, ["user: Add.\n\n2 2 | assistant: 4"]),
    (ROW | {"input": ""}, ["user: Add. | assistant: 4"]),
    (ROW | {"input": None, "output": "four"}, ["user: Add. | assistant: four"]),
    (ROW | {"input": "  \n", "output": "4 "}, ["user: Add. | assistant: 4 "]),
    (ROW | {"system": "Be brief."}, ["system: Be brief. | user: Add.\n\n2 2 | assistant: 4"]),
    (ROW | {"system": None, "output": "IV"}, ["user: Add.\n\n2 2 | assistant: IV"]),
    (
        ROW | {"history": [["1 1", "2"], ["3 3", "6"]]},
        ["user: 1 1 | assistant: 2 | user: 3 3 | assistant: 6 | user: Add.\n\n2 2 | assistant: 4"],
    ),
    (
        ROW | {"history": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        ["user: Hi | assistant: Ho | user: Add.\n\n2 2 | assistant: 4"],
    ),
    (ROW | {"history": '[["1", "one"]]'}, ["user: 1 | assistant: one | user: Add.\n\n2 2 | assistant: 4"]),
    (ROW | {"history": [["1"]]}, "a part of the history is no pair of prompt and answer"),
    (ROW | {"history": 7}, "the history is a number, not a list"),
    (ROW | {"output": ""}, "no answer"),
    (ROW | {"output": " \u00a0\n"}, "no answer"),
    (ROW | {"output": None}, "'output' is null, not text"),
    (ROW | {"output": {"a": 1}}, "'output' is an object, not text"),
    (ROW | {"output": ["one of", "several"]}, ["user: Add.\n\n2 2 | assistant: one of"]),
    (ROW | {"output": []}, "no answer"),
    (ROW | {"output": 4.50}, ["user: Add.\n\n2 2 | assistant: 4.5"]),
    (ROW | {"output": True}, ["user: Add.\n\n2 2 | assistant: true"]),
    (ROW | {"output": '{"sum": 4}'}, ['user: Add.\n\n2 2 | assistant: {"sum": 4}']),
    (ROW | {"instruction": "", "output": "5"}, ["user: 2 2 | assistant: 5"]),
    (ROW | {"instruction": None, "input": "", "output": "6"}, ["user:  | assistant: 6"]),
    (ROW | {"instruction": ["Add."]}, "'instruction' is a list, not text"),
    ({"input": "2 2", "output": "4"}, "no column 'instruction'"),
    ({"instruction": "Add.", "input": "2 2"}, "no column 'output'"),
    (ROW | {"text": "Below is an instruction", "id": 7}, MERGED),
    (["Add.", "4"], "a list in place of an object with columns"),
    ("Add.", "text in place of an object with columns"),
    (ROW | {"images": ["cat.png"]}, "'images' isn't empty; only text can be learned"),
    (ROW | {"images": []}, MERGED),
]


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "alpaca"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (30, 15, 13, 2, 15)
    assert findings(data) == {
        "skipped": 13,
        "duplicates": 2,
        "several_answers": 1,
        "number": 2,
        "empty_prompt": 1,
    }


def test_dolly_and_other_names_with_capitals_and_blanks_are_alpaca_too(tmp_path: Path) -> None:
    dolly = {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada", "category": "closed_qa"}
    spelled = {" Instruction ": "Who?", "Input": "Ada wrote it.", "OUTPUT": "Ada"}

    for record in (dolly, spelled):
        data = import_records(tmp_path, [record])
        assert (data.report.format, outcomes(data, 1)) == (
            "alpaca",
            [["user: Who?\n\nAda wrote it. | assistant: Ada"]],
        )


def test_a_csv_with_a_byte_order_mark_and_mixed_line_ends_is_read(tmp_path: Path) -> None:
    content = (
        '\ufeffinstruction,input,output\r\n"Add.\r\nNow.",2 2,4\nSay "",,"a ""b"""\r\nNA,00123,1e5\n'
    ).encode()

    data = import_bytes(tmp_path / "rows.csv", content)

    assert [[message.content for message in row.messages] for row in data] == [
        ["Add.\r\nNow.\n\n2 2", "4"],
        ['Say ""', 'a "b"'],
        ["NA\n\n00123", "1e5"],
    ]


def test_the_answer_and_its_end_are_learned(tmp_path: Path) -> None:
    data = import_records(tmp_path, [ROW | {"system": "Be brief."}])

    assert trained(tmp_path, data.row(0)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAdd.\n\n2 2<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n",
        "4",
    )


def test_every_answer_is_a_row_where_all_are_asked_for(tmp_path: Path) -> None:
    data = import_records(tmp_path, [ROW | {"output": ["4", "four", "4", ""]}], alternatives="all")

    assert outcomes(data, 1) == [["user: Add.\n\n2 2 | assistant: 4", "user: Add.\n\n2 2 | assistant: four"]]
    assert add_up(data) == (1, 1, 0, 0, 2)
