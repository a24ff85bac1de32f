import numpy as np
import pytest

from qlora_studio.data.prepared import PreparedInfo, PreparedWriter, check_content, open_prepared
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.errors import StudioError


def row(number, length):
    random = np.random.default_rng(number)
    ids = random.integers(0, 1000, length).astype(np.int32)
    return TokenizedRow(number, ids, (random.random(length) > 0.5).astype(np.float32))


def info_of(writer):
    return PreparedInfo(
        content_sha256=writer.content_sha256(),
        data_sha256="d",
        tokenizer_sha256="t",
        template_sha256="c",
        seq_len=64,
        pad_id=0,
        eos_id=1,
        stop_ids=(1,),
        vocab_size=1000,
        train_rows=writer.train.rows,
        validation_rows=writer.validation.rows,
        train_tokens=writer.train.tokens,
        train_learned_tokens=writer.train.learned_tokens,
        validation_learned_tokens=writer.validation.learned_tokens,
        longest=64,
        too_long_dropped=0,
        too_long_cut=0,
        nothing_to_learn=0,
        not_rendered=0,
        special_in_text=0,
        rows_on_both_sides=0,
        samples=(),
    )


def written(folder, train, validation):
    with PreparedWriter(folder) as writer:
        for item in train:
            writer.add(item, held_out=False)
        for item in validation:
            writer.add(item, held_out=True)
        return writer.finish(info_of(writer))


def test_rows_are_found_by_their_number_in_the_imported_data(tmp_path):
    rows = [row(number, 5 + number) for number in (7, 2, 9)] + [row(2, 30)]  # a text that became two rows
    train = written(tmp_path / "rows", rows, []).train
    assert train.places_of((2, 9, 4)) == {1, 2, 3}
    assert train.tokens_of((9, 2, 4)) == {2: 7 + 30, 9: 14}


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


def test_the_hash_tells_training_from_validation(tmp_path):  # R3
    rows = [row(i, 5) for i in range(4)]

    one = written(tmp_path / "one", rows, [])
    other = written(tmp_path / "other", rows[:2], rows[2:])

    assert one.info.content_sha256 != other.info.content_sha256


def test_writing_that_is_given_up_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), PreparedWriter(tmp_path / "rows") as writer:
        writer.add(row(1, 5), held_out=False)
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []
