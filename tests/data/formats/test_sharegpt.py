"""ShareGPT: turns with from and value, in the many spellings that went round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

CALL = '{"name": "add", "arguments": {"a": 2}}'
TOOLS = '[{"name": "add", "parameters": {}}]'


def talk(*said: str, **beside: Any) -> dict[str, Any]:
    """talk("human: hello") has one turn."""
    return turns(*(dict(zip(("from", "value"), turn.split(": ", 1), strict=True)) for turn in said)) | beside


def turns(*given: dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "conversations": list(given)}


ROWS: list[tuple[Any, Any]] = [
    (talk("human: a", "gpt: b"), ["user: a | assistant: b"]),
    (talk("user: a", "assistant: c"), ["user: a | assistant: c"]),
    (talk("human: a", "chatgpt: d"), ["user: a | assistant: d"]),
    (talk("human: a", "bard: e"), ["user: a | assistant: e"]),
    (talk("human: a", "bing: f"), ["user: a | assistant: f"]),
    (talk("Human: a", "GPT: g"), ["user: a | assistant: g"]),
    (talk(" human : a", "gpt : h"), ["user: a | assistant: h"]),
    (talk("system: s", "human: a", "gpt: b"), ["system: s | user: a | assistant: b"]),
    (talk("human: a", "gpt: i", system="s"), ["system: s | user: a | assistant: i"]),
    (talk("system: s", "human: a", "gpt: b", system="s"), MERGED),
    (talk("system: s", "human: a", "gpt: j", system="t"), ["system: t\n\ns | user: a | assistant: j"]),
    (talk("gpt: hello", "human: a", "gpt: b"), ["assistant: hello | user: a | assistant: b"]),
    (talk("human: a", "human: b", "gpt: c"), ["user: a | user: b | assistant: c"]),
    (talk("human: a", "gpt: b", "gpt: c"), ["user: a | assistant: b | assistant: c"]),
    (talk("human: a", "gpt: b", "human: c"), ["user: a | assistant: b | user: c"]),
    (talk("human: a", "gpt: ", "human: b", "gpt: c"), ["user: a | assistant:  | user: b | assistant: c"]),
    (talk("human: a", "gpt: "), "no answer"),
    (talk("human: a"), "no answer"),
    (talk("gpt: a"), ["assistant: a"]),
    (talk("system: s"), "no answer"),
    (talk(), "no turns"),
    (talk("human: a", "narrator: b"), "unknown role 'narrator'"),
    (talk("human: a", "gpt: k", items=[]), ["user: a | assistant: k"]),
    (
        talk("human: a", f"function_call: {CALL}", "observation: 4", "gpt: l", tools=TOOLS),
        ['user: a | assistant:  [calls add({"a": 2})] | tool: 4 | assistant: l'],
    ),
    (talk("human: a", "function_call: add(2)"), "a tool call is not valid JSON"),
    (talk("human: a", "gpt: m", tools="[add]"), "the tools are not valid JSON"),
    ({"id": "1", "conversations": None}, "the turns are null, not a list"),
    ({"id": "1"}, "no column 'conversations'"),
    (turns({"from": "human", "value": 1.5}, {"from": "gpt", "value": True}), ["user: 1.5 | assistant: true"]),
    (turns({"from": "human", "value": None}, {"from": "gpt", "value": "b"}), "a user turn has no content"),
    (turns({"from": "human", "text": "a"}, {"from": "gpt", "text": "n", "b": 1}), ["user: a | assistant: n"]),
]  # fmt: skip


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "sharegpt"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (31, 20, 10, 1, 20)
    assert findings(data) == {
        "skipped": 10,
        "duplicates": 1,
        "role_alias": 19,
        "systems_joined": 1,
        "answer_first": 1,
        "same_speaker": 2,
        "open_end": 1,
        "empty_answer": 1,
        "number": 1,
        "empty_prompt": 1,
    }


def test_other_names_of_the_column_are_found(tmp_path: Path) -> None:
    said = talk("human: a", "gpt: b")["conversations"]

    for name in ("conversation", "items", "dialog", "Conversations", "whatever"):
        data = import_records(tmp_path, [{"id": "1", name: said}, {"id": "2", name: said}])
        assert (data.report.format, outcomes(data, 1)) == ("sharegpt", [["user: a | assistant: b"]])


def test_turns_in_json_in_a_cell_are_read_and_those_that_python_wrote_are_named(tmp_path: Path) -> None:
    said = talk("human: a", "gpt: b")["conversations"]
    cells = [json.dumps(said).replace('"', '""'), str(said)]

    data = import_bytes(
        tmp_path / "rows.csv", "\n".join(["id,conversations", *(f'1,"{cell}"' for cell in cells)]).encode()
    )

    assert outcomes(data, 3)[1:] == [["user: a | assistant: b"], "the turns are a text that is no JSON"]


def test_tools_and_the_results_of_calls_reach_the_template(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [talk("human: a", f"function_call: {CALL}", "gpt: b", tools=TOOLS)])

    assert json.loads(row.tools) == json.loads(TOOLS)
    assert row.messages[1].tool_calls[0].arguments == '{"a": 2}'


def test_what_comes_before_the_first_question_is_context_only(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [talk("gpt: Hello!", "human: a", "gpt: b")])

    assert trained(tmp_path, row) == (
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n",
        "b",
    )


def test_two_answers_in_a_row_are_both_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [talk("human: a", "gpt: b", "gpt: c")])

    assert trained(tmp_path, row)[1] == "bc"
