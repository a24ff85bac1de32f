"""Foreign tokenizers and templates meet text first in a process that may be lost."""

import json
import os
import re
import time

import pytest

from qlora_studio.config.run_config import DataConfig
from qlora_studio.errors import StudioError
from qlora_studio.reader.model_text import ModelTexts
from tests.data.tiny_tokenizer import CHATML, byte_level, model_folder


def text_of(folder):
    return ModelTexts().of(str(folder))


def refusal(folder):
    with pytest.raises(StudioError) as refused:
        text_of(folder)
    return refused.value.message


def test_a_sound_model_has_nothing_to_note(tmp_path):
    text = text_of(model_folder(tmp_path / "model"))

    assert text.notes == ()
    assert text.stop_ids == (text.tokenizer.id_of("<|im_end|>"),)


def test_the_token_that_ends_an_answer_ends_replies_too(tmp_path):
    text = text_of(model_folder(tmp_path / "model", eos_token="<s>"))

    assert set(text.encoder(DataConfig(), "sft").stop_ids) == {
        text.tokenizer.id_of("<s>"),
        text.tokenizer.id_of("<|im_end|>"),
    }
    assert "'<|im_end|>'" in text.notes[0]


def test_a_byte_order_mark_before_a_small_file_is_passed_over(tmp_path):
    folder = model_folder(tmp_path / "model")
    plain = text_of(folder)
    config = folder / "tokenizer_config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())

    marked = text_of(folder)

    assert (marked.template.sha256, marked.stop_ids) == (plain.template.sha256, plain.stop_ids)


def test_a_model_without_a_template_gets_the_plain_one(tmp_path):
    text = text_of(model_folder(tmp_path / "model", template=None))

    assert text.template.origin == "plain.jinja"
    assert text.stop_ids == (text.tokenizer.special.eos_id,)


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('never') }}", "never"),
        ("{% for %}", "line 1"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "longer than"),
        ("{{ 'x' * 10 ** 10 }}", "memory"),
        (
            "{% set ns = namespace(t='x') %}{% for i in range(40) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
            "",
        ),
        ("{% for i in range(90000) %}{{ 'x' * 100 }}{% endfor %}", "1 MB"),
        ("{{ 'x' | center(10 ** 7) | replace(' ', 'ab' * 10 ** 6) }}", ""),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves answers out"),
        ("{% for m in messages %}{{ m.content }}{{ range(9) | random }}{% endfor %}" * 9, "in two ways"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("x" * 70_000, "65,536"),
    ],
)
def test_a_template_that_harms_is_refused_in_time(tmp_path, template, reason):  # S6, fault 26
    folder = model_folder(tmp_path / "model", template=template)
    start = time.monotonic()

    message = refusal(folder)

    assert reason in message
    assert "chat_template.jinja" in message or "chat template" in message
    assert time.monotonic() - start < 8  # 5 s, and a process started on a busy machine


@pytest.mark.fault(26)
def test_a_template_that_never_returns_to_python_is_ended(tmp_path):  # S6
    endless = "{{ ('a' * 200000) | wordwrap(1) | length }}" * 50 + CHATML
    folder = model_folder(tmp_path / "model", template=endless)
    start = time.monotonic()

    assert "longer than" in refusal(folder)
    assert time.monotonic() - start < 8


def test_a_template_that_takes_no_system_message_is_noted(tmp_path):
    picky = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML

    (note,) = text_of(model_folder(tmp_path / "model", template=picky)).notes

    assert "a system message" in note
    assert "no system" in note


def test_a_template_that_rewrites_earlier_answers_is_noted(tmp_path):
    rewriting = CHATML.replace(
        "+ message['content'] ",
        "+ (message['content'] | upper if message['role'] == 'assistant' and not loop.last "
        "else message['content']) ",
    )

    notes = text_of(model_folder(tmp_path / "model", template=rewriting)).notes

    assert any("takes no chat with a chat of more than two turns" in note for note in notes)
    assert any("only the last answer" in note for note in notes)


BLOW_UP = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000_000}
EMPTIED = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
ENDLESS = {
    "type": "Split",
    "pattern": {"Regex": r"(?:\w|\w\w?)+(?<=!)"},
    "behavior": "Isolated",
    "invert": False,
}


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("part", "definition", "reason"),
    [
        ("pre_tokenizer", ENDLESS, "breaks down on plain text"),
        ("normalizer", BLOW_UP, "(asks for more memory|takes longer)"),  # what a busy machine meets first
        ("normalizer", EMPTIED, "makes nothing of a plain text"),
    ],
)
def test_a_tokenizer_that_harms_is_refused_in_time(tmp_path, part, definition, reason):  # S7, fault 27
    folder = model_folder(tmp_path / "model")
    tokenizer = json.loads(byte_level().to_str())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {part: definition}))
    start = time.monotonic()

    message = refusal(folder)

    assert re.match(f"The tokenizer in {re.escape(str(folder))} {reason}", message)
    assert time.monotonic() - start < 8


def test_a_changed_template_is_read_anew(tmp_path):
    texts = ModelTexts()
    folder = model_folder(tmp_path / "model")
    before = texts.of(str(folder))

    (folder / "chat_template.jinja").write_text(CHATML + "{# new #}")
    os.utime(folder / "chat_template.jinja", ns=(1, 1))

    assert texts.of(str(folder)).template.sha256 != before.template.sha256
    assert texts.of(str(folder)) is texts.of(str(folder))


def test_a_shape_has_no_text():
    with pytest.raises(StudioError, match="no tokenizer"):
        ModelTexts().of("shape:llama-7b")
