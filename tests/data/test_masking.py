import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.data.conversation import Message, Row, ToolCall
from qlora_studio.data.masking import render_chat, render_prompt, turns_of
from qlora_studio.data.template import ChatTemplate, plain_template
from qlora_studio.errors import StudioError
from tests.data.tiny_tokenizer import CHATML, SPECIAL

STRIPS_OLD_THOUGHTS = (  # as reasoning models do: what was thought stays only in the newest answer
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COUNTS_TURNS = "{{ messages | length }} turns. {% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
COUNTS_AND_MARKS = (
    "{{ messages | length }} turns. {% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)


# How the usual families write a chat, shortened to what bears on the mask.
IN_THE_WILD = {
    "llama 3": (
        "{% for m in messages %}{% set content = '<|start|>' + m['role'] + '<|sep|>\n\n' "
        "+ m['content'] | trim + '<|im_end|>' %}"
        "{% if loop.index0 == 0 %}{% set content = '<s>' + content %}{% endif %}"
        "{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant<|sep|>\n\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ '<s>' }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}"
        "{% endfor %}"
    ),
    "gemma": (
        "<s>{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
        "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<|im_start|>' + role + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
    ),
    "chatml with a system text of its own": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}" + CHATML
    ),
}


def find_special(text):
    return [match.span() for match in re.finditer("|".join(map(re.escape, SPECIAL)), text)]


def render(messages, source=CHATML, train_on="answers", **row):
    template = ChatTemplate(source, {}, "test")
    talk = tuple(item if isinstance(item, Message) else Message(*item) for item in messages)
    return render_chat(Row(row=0, line=1, messages=talk, **row), template, train_on, find_special)


def learned(chat):
    """The pieces of text that are learned, by weight; a later span wins over an earlier one."""
    weights = [0.0] * len(chat.text)
    for span in chat.learned:
        weights[span.start : span.end] = [span.weight] * (span.end - span.start)
    pieces = []
    for i, weight in enumerate(weights):
        if weight and i and weights[i - 1] == weight:
            pieces[-1] = (pieces[-1][0] + chat.text[i], weight)
        elif weight:
            pieces.append((chat.text[i], weight))
    return pieces


TALK = [("system", "be kind"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]


def test_answers_are_learned_with_the_token_that_ends_them():
    assert learned(render(TALK)) == [("1<|im_end|>", 1.0), ("2<|im_end|>", 1.0)]


@pytest.mark.parametrize("source", IN_THE_WILD.values(), ids=IN_THE_WILD)
def test_answers_are_found_in_the_templates_of_the_usual_families(source):
    talk = [("user", "one"), ("assistant", "1, said <s>"), ("user", "two"), ("assistant", "2")]

    chat = render(talk, source)

    assert learned(chat) == [("1, said <s><|im_end|>", 1.0), ("2<|im_end|>", 1.0)]
    assert [chat.text[start:end] for start, end in chat.foreign] == ["<s>"]


def test_in_the_plain_template_the_end_token_is_learned():
    template = plain_template({"eos_token": "<|im_end|>"})
    row = Row(row=0, line=1, messages=(Message("user", "one"), Message("assistant", "1")))

    chat = render_chat(row, template, "answers", find_special)

    assert learned(chat) == [(" 1<|im_end|>", 1.0)]


def test_only_the_last_answer_is_learned_if_asked():
    assert learned(render(TALK, train_on="last_answer")) == [("2<|im_end|>", 1.0)]


def test_everything_is_learned_if_asked():
    chat = render(TALK, train_on="everything")

    assert learned(chat) == [(chat.text, 1.0)]


def test_a_messages_own_weight_wins():
    talk = [
        Message("user", "one", loss_weight=0.5),
        Message("assistant", "1", loss_weight=0.0),
        Message("user", "two"),
        Message("assistant", "2", loss_weight=0.25),
    ]

    assert learned(render(talk)) == [("<|im_start|>user\none<|im_end|>\n", 0.5), ("2<|im_end|>", 0.25)]


def test_a_message_can_be_taken_out_of_everything():
    talk = [Message("user", "one"), Message("assistant", "1", loss_weight=0.0), Message("user", "two")]

    assert learned(render(talk, train_on="everything")) == [
        ("<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n", 1.0),
        ("\n<|im_start|>user\ntwo<|im_end|>\n", 1.0),
    ]


def test_an_empty_answer_teaches_nothing():  # D8
    assert learned(render([("user", "one"), ("assistant", " \n")])) == []


def test_an_answer_that_only_calls_a_tool_is_learned():
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls %}CALL {{ c.function.name }}({{ c.function.arguments.a }}){% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    call = Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 1}'),))

    assert learned(render([("user", "one"), call], source)) == [("CALL add(1)<|im_end|>", 1.0)]


def test_rewritten_earlier_turns_are_refused_with_the_reason():
    talk = [("user", "one"), ("assistant", "<think>a</think>1"), ("user", "two"), ("assistant", "2")]

    with pytest.raises(StudioError, match=r"turn 2 reads otherwise once the chat goes on") as refused:
        render(talk, STRIPS_OLD_THOUGHTS)
    assert "last answer only" in refused.value.hint


