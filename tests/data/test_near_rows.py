import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from qlora_studio.data import near_rows
from qlora_studio.data.conversation import Message
from qlora_studio.data.near_rows import NearRows, allowed_edits, cached_near_rows, find_near_rows
from qlora_studio.data.record import Conversation, Place
from qlora_studio.data.row_table import batch_of_rows
from qlora_studio.data.row_words import read_words
from qlora_studio.errors import StudioError

WORDS = [f"word{number}" for number in range(2000)]


def silent(done, total, words):
    return None


class Batches:
    """Rows as a data set gives them."""

    def __init__(self, conversations):
        self._batch = batch_of_rows(conversations, [Place(1)] * len(conversations), 0)

    def __len__(self):
        return self._batch.num_rows

    def batches(self):
        return iter([self._batch])


def chat(question, answer, system=""):
    first = (Message("system", system),) if system else ()
    return Conversation(messages=(*first, Message("user", question), Message("assistant", answer)))


def text(words):
    return Conversation(text=" ".join(words))


def words_of(tmp_path, conversations):
    return read_words([Batches(conversations)], tmp_path, silent)


def near(tmp_path, conversations, threshold=0.9, known=0) -> NearRows:
    return find_near_rows(words_of(tmp_path, conversations), threshold, silent, known)


def some_words(seed, count):
    return random.Random(seed).choices(WORDS, k=count)


def edited(words, edits, seed):
    chance, words = random.Random(seed), list(words)
    for at in chance.sample(range(len(words)), edits):
        words[at] = f"other{at}"
    return words


def test_a_row_with_one_word_in_ten_replaced_is_a_copy_of_the_first(tmp_path):
    first = some_words(0, 100)
    rows = [text(first), text(some_words(1, 100)), text(edited(first, 10, 2)), text(edited(first, 12, 3))]

    assert near(tmp_path, rows).copy_of.tolist() == [-1, -1, 0, -1]


