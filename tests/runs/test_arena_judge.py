"""A judge model is asked both ways round; its bias and its agreement are counted, not trusted."""

from __future__ import annotations

import msgspec
import pytest

from qlora_studio.config.run_config import ModelConfig
from qlora_studio.runs.arena import (
    TIE,
    Arena,
    Judgement,
    Pair,
    Player,
    Vote,
    missing_judgements,
    new_arena,
    read_arena,
    save_arena,
    with_answer,
    with_judge,
    with_judgement,
)
from qlora_studio.runs.arena_judge import judge_question, judgement_of, trust, trust_words, winner_of

PAIR = Pair(prompt=0, left=0, right=1)


@pytest.fixture
def arena():
    """Two models, four prompts; the last was answered alike."""
    made = new_arena(
        Arena(
            model=ModelConfig(path="/models/tiny"),
            players=(Player(name="base"), Player(name="tuned")),
            prompts=("Why?", "How?", "Who?", "When?"),
        )
    )
    for prompt in range(4):
        made = with_answer(made, prompt, 0, f"plain {prompt}")
        made = with_answer(made, prompt, 1, f"tuned {prompt}" if prompt < 3 else "plain 3")
    return made


def judged(arena, *winners):
    """(forwards, backwards) of the first prompts."""
    for prompt, (forwards, backwards) in enumerate(winners):
        item = Judgement(prompt=prompt, one=0, other=1, forwards=forwards, backwards=backwards)
        arena = with_judgement(arena, item)
    return arena


def test_the_second_time_the_answers_stand_the_other_way_round(arena):
    forwards, backwards = (judge_question(arena, PAIR, way) for way in (False, True))
    assert forwards.index("plain 0") < forwards.index("tuned 0")
    assert backwards.index("tuned 0") < backwards.index("plain 0")
    assert "base" not in forwards


@pytest.mark.parametrize(
    ("reply", "forwards", "backwards"),
    [
        ("Clearer. [[A]]", 0, 1),
        ("[[B]]", 1, 0),
        ("Not [[A]], rather [[ C ]]", TIE, TIE),
        ("A is better", None, None),
        ("", None, None),
    ],
)
def test_the_last_verdict_counts_and_what_is_none_is_none(reply, forwards, backwards):
    assert winner_of(reply, PAIR, backwards=False) == forwards
    assert winner_of(reply, PAIR, backwards=True) == backwards
    judgement = judgement_of(PAIR, reply, reply)
    assert (judgement.forwards, judgement.backwards) == (forwards, backwards)


def test_equal_answers_are_not_asked_about_and_none_twice(arena):
    assert [pair.prompt for pair in missing_judgements(arena)] == [0, 1, 2]
    assert [pair.prompt for pair in missing_judgements(judged(arena, (0, 0)))] == [1, 2]


def test_a_judge_that_always_takes_the_first_is_found_out(arena):
    found = trust(judged(arena, (0, 1), (0, 1), (0, 1)))
    assert (found.consistent, found.first, found.decided) == (0, 6, 6)
    assert found.low > 0.5  # no accident


def test_a_judge_that_says_the_same_both_ways_has_no_position_bias(arena):
    found = trust(judged(arena, (0, 0), (1, 1), (TIE, TIE)))
    assert (found.consistent, found.first, found.decided) == (3, 2, 4)
    assert found.low < 0.5 < found.high


def test_it_agrees_where_it_says_what_the_person_said_and_a_contradiction_is_a_tie(arena):
    votes = tuple(
        Vote(prompt=prompt, left=1, right=0, winner=winner) for prompt, winner in enumerate((0, TIE, 1))
    )
    arena = msgspec.structs.replace(judged(arena, (0, 0), (0, 1), (0, None)), votes=votes)
    found = trust(arena)
    assert (found.voted, found.agreed, found.unsaid) == (3, 2, 1)
    words = trust_words(found)
    assert "It agrees with you on 2 of 3 pairs" in words
    assert "1 of 6 times it gave no verdict" in words


def test_before_anything_was_asked_nothing_is_claimed(arena):
    assert trust_words(trust(arena)) == "The judge was asked about 0 pairs, both ways round."


def test_another_judge_begins_anew_and_the_same_goes_on(arena):
    first = judged(with_judge(arena, "/models/one"), (0, 0))
    assert with_judge(first, "/models/one") == first
    assert with_judge(first, "/models/two").judgements == ()


def test_judgements_are_kept_and_damaged_ones_refused(arena, tmp_path):
    path = tmp_path / "a.json"
    kept = judged(with_judge(arena, "/models/one"), (0, None))
    save_arena(path, kept)
    assert read_arena(path) == kept
    for bad in ({"one": 1, "other": 0}, {"prompt": 9}, {"forwards": 3}):
        item = msgspec.structs.replace(kept.judgements[0], **bad)
        save_arena(path, msgspec.structs.replace(kept, judgements=(item,)))
        with pytest.raises(Exception, match="don't go together"):
            read_arena(path)
