import numpy as np
import pytest

from qlora_studio.data.prepared import (
    PreparedInfo,
    check_content,
    content_sha256,
    open_prepared,
    write_prepared,
)
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.errors import StudioError


def row(number, length):
    random = np.random.default_rng(number)
    ids = random.integers(0, 1000, length).astype(np.int32)
    return TokenizedRow(number, ids, (random.random(length) > 0.5).astype(np.float32))


def written(folder, train, validation):
    info = PreparedInfo(
        content_sha256=content_sha256([train, validation]),
        data_sha256="d",
        tokenizer_sha256="t",
        template_sha256="c",
        seq_len=64,
        pad_id=0,
        eos_id=1,
        stop_ids=(1,),
        vocab_size=1000,
        train_rows=len(train),
        validation_rows=len(validation),
        train_tokens=sum(len(item.ids) for item in train),
        train_learned_tokens=sum(item.learned_tokens for item in train),
        validation_learned_tokens=sum(item.learned_tokens for item in validation),
        longest=64,
        too_long_dropped=0,
        too_long_cut=0,
        nothing_to_learn=0,
        special_in_text=0,
        rows_on_both_sides=0,
        samples=(),
    )
    write_prepared(folder, info, train, validation)
    return open_prepared(folder)


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row(i, 1 + i % 60) for i in range(5000)]  # more than one record batch

    prepared = written(tmp_path / "rows", rows, rows[:3])

    assert len(prepared.train) == 5000
    assert prepared.train.lengths.tolist() == [len(item.ids) for item in rows]
    for i in (0, 1, 4095, 4096, 4999):
        assert prepared.train[i].row == i
        assert prepared.train[i].ids.tolist() == rows[i].ids.tolist()
        assert prepared.train[i].weights.tolist() == rows[i].weights.tolist()
    assert len(prepared.validation) == 3


def test_no_validation_rows_are_an_empty_list(tmp_path):
    prepared = written(tmp_path / "rows", [row(1, 5)], [])

    assert len(prepared.validation) == 0
    assert prepared.validation.lengths.dtype == np.int32


def test_changed_content_is_refused(tmp_path):  # R3
    folder = tmp_path / "rows"
    rows = [row(i, 50) for i in range(10)]
    check_content(written(folder, rows, []))

    file = folder / "train.arrow"
    content = bytearray(file.read_bytes())
    at = content.find(rows[5].ids.tobytes())
    content[at] ^= 1
    file.write_bytes(content)

    with pytest.raises(StudioError, match="have changed"):
        check_content(open_prepared(folder))


def test_a_file_cut_short_is_named(tmp_path):
    folder = tmp_path / "rows"
    written(folder, [row(1, 50)], [])
    file = folder / "train.arrow"
    file.write_bytes(file.read_bytes()[:100])

    with pytest.raises(StudioError, match="rows can't be read"):
        open_prepared(folder)
