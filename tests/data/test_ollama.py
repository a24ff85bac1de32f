"""A chat template in Go's words makes the same text as the model's own, or there is none and a reason."""

from __future__ import annotations

import pytest

from qlora_studio.data import go_template
from qlora_studio.data.ollama import modelfile, ollama_template
from qlora_studio.data.template import ChatTemplate
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.errors import StudioError
from tests.data.tiny_tokenizer import model_folder

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_A_DEFAULT = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are Tiny.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_31 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set said = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
    "{{ said }}<|eot_id|>{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}"
    "{% set said = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (said if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set said = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ said if loop.first else '' }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] | trim }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAST_IS_OTHERWISE = (
    "{% for m in messages %}{% if loop.last and m.role == 'user' %}{{ 'Now: ' }}{% endif %}"
    "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)
SAYABLE = {
    "ChatML": CHATML,
    "ChatML with a default": WITH_A_DEFAULT,
    "Llama 3": LLAMA_3,
    "Llama 3.1": LLAMA_31,
    "Llama 2": LLAMA_2,
    "Mistral": MISTRAL,
    "Gemma": GEMMA,
    "Gemma 3": GEMMA_3,
    "Phi 3": PHI_3,
    "plain": PLAIN,
}


def jinja(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, "chat_template.jinja")


def messages(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return [*first, *({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))]


@pytest.mark.parametrize("name", SAYABLE)
def test_the_families_templates_are_said_in_go(name: str) -> None:
    found = ollama_template(jinja(SAYABLE[name]), "")
    chat = messages("Hi.", "Hello!", "Who are you?")
    assert go_template.render(found.text, chat) == jinja(SAYABLE[name]).render(
        chat, add_generation_prompt=True
    )
    assert found.chats >= 35


def test_a_system_text_stands_where_the_model_s_own_template_writes_it() -> None:
    chat = messages("Hi.", "Hello!", "Who?", system="Be brief.")
    assert go_template.render(ollama_template(jinja(GEMMA_3), "<s>").text, chat) == (
        "<start_of_turn>user\nBe brief.\n\nHi.<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
        "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_what_ollama_puts_before_every_text_is_not_written_twice() -> None:
    assert "<s>" not in ollama_template(jinja(LLAMA_3), "<s>").text
    with pytest.raises(StudioError, match="doesn't begin with <s>"):
        ollama_template(jinja(CHATML), "<s>")


def test_what_ollama_can_not_do_is_noted() -> None:
    assert "blanks from the ends" in ollama_template(jinja(LLAMA_3), "<s>").notes[0]
    assert "no system text" in ollama_template(jinja(GEMMA), "<s>").notes[0]
    assert ollama_template(jinja(CHATML), "").notes == ("Calls of tools are left out.",)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (THINKS, "of a chat of 3 messages it makes"),
        (LAST_IS_OTHERWISE, "is written in another way"),
        ("{{ messages[-1].content }}", "each message once and in order"),
    ],
)
def test_a_template_that_can_not_be_said_is_refused_with_its_reason(source: str, reason: str) -> None:
    with pytest.raises(StudioError, match=reason):
        ollama_template(jinja(source), "")


@pytest.mark.parametrize("text", ['say "{{ x }}" 🙂\n', '"""', '"', "{{"])
def test_any_text_of_a_template_survives_the_quoting(text: str) -> None:
    source = "{% for m in messages %}{{ before + m.content + '|' }}{% endfor %}{{ before }}"
    template = ChatTemplate(source, {"before": text}, "chat_template.jinja")
    said = go_template.literal(text)
    assert '"""' not in said
    assert go_template.render(said, []) == text
    found = ollama_template(template, "")
    assert go_template.render(found.text, messages("Hi.")) == template.render(
        messages("Hi."), add_generation_prompt=True
    )


def test_neighbouring_messages_of_one_role_are_joined_as_ollama_joins_them() -> None:
    two = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert go_template.render("{{ range .Messages }}[{{ .Content }}]{{ end }}", two) == "[a\n\nb]"


def test_a_modelfile_has_template_and_stop_words(tmp_path) -> None:
    model_folder(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    text, notes = modelfile(jinja(CHATML), tokenizer, tokenizer.special.stop_ids)
    assert text.startswith("# The template makes the same text as the model's own of ")
    assert 'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n' in text
    assert text.rstrip().endswith(f'PARAMETER stop "{tokenizer.name_of(tokenizer.special.stop_ids[0])}"')
    assert notes.endswith("Calls of tools are left out.")
