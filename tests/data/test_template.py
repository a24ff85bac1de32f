import json

import pytest

from qlora_studio.data.conversation import Message, ToolCall
from qlora_studio.data.template import (
    ChatTemplate,
    find_template,
    for_template,
    plain_template,
    tools_for_template,
)
from qlora_studio.errors import StudioError
from tests.data.tiny_tokenizer import CHATML, model_folder

HELLO = [{"role": "user", "content": "hello"}]


def rendered(source, messages=HELLO, **options):
    return ChatTemplate(source, {"eos_token": "</s>"}, "test").render(messages, **options)


def refusal(source, messages=HELLO):
    with pytest.raises(StudioError) as refused:
        rendered(source, messages)
    return refused.value.message


def test_a_chat_is_rendered():
    assert rendered(CHATML, add_generation_prompt=True) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_blocks_are_trimmed_as_templates_expect():
    assert (
        rendered(
            "{% for message in messages %}\n  {% if true %}\n{{ message.role }}\n  {% endif %}\n{% endfor %}"
        )
        == "user\n"
    )


def test_what_templates_may_use_is_there():
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
        "{% set n = namespace(seen=false) %}{% set n.seen = true %}{{ n.seen }}{{ eos_token }}"
    )

    assert rendered(source, [*HELLO, *HELLO]) == '{"role": "user", "content": "hello"}True</s>'


def test_the_date_is_the_same_on_any_day():  # D2
    assert rendered("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"


def test_marks_show_what_the_model_writes():
    template = ChatTemplate("a{% generation %}b{% endgeneration %}c", {}, "test")

    assert template.marks_answers
    assert template.render(HELLO) == "abc"
    assert template.render(HELLO, marked=True) == (f"a{template.answer_begins}b{template.answer_ends}c")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('no system message, please') }}", "no system message, please"),
        ("{% for %}", "line 1"),
        ("{{ messages[5].content.x.y }}", "no element 5"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('touch /tmp/marker') }}", "unsafe"),
        ("{% set n = namespace(__class__=1) %}", "can't hold"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ lipsum() }}", "undefined"),
        ("{{ 1 / 0 }}", "division"),
        ("{% for i in range(90000) %}{{ 'x' * 100 }}{% endfor %}", "more than 1 MB"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "longer than 2"),
        ("x" * 70_000, "longer than 64 KB"),
    ],
)
def test_a_template_that_fails_is_refused_with_its_reason(source, reason):  # S6
    message = refusal(source)

    assert reason in message
    assert "test" in message


def test_the_file_beside_the_tokenizer_wins_over_its_config(tmp_path):
    folder = model_folder(tmp_path / "model", template="file", chat_template="config")

    assert find_template(folder, {}).source == "file"
    (folder / "chat_template.jinja").unlink()
    assert find_template(folder, {}).source == "config"


def test_of_several_templates_the_default_one_is_taken(tmp_path):
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    folder = model_folder(tmp_path / "model", template=None, chat_template=several)

    assert find_template(folder, {}).source == "d"


def test_a_model_without_a_template_has_none(tmp_path):
    assert find_template(model_folder(tmp_path / "model", template=None), {}) is None


def test_the_plain_template_opens_each_turn_with_its_role():
    talk = [{"role": role, "content": f" {role} text\n"} for role in ("system", "user", "assistant", "user")]

    assert plain_template({"eos_token": "</s>"}).render(talk, add_generation_prompt=True) == (
        "System: system text\nUser: user text\nAssistant: assistant text</s>\nUser: user text\nAssistant:"
    )


def test_calls_of_tools_reach_the_template_under_the_names_it_expects():
    call = ToolCall(name="add", arguments='{"a": 1}', id="c1")
    message = Message("assistant", "", tool_calls=(call,), reasoning="hm")

    assert for_template(message) == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    assert for_template(Message("tool", "2", name="add", tool_call_id="c1")) == {
        "role": "tool",
        "content": "2",
        "name": "add",
        "tool_call_id": "c1",
    }


def test_definitions_of_tools_are_given_as_values():
    tools = [{"type": "function", "function": {"name": "add"}}]

    assert tools_for_template(json.dumps(tools)) == tools
    assert tools_for_template("") is None
