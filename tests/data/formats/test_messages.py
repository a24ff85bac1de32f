"""Messages as OpenAI writes them: role and content, with tools, reasoning, parts and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings
from tests.data.tiny_tokenizer import CHATML

U = {"role": "user", "content": "a"}
A = {"role": "assistant", "content": "b"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def answer(content: Any = None, **beside: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | beside


def part(text: Any, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": text}


ROWS: list[tuple[Any, Any]] = [
    ([U, A], ["user: a | assistant: b"]),
    ([{"role": "developer", "content": "s"}, U, A], ["system: s | user: a | assistant: b"]),
    ([{"role": "system", "content": ""}, U, A], MERGED),
    ([U, answer([part("c"), part("d")])], ["user: a | assistant: cd"]),
    ([U, answer([{"type": "output_text", "value": "e"}])], ["user: a | assistant: e"]),
    ([{"role": "user", "content": ["f", "g"]}, A], ["user: fg | assistant: b"]),
    ([{"role": "user", "content": {"content_type": "text", "parts": ["h"]}}, A], ["user: h | assistant: b"]),
    ([{"role": "user", "content": [part("i"), part(None)]}, A], ["user: i | assistant: b"]),
    (
        [{"role": "user", "content": [part("a"), {"type": "image_url", "image_url": {"url": "x"}}]}, A],
        "a turn has a part of type 'image_url'; only text can be learned",
    ),
    ([U, answer("j", reasoning="r")], ["user: a | assistant: j [thinks r]"]),
    ([U, answer("j", reasoning_content="q")], ["user: a | assistant: j [thinks q]"]),
    ([U, answer([{"type": "thinking", "thinking": "p"}, part("j")])], ["user: a | assistant: j [thinks p]"]),
    ([U, answer("k", loss_weight=0.5)], ["user: a | assistant: k [weighs 0.5]"]),
    ([U, answer("k", weight=0), U, A], ["user: a | assistant: k [weighs 0] | user: a | assistant: b"]),
    ([U, answer("k", train=False), U, answer("l", train=True)],
     ["user: a | assistant: k [weighs 0] | user: a | assistant: l [weighs 1]"]),
    ([U, answer("k", masked=True), U, A], MERGED),
    ([U | {"loss_weight": 1}, A], ["user: a [weighs 1] | assistant: b"]),
    ([U, answer("k", loss_weight=-1)], "a loss_weight is no number from 0 on"),
    (
        [U, answer(tool_calls=[CALL]), {"role": "tool", "tool_call_id": "c1", "content": "4"}, answer("m")],
        ['user: a | assistant:  [calls add({"a": 2})] | tool: 4 | assistant: m'],
    ),
    ([U, answer("", tool_calls=[{"function": {"name": "add", "arguments": {"a": 2, "b": 1.5}}}])],
     ['user: a | assistant:  [calls add({"a": 2, "b": 1.5})]']),
    ([U, answer("n", tool_calls=[])], ["user: a | assistant: n"]),
    ([U, answer(function_call={"name": "add", "arguments": "{}"})],
     ["user: a | assistant:  [calls add({})]"]),
    ([U, answer(tool_calls=json.dumps([CALL | {"id": "c2"}]))],
     ['user: a | assistant:  [calls add({"a": 2})]']),
    ([U, answer(tool_calls=[{"function": {}}])], "a tool call has no name"),
    ([U, {"role": "tool", "content": "4"}, A], ["user: a | tool: 4 | assistant: b"]),
    ([U, {"role": "System ", "content": "s"}, A], ["user: a | system: s | assistant: b"]),
    ([U, A, {"role": "tool", "content": None}, answer("o")],
     ["user: a | assistant: b | tool:  | assistant: o"]),
    ([U, answer()], "no answer"),
    ([U, "b"], "a turn is text, not an object"),
    ([{"role": None, "content": "a"}, A], "a turn has no role"),
    ("[[", "the turns are text, not a list"),
]  # fmt: skip


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [{"messages": messages} for messages, _ in ROWS])

    assert data.report.format == "messages"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (31, 22, 7, 2, 22)
    assert findings(data) == {
        "skipped": 7,
        "duplicates": 2,
        "role_alias": 2,
        "odd_order": 2,
    }


def test_the_answer_of_a_tool_is_context_and_the_call_is_learned(tmp_path: Path) -> None:
    with_calls = CHATML.replace(
        "message['content'] ",
        "message['content'] + ' ' + (message.tool_calls or [])|map(attribute='function.name')|join ",
    )
    (row,) = import_records(
        tmp_path, [{"messages": [U, answer("x", tool_calls=[CALL]), {"role": "tool", "content": "4"}, A]}]
    )

    text, learned = trained(tmp_path, row, template_text=with_calls)

    assert "<|im_start|>tool\n4 <|im_end|>\n" in text
    assert learned == "x addb "


def test_a_weight_of_a_turn_wins_over_the_rule_for_all(tmp_path: Path) -> None:
    messages = [U | {"train": True}, answer("c", masked=True), U, A]
    (row,) = import_records(tmp_path, [{"messages": messages}])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
        "user\na\nb",
    )


def test_texts_in_turn_are_a_chat_without_names(tmp_path: Path) -> None:
    data = import_records(tmp_path, [{"data": said} for said in (["a", "b", "c", "d"], ["e", "f"], ["a"])])

    assert data.report.format == "messages"
    assert outcomes(data, 3) == [
        ["user: a | assistant: b | user: c | assistant: d"],
        ["user: e | assistant: f"],
        "a turn is text, not an object",
    ]
    assert findings(data) == {"skipped": 1, "unnamed_turns": 2}


def test_images_beside_the_messages_are_refused_and_an_empty_column_is_not(tmp_path: Path) -> None:
    data = import_records(
        tmp_path, [{"messages": [U, A], "images": []}, {"messages": [U, A], "images": ["a.png"]}]
    )

    assert outcomes(data, 2) == [
        ["user: a | assistant: b"],
        "'images' isn't empty; only text can be learned",
    ]
