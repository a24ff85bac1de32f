"""Chats, however a file spells their turns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qlora_studio.data.chats import chat, order_problem
from qlora_studio.data.conversation import Message, ToolCall
from qlora_studio.data.record import RecordError

USER = {"role": "user", "content": "2 + 2?"}
ASSISTANT = {"role": "assistant", "content": "4"}
CALL = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 2}'}}


def test_turns_keep_their_roles_and_their_text() -> None:
    found = chat([{"role": "system", "content": " Be brief.\n"}, USER, ASSISTANT])

    assert found.messages == (
        Message("system", " Be brief.\n"),
        Message("user", "2 + 2?"),
        Message("assistant", "4"),
    )
    assert found.notes == frozenset()


@pytest.mark.parametrize(
    ("spelling", "role"),
    [
        ("human", "user"),
        ("gpt", "assistant"),
        ("Assistant", "assistant"),
        ("USER", "user"),
        ("model", "assistant"),
    ],
)
def test_other_names_of_known_roles_are_mapped_and_noted(spelling: str, role: str) -> None:  # D8
    turns = [USER, ASSISTANT] if role == "assistant" else [USER, ASSISTANT, USER]
    turns[-1] = {"from": spelling, "value": "text"}

    found = chat(turns)

    assert found.messages[-1] == Message(role, "text")
    assert "role_alias" in found.notes


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no turns"),
        ("hello", "the turns are text, not a list"),
        (["hello"], "a turn is text, not an object"),
        ([{"content": "hello"}], "a turn has no role"),
        ([{"role": "narrator", "content": ""}], "unknown role 'narrator'"),
        ([{"role": 1, "content": ""}], "a turn has no role"),
        ([{"role": "user"}, ASSISTANT], "a user turn has no content"),
        ([{"role": "user", "content": None}, ASSISTANT], "a user turn has no content"),
        ([{"role": "user", "content": {"a": 1}}, ASSISTANT], "the content of a turn is an object, not text"),
        ([USER], "no answer"),
        ([USER, {"role": "assistant", "content": " \n"}], "no answer"),
        ([USER, {"role": "assistant", "content": None}], "no answer"),
        ([ASSISTANT, USER], "an assistant turn before the first user turn"),
        ([USER, USER, ASSISTANT], "two user turns in a row"),
        ([USER, ASSISTANT, ASSISTANT], "two assistant turns in a row"),
        ([USER, {"role": "system", "content": "x"}, ASSISTANT], "a system turn behind the first turn"),
        (
            [USER, {"role": "tool", "content": "x"}, ASSISTANT],
            "a tool turn without an assistant turn before it",
        ),
        ([USER, ASSISTANT | {"loss_weight": -1}], "a loss_weight is no number from 0 on"),
        ([USER, ASSISTANT | {"loss_weight": "1"}], "a loss_weight is no number from 0 on"),
        ([USER, ASSISTANT | {"tool_calls": {}}], "tool_calls is an object, not a list"),
        ([USER, ASSISTANT | {"tool_calls": [{"function": {}}]}], "a tool call has no name"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ASSISTANT],
            "a turn has a part of type 'image_url'; only text can be learned",
        ),
    ],
)
def test_a_chat_that_cannot_be_learned_says_why(turns: Any, reason: str) -> None:  # D3 D8
    with pytest.raises(RecordError) as error:
        chat(turns)

    assert str(error.value) == reason


def test_content_may_be_a_list_of_text_parts() -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "value": "2"}, "?"]

    assert chat([{"role": "user", "content": parts}, ASSISTANT]).messages[0].content == "2 + 2?"


def test_numbers_and_truth_values_become_text_and_are_noted() -> None:  # D4
    found = chat([USER, {"role": "assistant", "content": 4}, USER, {"role": "assistant", "content": True}])

    assert [message.content for message in found.messages[1::2]] == ["4", "true"]
    assert "number" in found.notes


def test_an_empty_answer_beside_another_one_is_noted() -> None:  # D8
    assert "empty_answer" in chat([USER, {"role": "assistant", "content": ""}, USER, ASSISTANT]).notes


def test_an_empty_prompt_and_an_open_end_are_noted() -> None:
    notes = chat([{"role": "user", "content": ""}, ASSISTANT, USER]).notes

    assert notes == {"empty_prompt", "open_end"}


def test_an_empty_system_text_is_left_out() -> None:
    found = chat([{"role": "system", "content": " "}, USER, ASSISTANT])

    assert [message.role for message in found.messages] == ["user", "assistant"]
    assert found.notes == {"empty_system"}


def test_a_system_column_comes_first() -> None:
    assert chat([USER, ASSISTANT], system="Be brief.").messages[0] == Message("system", "Be brief.")
    assert len(chat([USER, ASSISTANT], system="").messages) == 2


def test_two_system_texts_are_one_too_many() -> None:
    with pytest.raises(RecordError, match="two system texts"):
        chat([{"role": "system", "content": "a"}, USER, ASSISTANT], system="b")


def test_a_message_keeps_its_own_weight() -> None:
    weights = [
        message.loss_weight
        for message in chat(
            [USER, ASSISTANT | {"loss_weight": 0.5}, USER, ASSISTANT | {"weight": 0}]
        ).messages
    ]

    assert weights == [None, 0.5, None, 0.0]


def test_calls_of_tools_and_their_results_are_kept() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": {"sum": 4}},
        ASSISTANT | {"reasoning_content": "That was easy."},
    ]

    found = chat(turns, tools=tools)

    assert found.messages[1] == Message(
        "assistant", "", tool_calls=(ToolCall(name="add", arguments='{"a": 2}', id="c1"),)
    )
    assert found.messages[2] == Message("tool", '{"sum": 4}', name="add", tool_call_id="c1")
    assert found.messages[3] == Message("assistant", "4", reasoning="That was easy.")
    assert json.loads(found.tools) == tools


def test_a_call_is_an_answer_to_learn() -> None:
    assert chat([USER, {"role": "assistant", "tool_calls": [CALL]}]).notes == frozenset()


def test_calls_of_sharegpt_and_of_the_older_form_are_calls_too() -> None:
    sharegpt = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'}
    older = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 2}'}}
    call = ToolCall(name="add", arguments='{"a": 2}')

    assert chat([USER, sharegpt, {"from": "observation", "value": "4"}, ASSISTANT]).messages[
        1
    ].tool_calls == (call,)
    assert chat([USER, older]).messages[1].tool_calls == (call,)


def test_tools_that_are_no_list_of_objects_are_refused() -> None:
    with pytest.raises(RecordError, match="the tools are no list of objects"):
        chat([USER, ASSISTANT], tools=["add"])
    with pytest.raises(RecordError, match="the tools are not valid JSON"):
        chat([USER, ASSISTANT], tools="[add]")


def test_a_usual_order_has_no_problem() -> None:
    assert order_problem(("system", "user", "assistant", "tool", "tool", "assistant", "user")) is None


def test_turns_may_stand_as_json_text_in_a_cell() -> None:
    assert chat(json.dumps([USER, ASSISTANT])).messages == (
        Message("user", "2 + 2?"),
        Message("assistant", "4"),
    )
    with pytest.raises(RecordError, match="the turns are text, not a list"):
        chat("[broken")