@given(st.integers(0, 10_000), st.integers(12, 120), st.sampled_from([0.7, 0.8, 0.9, 0.95]))
@settings(max_examples=40, deadline=None)
def test_all_pairs_that_are_near_are_found_and_no_others(tmp_path_factory, seed, length, threshold):
    chance = random.Random(seed)
    originals = [some_words(seed + number, length) for number in range(12)]
    rows = [*originals]
    for original in originals:
        rows.append(edited(original, chance.randrange(length // 3), seed))
    chance.shuffle(rows)

    found = near(tmp_path_factory.mktemp("words"), [text(row) for row in rows], threshold)

    for later, row in enumerate(rows):
        edits = [Levenshtein.distance(row, other) for other in rows[:later]]
        assert (found.copy_of[later] >= 0) == any(
            count <= allowed_edits(length, threshold) for count in edits
        )


def test_words_left_out_put_in_and_swapped_count_as_edits(tmp_path):
    first = some_words(0, 60)
    shorter, longer, swapped = first[3:], ["new", *first[:30], "word", *first[30:]], list(first)
    swapped[10:12] = reversed(swapped[10:12])
    rows = [text(words) for words in (first, shorter, longer, swapped)]

    assert near(tmp_path, rows).members() == [(0, 1, 2, 3)]


def test_upper_case_and_spaces_make_no_difference(tmp_path):
    rows = [text(["The", "Rhine", "flows"]), Conversation(text="  the \n rhine\tFLOWS ")]

    assert near(tmp_path, rows).copy_of.tolist() == [-1, 0]


def test_short_rows_are_near_only_where_all_words_are_the_same(tmp_path):
    rows = [chat("What is 2 + 3?", "5"), chat("What is 2 + 4?", "6"), chat("what is 2 + 3?", "5")]

    assert near(tmp_path, rows).copy_of.tolist() == [-1, -1, 0]


def test_different_questions_on_one_long_text_are_no_copies(tmp_path):
    page = " ".join(some_words(0, 300))
    rows = [
        chat(f"{page} Who crossed the river?", "Julius Caesar with his legions"),
        chat(f"{page} When was the city built?", "About the year fifty before Christ"),
    ]

    assert len(near(tmp_path, rows).copies) == 0


def test_a_form_that_many_rows_share_makes_no_copies(tmp_path):
    form = " ".join(some_words(0, 200))
    rows = [
        chat(f"{form} {' '.join(some_words(number, 12))}", f"it is number {number}")
        for number in range(1, 121)
    ]
    again = chat(f"{form} {' '.join(some_words(1, 12))}", "it is number 1 then")

    found = near(tmp_path, [*rows, again])

    assert found.copies.tolist() == [120]


def test_a_system_text_makes_no_copies(tmp_path):
    system = " ".join(some_words(0, 200))
    rows = [chat(f"question {number}", f"answer {number}", system) for number in range(20)]

    assert len(near(tmp_path, rows).copies) == 0


def test_characters_of_languages_without_spaces_are_words(tmp_path):
    river = "莱茵河发源于阿尔卑斯山流入北海沿岸有许多古老的城镇和城堡"
    rows = [Conversation(text=river), Conversation(text=river.replace("城堡", "塔堡"))]

    assert near(tmp_path, rows).copy_of.tolist() == [-1, 0]


def test_pairs_are_compared_with_both_of_their_answers(tmp_path):
    question, better = (
        Message("user", "Tell me of the sea"),
        Message("assistant", " ".join(some_words(0, 30))),
    )
    worse = [Message("assistant", " ".join(some_words(seed, 30))) for seed in (1, 2)]
    rows = [Conversation(messages=(question, better), rejected=(question, other)) for other in worse]

    assert len(near(tmp_path, rows).copies) == 0


def test_what_is_linked_by_a_row_between_is_one_group_and_only_near_ones_are_copies(tmp_path):
    first = some_words(0, 60)
    between, far = edited(first, 5, 1), first[:]
    far[:] = edited(between, 5, 7)

    found = near(tmp_path, [text(first), text(between), text(far)])

    assert found.copy_of.tolist() == [-1, 0, -1]
    assert found.groups.tolist() == [0, 0, 0]


def test_many_copies_of_one_row_are_all_found(tmp_path):
    first = some_words(0, 80)
    others = [text(some_words(seed, 80)) for seed in range(1, 60)]
    copies = [text(edited(first, 6, seed)) for seed in range(40)]

    found = near(tmp_path, [text(first), *others, *copies])

    assert found.members() == [(0, *range(60, 100))]


def test_known_rows_are_compared_with_the_others_only(tmp_path):
    first, second = some_words(0, 40), some_words(1, 40)
    known = [text(first), text(edited(first, 2, 1))]
    rows = [*known, text(second), text(edited(second, 2, 2)), text(edited(first, 3, 3))]

    assert near(tmp_path, rows, known=2).copy_of.tolist() == [-1, -1, -1, -1, 0]


def test_rows_are_told_of_in_small_parts_and_the_pairs_are_the_same(tmp_path, monkeypatch):
    first, second = some_words(0, 40), some_words(1, 40)
    known = [text(first), text(edited(first, 2, 1)), text(second)]
    copies = [text(edited(first, 3, seed)) for seed in range(9)]
    words = words_of(tmp_path, [*known, *copies, text(edited(second, 2, 2))])
    whole = [find_near_rows(words, 0.9, silent, number).copy_of.tolist() for number in (0, 3)]

    monkeypatch.setattr(near_rows, "_RUNS_AT_ONCE", 7)

    assert [find_near_rows(words, 0.9, silent, number).copy_of.tolist() for number in (0, 3)] == whole
    assert whole == [[-1, 0, -1, *[0] * 9, 2], [-1, -1, -1, *[0] * 9, 2]]


def test_no_more_pairs_are_kept_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(near_rows, "_MOST_PAIRS", 40)

    found = near(tmp_path, [text(some_words(0, 40))] * 30)

    assert 0 < len(found.copies) < 29


def test_very_long_rows_are_told_apart_without_comparing_every_word(tmp_path):
    first = some_words(0, 300_000)
    rows = [first, edited(first, 20_000, 1), some_words(1, 300_000), edited(first, 40_000, 2)]
    words = words_of(tmp_path, [text(row) for row in rows])

    started = time.process_time()
    found = find_near_rows(words, 0.9, silent)

    assert found.copy_of.tolist() == [-1, 0, -1, -1]
    assert time.process_time() - started < 4  # word by word each pair takes 5 s


def test_without_rows_or_words_there_are_no_copies(tmp_path):
    assert len(near(tmp_path, []).copies) == 0
    assert near(tmp_path, [chat("", ""), chat("a", "b")]).copy_of.tolist() == [-1, -1]


def test_the_words_leave_no_file_behind(tmp_path):
    words = words_of(tmp_path, [chat("one two", "three")])

    assert words.counts.tolist() == [3]
    assert (words.of(0) & 1).tolist() == [0, 0, 1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "edits"), [(9, 0), (10, 1), (15, 2), (100, 10)])
def test_so_many_words_may_differ(words, edits):
    assert allowed_edits(words, 0.9) == edits


def test_words_are_equal_whatever_their_case_and_blanks_but_not_across_the_answer(tmp_path):
    words = words_of(tmp_path, [chat("a b", "c"), chat("A  b", "c"), chat("a", "b c")])

    assert words.words.dtype == np.uint32
    assert np.array_equal(words.of(0), words.of(1)) and not np.array_equal(words.of(0), words.of(2))


def test_no_room_for_the_words_is_told_by_place_and_reason(tmp_path):  # R9
    place = tmp_path / "file"
    place.write_text("in the way")

    with pytest.raises(StudioError, match=r"words of the rows can't be written to .*file"):
        words_of(place, [chat("a", "b")])


def test_where_the_result_can_not_be_kept_it_is_found_anew(tmp_path):
    gone = tmp_path / "gone"
    rows = [chat("a", "b"), chat("A", "b")]

    found = cached_near_rows(gone, 0.9, lambda: words_of(tmp_path, rows), silent)

    assert found.copies.tolist() == [1]
    assert not gone.exists()
