"""Chats, however a file spells their turns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qlora_studio.data.chats import chat, oddities
from qlora_studio.data.conversation import Message, ToolCall
from qlora_studio.data.record import RecordError
from qlora_studio.data.strict_json import Spelled

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
        ([ASSISTANT, USER], "no answer"),
        ("[{'role': 'user', 'content': 'a'}]", "the turns are a text that is no JSON"),
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


def test_system_texts_at_the_beginning_are_joined_and_equal_ones_are_one() -> None:
    both = chat([{"role": "system", "content": "a"}, USER, ASSISTANT], system="b")
    one = chat([{"role": "system", "content": "a"}, USER, ASSISTANT], system="a")

    assert (both.messages[0], both.notes) == (Message("system", "b\n\na"), {"systems_joined"})
    assert (one.messages[0], one.notes) == (Message("system", "a"), frozenset())


@pytest.mark.parametrize(
    ("turns", "note"),
    [
        ([USER, USER, ASSISTANT], "same_speaker"),
        ([USER, ASSISTANT, ASSISTANT], "same_speaker"),
        ([ASSISTANT, USER, ASSISTANT], "answer_first"),
        ([{"role": "system", "content": "x"}, ASSISTANT, USER, ASSISTANT], "answer_first"),
        ([USER, {"role": "system", "content": "x"}, ASSISTANT], "odd_order"),
        ([USER, {"role": "tool", "content": "x"}, ASSISTANT], "odd_order"),
        ([USER, ASSISTANT, {"role": "tool", "content": "x"}, USER, ASSISTANT], "odd_order"),
    ],
)
def test_an_odd_order_is_kept_as_it_stands_and_noted(turns: Any, note: str) -> None:  # D8
    found = chat(turns)

    assert [(m.role, m.content) for m in found.messages] == [(t["role"], t["content"]) for t in turns]
    assert found.notes == {note}


def test_texts_in_turn_and_turns_named_by_their_role_are_chats() -> None:
    in_turn = chat(["2 + 2?", "4", "Sure?", "Yes."])
    by_role = chat([{"human": "2 + 2?", "assistant": "4"}, {"Human": "Sure?", "Assistant": "Yes."}])

    assert [m.content for m in in_turn.messages] == ["2 + 2?", "4", "Sure?", "Yes."]
    assert in_turn == by_role
    assert in_turn.notes == {"unnamed_turns"}


def test_a_message_keeps_its_own_weight() -> None:
    weights = [
        message.loss_weight
        for message in chat(
            [USER, ASSISTANT | {"loss_weight": 0.5}, USER, ASSISTANT | {"weight": 0}]
        ).messages
    ]

    assert weights == [None, 0.5, None, 0.0]


@pytest.mark.parametrize(
    ("marks", "weight"),
    [
        ({"train": False}, 0.0),
        ({"train": True}, 1.0),
        ({"loss": False}, 0.0),
        ({"masked": True}, 0.0),
        ({"masked": False}, None),
        ({"weight": True}, 1.0),
        ({"loss": 0.25}, None),  # a loss that was measured says nothing about what is to be learned
    ],
)
def test_other_words_for_what_is_learned_are_understood(marks: dict[str, Any], weight: float | None) -> None:
    assert chat([USER, ASSISTANT | marks]).messages[1].loss_weight == weight


def test_what_was_thought_may_stand_in_a_part_or_beside_the_text() -> None:
    parts = [{"type": "thinking", "thinking": "Easy."}, {"type": "text", "text": "4"}]

    assert chat([USER, {"role": "assistant", "content": parts}]).messages[1].reasoning == "Easy."
    assert chat([USER, ASSISTANT | {"thinking": "Easy."}]).messages[1].reasoning == "Easy."


def test_numbers_in_calls_stay_numbers_where_a_record_is_read_with_their_spelling() -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": Spelled("2.50"), "b": [Spelled("1")]}}}]

    (call,) = chat([USER, {"role": "assistant", "tool_calls": calls}]).messages[1].tool_calls

    assert call.arguments == '{"a": 2.5, "b": [1]}'


def test_a_tool_may_answer_with_any_json_or_with_nothing() -> None:
    results = [[{"type": "text", "text": "4"}], [{"sum": 4}], None]
    turns = [{"role": "tool", "content": result} for result in results]

    found = chat([USER, ASSISTANT, *turns, ASSISTANT])

    assert [message.content for message in found.messages[2:5]] == ["4", '[{"sum": 4}]', ""]


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


def test_tools_may_be_one_object_or_json_texts() -> None:
    add = {"name": "add"}

    assert json.loads(chat([USER, ASSISTANT], tools=add).tools) == [add]
    assert json.loads(chat([USER, ASSISTANT], tools=[json.dumps(add)]).tools) == [add]


def test_tools_that_are_no_list_of_objects_are_refused() -> None:
    with pytest.raises(RecordError, match="the tools are no list of objects"):
        chat([USER, ASSISTANT], tools=["add"])
    with pytest.raises(RecordError, match="the tools are not valid JSON"):
        chat([USER, ASSISTANT], tools="[add]")


def test_a_usual_order_has_nothing_odd() -> None:
    assert oddities(("system", "user", "assistant", "tool", "tool", "assistant", "user")) == frozenset()


def test_turns_may_stand_as_json_text_in_a_cell() -> None:
    assert chat(json.dumps([USER, ASSISTANT])).messages == (
        Message("user", "2 + 2?"),
        Message("assistant", "4"),
    )
    with pytest.raises(RecordError, match="the turns are text, not a list"):
        chat("[broken")