def test_the_last_answer_of_such_a_chat_can_be_learned():
    talk = [("user", "one"), ("assistant", "<think>a</think>1"), ("user", "two"), ("assistant", "2")]

    chat = render(talk, STRIPS_OLD_THOUGHTS, train_on="last_answer")

    assert learned(chat) == [("2<|im_end|>", 1.0)]
    assert "think" not in chat.text


def test_marks_serve_where_the_beginning_changes():
    assert learned(render(TALK, COUNTS_AND_MARKS)) == [("1<|im_end|>", 1.0), ("2<|im_end|>", 1.0)]
    assert learned(render(TALK, COUNTS_AND_MARKS, "last_answer")) == [("2<|im_end|>", 1.0)]


def test_without_marks_a_changing_beginning_is_refused():
    with pytest.raises(StudioError, match=r"no \{% generation %\} marks"):
        render(TALK, COUNTS_TURNS)


def test_a_template_that_leaves_an_answer_out_is_refused():  # S6
    source = "{% for m in messages %}{{ m.role }}: {{ m.content[:1] }}<|im_end|>{% endfor %}"

    with pytest.raises(StudioError, match="leaves out part of an answer"):
        render([("user", "one"), ("assistant", "long answer")], source)


def test_a_template_that_leaves_a_call_out_is_refused():  # S6: else it teaches to say nothing
    call = Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 1}'),))

    with pytest.raises(StudioError, match="leaves out the call of a tool") as refused:
        render([("user", "one"), call, Message("tool", "2"), ("assistant", "two")])
    assert "made to call tools" in refused.value.hint


def test_a_call_whose_name_is_part_of_the_answer_is_left_out_all_the_same():
    call = Message("assistant", "Your address?", tool_calls=(ToolCall("add", '{"a": 1}'),))

    with pytest.raises(StudioError, match="leaves out the call of a tool"):
        render([("user", "one"), call])


def test_a_call_that_is_not_learned_may_be_left_out():
    call = Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 1}'),))
    talk = [("user", "one"), call, Message("tool", "2"), ("assistant", "two")]

    assert learned(render(talk, train_on="last_answer")) == [("two<|im_end|>", 1.0)]


def test_a_template_that_marks_only_some_answers_is_refused():
    source = COUNTS_AND_MARKS.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")

    with pytest.raises(StudioError, match="marks 1 answers of a chat that has 2"):
        render(TALK, source)


def test_names_of_special_tokens_in_messages_are_found_where_they_stand():  # D9
    chat = render([("user", "a <|im_end|> b"), ("assistant", "<s>c<|im_start|>")])

    assert [chat.text[start:end] for start, end in chat.foreign] == ["<|im_end|>", "<s>", "<|im_start|>"]
    assert learned(chat) == [("<s>c<|im_start|><|im_end|>", 1.0)]


def test_names_of_special_tokens_in_tools_are_found_too():  # D9
    source = "{{ tools[0].name }}{% for m in messages %}{{ m.content }}{% endfor %}"
    talk = [("user", "x")]

    chat = render(talk, source, "everything", tools='[{"name": "<|im_end|>"}]')

    assert chat.text == "<|im_end|>x"
    assert chat.foreign == ((0, 10),)


contents = st.text(alphabet="ab \n<|im_end>", max_size=20) | st.sampled_from(
    ["<|im_end|>", "x<s>y", "<|im_start|><|im_end|>"]
)


@given(st.lists(contents, min_size=1, max_size=4))
def test_what_is_learned_is_exactly_the_answers(answers):
    talk = [message for text in answers for message in (("user", "q"), ("assistant", text))]

    chat = render(talk)

    expected = [f"{text}<|im_end|>" for text in answers if text.strip()]
    assert [text for text, _ in learned(chat)] == expected


@given(st.lists(contents, min_size=1, max_size=4))
def test_the_text_is_what_the_template_renders(texts):  # D4
    talk = [Message("user", text) for text in texts]
    template = ChatTemplate(CHATML, {}, "test")

    chat = render_prompt(talk, template, find_special)

    plain = [{"role": "user", "content": text} for text in texts]
    assert chat.text == template.render(plain, add_generation_prompt=True)
    assert len(chat.foreign) == sum(len(find_special(text)) for text in texts)


def test_each_turn_knows_its_role():
    talk = tuple(Message(*item) for item in [("user", "one <s>"), ("assistant", "1"), ("user", "two")])
    row = Row(row=0, line=1, messages=talk)

    turns = turns_of(row, ChatTemplate(CHATML, {}, "test"), find_special)

    text = render(talk).text
    assert [(text[turn.start : turn.end], turn.role) for turn in turns] == [
        ("<|im_start|>user\none <s><|im_end|>\n", "user"),
        ("<|im_start|>assistant\n1<|im_end|>\n", "assistant"),
        ("<|im_start|>user\ntwo<|im_end|>\n", "user"),
    ]
