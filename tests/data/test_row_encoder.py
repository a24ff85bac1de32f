import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.row_encoder import RowEncoder, UnusableRow, fit
from qlora_studio.data.template import find_template
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.errors import StudioError
from tests.data.tiny_tokenizer import CHATML, model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(folder):
    return encoder_of(folder)


def encoder_of(folder, train_on="answers", method="sft"):
    tokenizer = load_tokenizer(folder)
    template = find_template(folder, tokenizer.special.names)
    return RowEncoder(tokenizer, template, train_on=train_on, method=method)


def chat(*texts, row=0):
    roles = ("user", "assistant") * len(texts)
    return Row(row=row, line=row + 1, messages=tuple(map(Message, roles, texts)))


def encode(encoder, *rows):
    return encoder.encode(rows)


def test_the_learned_tokens_say_the_answer_and_its_end(encoder):
    (row,) = encode(encoder, chat("hello", "hello hello"))

    learned = row.ids[row.weights > 0].tolist()

    assert encoder.tokenizer.decode(learned) == "hello hello"
    assert learned[-1] == encoder.tokenizer.special.eos_id
    assert row.learned_tokens == 3


@given(st.lists(st.text(alphabet="hello \n😀é<|im_end>", max_size=12), min_size=2, max_size=6))
def test_every_token_is_learned_exactly_where_an_answer_is(encoder, texts):
    (row,) = encode(encoder, chat(*texts))

    answers = [text for text in texts[1::2] if text.strip()]
    assert encoder.tokenizer.decode(row.ids[row.weights > 0].tolist()) == "".join(answers)
    assert (row.ids[row.weights > 0] == encoder.tokenizer.special.eos_id).sum() == len(answers)


def test_batches_encoded_one_behind_the_other_are_as_each_alone(encoder):
    batches = [
        [chat("hello", "a"), Row(row=1, line=2, text="hello"), chat("<|im_end|>", "b", row=2)],
        [chat("hello", row=3)],
        [Row(row=4, line=5, text="a hello")],
    ]

    found = list(encoder.encode_each(batches))

    assert [[item.row.row for item in batch] for batch in found] == [[0, 1, 2], [3], [4]]
    for batch, alone in zip(found, map(encoder.encode, batches), strict=True):
        for item, same in zip(batch, alone, strict=True):
            assert item.ids.tolist() == same.ids.tolist()
            assert item.weights.tolist() == same.weights.tolist()
    assert list(encoder.encode_each([])) == []


def test_rows_come_back_in_their_order(encoder):
    rows = [
        chat("hello", "a"),
        Row(row=1, line=2, text="hello"),
        chat("x <s>", "b", row=2),
        chat("c", "d", row=3),
    ]

    encoded = encode(encoder, *rows)

    assert [item.row for item in encoded] == rows
    assert [item.special_in_text for item in encoded] == [0, 0, 1, 0]


def test_a_row_that_the_template_refuses_is_told_apart(tmp_path):  # S6
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system, please') }}{% endif %}" + CHATML
    )
    encoder = encoder_of(model_folder(tmp_path / "model", template=source))
    bad = Row(row=0, line=1, messages=(Message("system", "s"), Message("user", "u")))

    first, second = encode(encoder, bad, chat("hello", "a", row=1))

    assert isinstance(first, UnusableRow)
    assert "No system, please" in first.reason
    assert second.learned_tokens == 2


def test_a_text_is_learned_whole_and_ends(encoder):
    (row,) = encode(encoder, Row(row=0, line=1, text="hello hello"))

    assert row.ids[-1] == encoder.tokenizer.special.eos_id
    assert row.weights.tolist() == [0, 1, 1]


def test_pretraining_learns_all_of_a_chat(folder):
    (row,) = encode(encoder_of(folder, method="pretrain"), chat("hello", "a"))

    assert row.weights.tolist() == [0, *[1] * (len(row.ids) - 1)]


def test_weights_of_messages_reach_their_tokens(encoder):
    talk = (Message("user", "hello"), Message("assistant", "a", loss_weight=0.5))

    (row,) = encode(encoder, Row(row=0, line=1, messages=talk))

    assert row.weights[row.weights > 0].tolist() == [0.5, 0.5]


def test_a_long_chat_is_dropped_cut_or_an_error(encoder):
    (row,) = encode(encoder, chat("hello", "hello hello hello"))
    long = len(row.ids)

    assert fit(row, long, "drop").fate == "whole"
    assert fit(row, long - 1, "drop").pieces == ()
    (piece,) = fit(row, long - 1, "truncate").pieces
    assert piece.ids.tolist() == row.ids[: long - 1].tolist()
    with pytest.raises(StudioError, match="line 1 has"):
        fit(row, long - 1, "stop")


@given(st.integers(2, 12), st.integers(1, 60))
def test_pieces_of_a_long_text_learn_every_token_once(encoder, seq_len, words):
    (row,) = encode(encoder, Row(row=7, line=1, text="abc " * words))

    pieces = fit(row, seq_len, "stop").pieces

    learned = np.concatenate([piece.ids[piece.weights > 0] for piece in pieces])
    assert learned.tolist() == row.ids[1:].tolist()
    assert max(len(piece.ids) for piece in pieces) <= seq_len
    assert {piece.row for piece in pieces} == {7}


