"""Answers are paired by lot and without names, judged, kept, and turned into a standing."""

from __future__ import annotations

import csv

import msgspec
import pytest

from qlora_studio.config.run_config import ModelConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.arena import (
    TIE,
    Arena,
    Player,
    Vote,
    all_pairs,
    games,
    missing_answers,
    new_arena,
    next_pair,
    read_arena,
    save_arena,
    standing,
    votes_as_csv,
    with_answer,
    with_vote,
    without_last_vote,
)
from qlora_studio.runs.elo import Game

PLAYERS = tuple(Player(name=name) for name in ("base", "one", "two"))
EMPTY = new_arena(
    Arena(model=ModelConfig(path="/models/tiny"), players=PLAYERS, prompts=("Why?", "How?", "Who?"))
)


@pytest.fixture
def answered():
    arena = EMPTY
    for prompt, player in missing_answers(arena):
        arena = with_answer(arena, prompt, player, f"{PLAYERS[player].name} to {prompt}")
    return arena


def judged(arena, better):
    """Until nothing is left. better: the player who wins each of its games; others tie."""
    while (pair := next_pair(arena)) is not None:
        arena = with_vote(arena, pair, better if better in (pair.left, pair.right) else TIE)
    return arena


def test_every_two_answers_to_a_prompt_are_compared_once(answered):
    arena = judged(answered, better=2)
    assert len(arena.votes) == 9
    assert {(vote.prompt, *sorted((vote.left, vote.right))) for vote in arena.votes} == {
        (prompt, *two) for prompt in range(3) for two in ((0, 1), (0, 2), (1, 2))
    }


def test_sides_are_drawn_by_lot_and_the_same_for_the_same_seed():
    many = new_arena(msgspec.structs.replace(EMPTY, prompts=tuple(map(str, range(200)))))
    pairs = all_pairs(many)
    assert pairs == all_pairs(many)
    assert pairs != all_pairs(msgspec.structs.replace(many, seed=1))
    base_left = sum(pair.left == 0 for pair in pairs if 0 in (pair.left, pair.right))
    assert 150 < base_left < 250  # of 400


def test_what_is_answered_can_be_judged_while_the_rest_is_written():
    arena = with_answer(with_answer(EMPTY, 0, 0, "a"), 0, 2, "b")
    pair = next_pair(arena)
    assert (pair.prompt, {pair.left, pair.right}) == (0, {0, 2})
    assert next_pair(with_vote(arena, pair, 2)) is None
    assert missing_answers(arena)[0] == (0, 1)


def test_equal_answers_are_a_tie_that_nobody_is_asked_about():
    arena = with_answer(with_answer(EMPTY, 1, 0, "same"), 1, 1, "same")
    assert next_pair(arena) is None
    (game,) = games(arena)
    assert (sorted(game[:2]), game.score) == ([0, 1], 0.5)


def test_the_standing_tells_who_won_against_whom(answered):
    found = standing(judged(answered, better=2))
    assert found.won[2] == (3.0, 3.0, 0.0)
    assert found.won[0] == (0.0, 1.5, 0.0)
    assert found.games == (6, 6, 6)
    base, one, two = found.ratings
    assert two.low > 1000 > max(base.high, one.high)


def test_a_vote_can_be_taken_back(answered):
    pair = next_pair(answered)
    assert without_last_vote(with_vote(answered, pair, pair.left)) == answered


def test_an_arena_is_kept_and_read_again(answered, tmp_path):
    arena = judged(answered, better=0)
    path = tmp_path / "arenas" / "first.json"
    save_arena(path, arena)
    assert read_arena(path) == arena


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"\xff",
        msgspec.json.encode(msgspec.structs.replace(EMPTY, schema_version=2)),
        msgspec.json.encode(msgspec.structs.replace(EMPTY, answers=())),
        msgspec.json.encode(msgspec.structs.replace(EMPTY, answers=(("a",),) * 3)),
        msgspec.json.encode(
            msgspec.structs.replace(EMPTY, votes=(Vote(prompt=9, left=0, right=1, winner=0),))
        ),
        msgspec.json.encode(
            msgspec.structs.replace(EMPTY, votes=(Vote(prompt=0, left=0, right=1, winner=2),))
        ),
    ],
)
def test_a_file_that_is_none_is_refused_and_left(broken, tmp_path):  # R15
    path = tmp_path / "arena.json"
    path.write_bytes(broken)
    with pytest.raises(StudioError, match=r"arena\.json"):
        read_arena(path)
    assert path.read_bytes() == broken


def test_one_model_or_no_prompt_is_no_arena():
    with pytest.raises(StudioError, match="two to 4 models"):
        new_arena(msgspec.structs.replace(EMPTY, players=PLAYERS[:1]))
    with pytest.raises(StudioError, match="not 0"):
        new_arena(msgspec.structs.replace(EMPTY, prompts=()))


def test_all_votes_can_be_taken_elsewhere(answered):
    pair = next_pair(answered)
    header, line = csv.reader(votes_as_csv(with_vote(answered, pair, TIE)).splitlines())
    assert header[0] == "prompt"
    assert line == [
        "Why?", PLAYERS[pair.left].name, PLAYERS[pair.right].name, "tie",
        f"{PLAYERS[pair.left].name} to 0", f"{PLAYERS[pair.right].name} to 0",
    ]  # fmt: skip


def test_games_are_told_from_the_left_answer(answered):
    pair = next_pair(answered)
    assert games(with_vote(answered, pair, pair.right)) == [Game(pair.left, pair.right, 0.0)]
