import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.held_out import content_hash, held_out_rows


def rows_of(prompts):
    return [
        Row(row=i, line=i + 1, messages=(Message("user", prompt), Message("assistant", str(i))))
        for i, prompt in enumerate(prompts)
    ]


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.floats(0.0, 0.5), st.integers(0, 5))
def test_equal_prompts_stay_on_one_side(prompts, share, seed):  # D9
    apart = held_out_rows(rows_of(prompts), share, seed)

    sides = {
        prompt: {bool(apart[i]) for i, other in enumerate(prompts) if other == prompt} for prompt in prompts
    }
    assert all(len(side) == 1 for side in sides.values())


@given(st.integers(2, 300), st.floats(0.01, 0.5), st.integers(0, 5))
def test_the_share_is_met_where_prompts_differ(count, share, seed):
    apart = held_out_rows(rows_of(map(str, range(count))), share, seed)

    assert apart.sum() == max(1, round(share * count))


def test_the_seed_alone_decides():  # R3
    rows = rows_of(map(str, range(100)))

    assert (held_out_rows(rows, 0.1, 3) == held_out_rows(rows, 0.1, 3)).all()
    assert (held_out_rows(rows, 0.1, 3) != held_out_rows(rows, 0.1, 4)).any()


def test_what_an_assistant_says_before_the_first_question_makes_no_prompts_equal():
    greeting = Message("assistant", "Hello!")
    rows = [msgspec.structs.replace(row, messages=(greeting, *row.messages)) for row in rows_of("abcd")]

    assert held_out_rows(rows, 0.5, 0).sum() == 2


def test_without_a_share_or_with_one_prompt_nothing_is_held_out():
    assert not held_out_rows(rows_of("abc"), 0.0, 0).any()
    assert not held_out_rows(rows_of("aaa"), 0.5, 0).any()
    assert held_out_rows([], 0.5, 0).dtype == np.bool_


def test_rows_are_equal_where_all_they_say_is():
    one, other = rows_of(["a", "a"])

    assert content_hash(one) != content_hash(other)
    assert content_hash(one) == content_hash(rows_of(["a"])[0])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.floats(0.05, 0.5), st.integers(0, 3))
def test_rows_that_are_nearly_equal_never_straddle(near, share, seed):  # D9
    rows = rows_of(f"prompt {i % 7}" for i in range(len(near)))

    apart = held_out_rows(rows, share, seed, near=np.array(near))

    linked = [{i for i in range(len(near)) if i % 7 == prompt} for prompt in range(7)]
    linked += [{i for i, group in enumerate(near) if group == number} for number in range(10)]
    assert all(len({bool(apart[i]) for i in group}) <= 1 for group in linked)


def test_rows_that_are_not_seen_are_on_neither_side_and_count_for_no_share():
    seen = np.arange(100) % 2 == 0

    apart = held_out_rows(rows_of(map(str, range(100))), 0.1, 0, seen=seen)

    assert apart.sum() == 5
    assert not apart[~seen].any()


def test_near_groups_of_one_row_each_change_nothing():
    rows = rows_of(map(str, range(50)))

    assert held_out_rows(rows, 0.2, 0, near=np.arange(50)).sum() == 10