def test_a_prompt_is_the_beginning_of_what_was_trained(encoder):
    (row,) = encode(encoder, chat("hello", "hello"))

    text, ids = encoder.encode_prompt([Message("user", "hello")])

    assert row.text.startswith(text)
    assert row.ids[: len(ids)].tolist() == list(ids)
    assert row.weights[: len(ids)].sum() == 0
    assert row.weights[len(ids)] == 1


def test_the_shown_tokens_are_those_of_training(encoder):  # D4
    (row,) = encode(encoder, chat("hello 😀", "<|im_end|> hello"))

    tokens = encoder.tokens_of(row, 1000, "drop")

    assert "".join(token.text for token in tokens) == row.text
    assert [token.id for token in tokens] == row.ids.tolist()
    assert [token.fate == "learned" for token in tokens] == (row.weights > 0).tolist()
    assert {token.role for token in tokens} == {"user", "assistant"}
    assert [token.text for token in tokens if token.special] == [
        "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>",
    ]  # fmt: skip


def test_what_is_cut_off_is_shown_as_that(encoder):
    (row,) = encode(encoder, chat("hello", "hello hello hello"))

    cut = encoder.tokens_of(row, len(row.ids) - 2, "truncate")
    dropped = encoder.tokens_of(row, len(row.ids) - 2, "drop")

    assert [token.fate for token in cut][-3:] == ["learned", "cut", "cut"]
    assert {token.fate for token in dropped} == {"cut"}


def test_the_tokens_of_a_text_end_with_the_end_token(encoder):
    (row,) = encode(encoder, Row(row=0, line=1, text="hello"))

    tokens = encoder.tokens_of(row, 100, "drop")

    assert [token.text for token in tokens] == ["hello", "<|im_end|>"]


PAIR = Row(
    row=0,
    line=1,
    messages=(Message("user", "hello"), Message("assistant", "a a")),
    rejected=(Message("user", "hello"), Message("assistant", "hello a hello")),
)


def test_a_pair_is_its_two_chats_with_both_answers_counted(folder):
    encoder = encoder_of(folder, method="dpo")
    (row,) = encode(encoder, PAIR)
    assert row.worse is not None
    answers = [side.ids[side.weights > 0].tolist() for side in (row, row.worse)]
    assert [encoder.tokenizer.decode(ids) for ids in answers] == ["a a", "hello a hello"]
    assert row.tokens == len(row.ids) + len(row.worse.ids)
    (piece,) = fit(row, 100, "drop").pieces
    assert (piece.second, len(piece.ids)) == (len(row.ids), row.tokens)


def test_what_a_person_sees_of_a_pair_is_what_is_trained(folder):  # D4
    encoder = encoder_of(folder, method="dpo")
    (row,) = encode(encoder, PAIR)
    (piece,) = fit(row, 100, "drop").pieces
    tokens = encoder.tokens_of(row, 100, "drop")
    assert [token.id for token in tokens] == piece.ids.tolist()
    counted = [token.fate in ("learned", "avoided") for token in tokens]
    assert counted == (piece.weights > 0).tolist()
    assert {token.fate for token in tokens[piece.second :]} == {"avoided", "context"}
    assert {token.fate for token in encoder.tokens_of(row, row.tokens - 1, "drop")} == {"cut"}
    limit = row.tokens - 1
    (cut,) = fit(row, limit, "truncate").pieces
    kept = [token for token in encoder.tokens_of(row, limit, "truncate") if token.fate != "cut"]
    assert [token.id for token in kept] == cut.ids.tolist()


def test_a_chat_without_a_worse_answer_teaches_no_preference(folder):
    (row,) = encode(encoder_of(folder, method="dpo"), chat("hello", "a"))
    assert row.learned_tokens == 0


def test_answers_that_are_equal_teach_no_preference(folder):
    (row,) = encode(encoder_of(folder, method="dpo"), msgspec.structs.replace(PAIR, rejected=PAIR.messages))
    assert row.learned_tokens == 0


def test_an_answer_that_was_rated_bad_counts_below_zero(folder):
    good, bad = (msgspec.structs.replace(chat("hello", "a"), label=label) for label in (True, False))
    rows = encode(encoder_of(folder, method="kto"), good, bad)
    assert [sorted(set(row.weights.tolist())) for row in rows] == [[0, 1], [-1, 0]]
    assert {token.fate for token in encoder_of(folder, method="kto").tokens_of(rows[1], 99, "drop")} == {
        "avoided",
        "context",
    }


def test_preferences_are_not_learned_from_questions(folder):
    with pytest.raises(StudioError, match="can't be 'everything'"):
        encoder_of(folder, "everything", "orpo")


def test_a_pair_of_which_one_side_has_nothing_to_say_is_left_out(folder):
    encoder = encoder_of(folder, method="dpo")
    longer = msgspec.structs.replace(PAIR, rejected=(*PAIR.messages, *chat("hello", "a").messages))
    (row,) = encode(encoder, longer)  # all of the better chat is what both have in common
    assert row.learned_tokens == 0
    assert fit(row, 100, "drop").pieces == ()
    (row,) = encode(encoder, PAIR)
    question = int(np.flatnonzero(row.weights)[0])
    fitted = fit(row, 2 * question + 1, "truncate")  # of one side the answer is cut away
    assert (fitted.pieces, fitted.fate) == ((), "cut")
