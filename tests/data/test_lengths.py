from pathlib import Path

import numpy as np
import pytest

from qlora_studio.data.lengths import count_lengths, histogram, read_lengths
from qlora_studio.data.row_encoder import RowEncoder
from qlora_studio.data.template import find_template
from qlora_studio.data.tokenizer import load_tokenizer
from tests.data.test_preparing import data_set, silent
from tests.data.tiny_tokenizer import CHATML, model_folder

PICKY = "{% if messages[0].content == 'bad' %}{{ raise_exception('No bad talk') }}{% endif %}" + CHATML


@pytest.fixture
def encoder(tmp_path):
    tokenizer = load_tokenizer(model_folder(tmp_path / "model", template=PICKY))
    template = find_template(tmp_path / "model", tokenizer.special.names)
    return RowEncoder(tokenizer, template, train_on="answers")


def test_each_row_has_its_length_in_tokens(tmp_path, encoder):
    rows = data_set(tmp_path, [("hello", "hello hello"), ("bad", "x"), ("hello", "y")])

    lengths = count_lengths(rows, encoder, silent)

    counted = read_lengths(lengths)
    encoded = encoder.encode(rows.rows(0, 3))
    assert counted.tolist() == [
        [len(encoded[0].ids), 3],
        [0, 0],  # refused by the template
        [len(encoded[2].ids), 2],
    ]
    assert (lengths.rows, lengths.nothing_to_learn, lengths.learned_tokens) == (3, 1, 5)
    assert lengths.longest == counted[:, 0].max()
    assert "No bad talk" in lengths.refused


def test_an_empty_answer_is_no_refusal(tmp_path, encoder):
    rows = data_set(tmp_path, [("hello", "a"), ("hello", "hello")])

    assert count_lengths(rows, encoder, silent).refused == ""


def test_rows_that_the_method_has_no_use_for_say_why(tmp_path, encoder):
    rows = data_set(tmp_path, [("hello", "a"), ("hello", "hello")])
    of_pairs = RowEncoder(encoder.tokenizer, encoder.template, train_on="answers", method="dpo")

    assert "a row without a worse answer. Choose data" in count_lengths(rows, of_pairs, silent).refused


def test_lengths_are_counted_once(tmp_path, encoder, monkeypatch):
    rows = data_set(tmp_path, [("hello", "a"), ("b", "c")])
    first = count_lengths(rows, encoder, silent)
    monkeypatch.setattr(encoder, "encode", lambda rows: pytest.fail("counted again"))

    assert count_lengths(rows, encoder, silent) == first


def test_a_damaged_file_is_counted_again(tmp_path, encoder):
    rows = data_set(tmp_path, [("hello", "a"), ("b", "c")])
    first = count_lengths(rows, encoder, silent)
    with Path(first.file).open("r+b") as file:
        file.truncate(130)

    assert count_lengths(rows, encoder, silent) == first


def test_the_bins_hold_every_row():
    tokens = np.array([0, 15, 16, 1500], dtype=np.int32)

    bins, width = histogram(tokens)

    assert width == 32
    assert sum(bins) == 4
    assert (bins[0], bins[1500 // 32]) == (3, 1)
    assert len(bins) <= 48


def test_no_rows_make_one_empty_bin():
    assert histogram(np.zeros(0, dtype=np.int32)) == ((0,), 16)
