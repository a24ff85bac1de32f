"""Answers are judged in the terminal by keys, without names, and the standing is told."""

from __future__ import annotations

import io

import msgspec
import pytest

from qlora_studio.cli import arena as arena_command
from qlora_studio.cli.arena import _whole, judged, standing_lines, standing_object
from qlora_studio.cli.main import parse
from qlora_studio.config.run_config import ModelConfig
from qlora_studio.protocol import events
from qlora_studio.runs.arena import (
    Arena,
    Judgement,
    Player,
    new_arena,
    read_arena,
    standing,
    with_answer,
    with_judge,
    with_judgement,
)

PLAYERS = (Player(name="base"), Player(name="support\u202e", adapter="/runs/support/adapter"))


@pytest.fixture
def arena():
    arena = new_arena(
        Arena(model=ModelConfig(path="/models/tiny"), players=PLAYERS, prompts=("Why?", "How?"), seed=3)
    )
    for prompt in range(2):
        for player, said in enumerate(("I am plain.", "I am tuned.")):
            arena = with_answer(arena, prompt, player, said)
    return arena


def judge(arena, path, keys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(keys))
    return judged(path, arena)


def test_each_key_is_a_vote_that_is_kept_at_once(arena, tmp_path, monkeypatch, capsys):
    found = judge(arena, tmp_path / "a.json", "1\nx\nt\n", monkeypatch)
    first, second = found.votes
    assert (first.winner, second.winner) == (first.left, -1)
    assert read_arena(tmp_path / "a.json") == found
    shown = capsys.readouterr().out
    assert "I am plain." in shown and "--- answer 2 ---" in shown
    assert "base" not in shown and "support" not in shown


def test_a_vote_is_taken_back_and_the_rest_left_for_later(arena, tmp_path, monkeypatch):
    found = judge(arena, tmp_path / "a.json", "2\nu\n2\nq\n", monkeypatch)
    (vote,) = found.votes
    assert vote.winner == vote.right
    assert judge(found, tmp_path / "a.json", "", monkeypatch) == found


def test_the_standing_names_them_with_elo_interval_and_games_won(arena, tmp_path, monkeypatch):
    found = judge(arena, tmp_path / "a.json", "1\nq\n", monkeypatch)
    winner = found.players[found.votes[0].winner].name.replace("\u202e", "<U+202E>")
    lines = standing_lines(found, standing(found))
    assert lines[0] == "1 vote on 2 prompts"
    assert lines[2].split()[:2] == [winner, "1016"]
    assert "1016 to 1016" in lines[2]
    assert lines[2].endswith(" 1 of 1")
    told = standing_object(tmp_path / "a.json", found, standing(found))
    assert [player["elo"] for player in told["players"]] in ([1016.0, 984.0], [984.0, 1016.0])


def test_a_judge_s_bias_and_agreement_stand_below_the_standing(arena, tmp_path, monkeypatch):
    found = judge(arena, tmp_path / "a.json", "1\nq\n", monkeypatch)
    winner = found.votes[0].winner
    item = Judgement(prompt=0, one=0, other=1, forwards=winner, backwards=winner)
    found = with_judgement(with_judge(found, "/models/judge\u202e"), item)
    assert standing_lines(found, standing(found))[-1].startswith(
        "/models/judge<U+202E>: The judge was asked about 1 pair, both ways round. It said the same both "
    )
    told = standing_object(tmp_path / "a.json", found, standing(found))["judge"]
    assert (told["model"], told["agreed"], told["voted"]) == ("/models/judge\u202e", 1, 1)
    assert standing_object(tmp_path / "a.json", arena, standing(arena))["judge"] is None


def test_half_a_reply_is_nobody_s(arena):
    whole = events.GenerationFinished(
        id=1, reply="[[A]]", tokens=3, tokens_per_second=1.0, first_token_seconds=0.1, ended="end"
    )
    assert _whole(whole) == "[[A]]"
    with pytest.raises(KeyboardInterrupt):
        _whole(msgspec.structs.replace(whole, ended="stopped"))


def test_prompts_are_looked_for_where_the_person_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # children work in another folder
    (tmp_path / "prompts.txt").write_text("Why?\nHow?\n", "utf-8")
    monkeypatch.setattr(
        arena_command,
        "what_to_chat_with",
        lambda run, adapter: (ModelConfig(path="/models/tiny"), "/a", "/run"),
    )
    monkeypatch.setattr(arena_command, "require_model", lambda model: None)
    file, made = arena_command._arena(parse(["arena", "run", "--prompts", "prompts.txt", "--out", "a.json"]))
    assert made.prompts == ("Why?", "How?")
    assert file.is_file()
