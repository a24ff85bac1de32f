"""Answers that were found good are rows of a data file of their own."""

from __future__ import annotations

import json

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs import durable
from qlora_studio.runs.good_answers import (
    AnswerTurn,
    GoodAnswer,
    add_good_answer,
    last_texts,
    read_good_answers,
    remove_good_answer,
)

FIRST = GoodAnswer((AnswerTurn("user", "Two and two?"), AnswerTurn("assistant", "Four.")))
SECOND = GoodAnswer(
    (
        AnswerTurn("user", "Two and two?"),
        AnswerTurn("assistant", "Five.", 0.0),
        AnswerTurn("user", "Sure?"),
        AnswerTurn("assistant", "Four."),
    )
)


def test_each_is_a_line_of_messages(tmp_path):
    path = tmp_path / "data" / "good.jsonl"
    add_good_answer(path, FIRST)
    assert add_good_answer(path, SECOND) == read_good_answers(path) == [FIRST.line(), SECOND.line()]
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert rows[0] == {
        "messages": [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}]
    }
    assert rows[1]["messages"][1] == {"role": "assistant", "content": "Five.", "loss_weight": 0.0}


def test_an_answer_is_kept_once(tmp_path):
    path = tmp_path / "good.jsonl"
    add_good_answer(path, FIRST)
    assert add_good_answer(path, FIRST) == [FIRST.line()]


def test_taken_out_the_lines_of_others_stay_as_they_are(tmp_path):
    path = tmp_path / "good.jsonl"
    path.write_bytes(b'{"instruction": "by hand",   "output": "x"}\n')
    add_good_answer(path, FIRST)
    remove_good_answer(path, FIRST)
    assert path.read_bytes() == b'{"instruction": "by hand",   "output": "x"}\n'
    assert last_texts(read_good_answers(path)) == frozenset()


def test_a_torn_line_is_not_glued_to_the_next(tmp_path):  # R5
    path = tmp_path / "good.jsonl"
    path.write_bytes(b'{"messages": [{"ro')
    assert add_good_answer(path, FIRST)[1] == FIRST.line()
    assert last_texts(read_good_answers(path)) == {"Four."}


def test_a_full_disk_is_told_and_nothing_is_half_written(tmp_path, monkeypatch):  # R10
    path = tmp_path / "good.jsonl"
    add_good_answer(path, FIRST)
    monkeypatch.setattr(durable.os, "write", lambda descriptor, data: 3)
    with pytest.raises(StudioError, match="good answer"):
        add_good_answer(path, SECOND)
    assert read_good_answers(path) == [FIRST.line()]


def test_a_chat_longer_than_a_line_may_be_is_refused(tmp_path):
    with pytest.raises(StudioError, match="too long"):
        add_good_answer(tmp_path / "good.jsonl", GoodAnswer((AnswerTurn("assistant", "x" * 1_000_000),)))
