"""A list of prompts, in the forms that such lists have."""

from __future__ import annotations

import json

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.reader.prompt_jobs import read_prompts


def read(path):
    return read_prompts(reading.ReadPrompts(id=1, path=str(path))).prompts


@pytest.mark.parametrize(
    "written",
    [
        "Why?\n\n  How?  \nWhy?\n",
        "\ufeffWhy?\r\nHow?\r\n",
        '{"question_id": 1, "text": "Why?", "category": "x"}\n{"question_id": 2, "text": "How?"}\n',
        '{"prompt": "Why?"}\n\n{"question": "How?", "answer": "So."}\n',
        '{"turns": ["Why?", "And then?"]}\n{"instruction": "How?"}\n',
        '["Why?", {"prompt": "How?"}]',
    ],
)
def test_each_prompt_is_read_once_in_its_order(tmp_path, written):
    file = tmp_path / "prompts"
    file.write_bytes(written.encode("utf-8"))
    assert read(file) == ("Why?", "How?")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"", "holds no prompt"),
        (b'{"prompt": "a"}\n{"prompt": ', "line 2"),
        (b'{"prompt": "a"}\n{"said": "b"}', "prompt 2: none of prompt, question"),
        (b"caf\xe9", "not UTF-8 text at byte 3"),
        (b"x" * 8_001, "prompt 1 is longer"),
        (json.dumps([str(number) for number in range(1_001)]).encode(), "1,001 prompts"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_with_its_line(tmp_path, written, reason):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(written)
    with pytest.raises(StudioError, match=reason) as refused:
        read(file)
    assert "prompts.jsonl" in refused.value.message


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(StudioError, match=r"gone\.txt can't be read"):
        read(tmp_path / "gone.txt")
