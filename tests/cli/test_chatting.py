"""What `chat` asks the engine for."""

from __future__ import annotations

import argparse

import pytest

from qlora_studio.cli.chatting import add_commands, keep_good, sampling_of, what_to_chat_with
from qlora_studio.config import places
from qlora_studio.data.conversation import Message
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Sampling
from tests.ui.example_runs import Example, make_run


def sampling(*options):
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    return sampling_of(parser.parse_args(["chat", "sample", *options]))


def test_without_options_it_is_the_windows_own():
    assert sampling() == Sampling()


def test_every_setting_of_the_window_can_be_said():
    said = sampling(
        *("--temperature", "1.2", "--top-p", "0.8", "--top-k", "7", "--min-p", "0.05"),
        *("--repeat-penalty", "1.1", "--seed", "3", "--max-tokens", "9", "--greedy"),
    )
    assert said == Sampling(
        greedy=True, temperature=1.2, top_p=0.8, top_k=7, min_p=0.05, repeat_penalty=1.1, seed=3, max_tokens=9
    )


def test_a_reply_has_at_least_one_token():
    with pytest.raises(StudioError, match="at least 1"):
        sampling("--max-tokens", "0")


def test_the_last_answer_is_kept_as_a_row(home, capsys):
    keep_good([Message("user", "Two and two?")])
    assert "no answer yet" in capsys.readouterr().err
    keep_good([Message("user", "Two and two?"), Message("assistant", "Four.")])
    assert "kept: 1 good answer" in capsys.readouterr().err
    assert places.good_answers_file().read_bytes() == (
        b'{"messages":[{"role":"user","content":"Two and two?"},{"role":"assistant","content":"Four."}]}\n'
    )


FULL = {"training.finetuning": "full", "model.quantization": "none", "model.compute_dtype": "float32"}


def test_what_a_run_with_all_weights_made_is_talked_with_as_a_model(tmp_path):
    run = make_run(tmp_path, Example(name="full", end="finished", steps=3, changes=FULL))
    model, adapter, of_run = what_to_chat_with(str(run), None)
    assert (model.path, model.quantization, model.compute_dtype) == (str(run / "model"), "none", "float32")
    assert (adapter, of_run) == (None, str(run))
    with pytest.raises(StudioError, match="has no adapter"):
        what_to_chat_with(str(run), tmp_path)


def test_before_its_end_such_a_run_has_no_model(tmp_path):
    run = make_run(tmp_path, Example(name="full", end="paused", steps=3, changes=FULL))
    with pytest.raises(StudioError, match="no model yet"):
        what_to_chat_with(str(run), None)
