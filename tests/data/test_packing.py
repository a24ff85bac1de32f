import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_studio.data.packing import collate, evaluation_batches, plan_epoch, steps_in
from qlora_studio.data.tokenized_row import RowsInMemory, TokenizedRow
from qlora_studio.errors import StudioError

SEQ_LEN = 64
lengths_of_rows = st.lists(st.integers(1, SEQ_LEN), min_size=1, max_size=200)
plans = st.fixed_dictionaries(
    {
        "packing": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
        "epoch": st.integers(0, 50),
        "batch_size": st.integers(1, 5),
        "accumulation": st.integers(1, 5),
    }
)


def plan(lengths, **changes):
    settings = {"packing": True, "seed": 0, "epoch": 0, "batch_size": 2, "accumulation": 2} | changes
    return plan_epoch(np.array(lengths, dtype=np.int32), seq_len=SEQ_LEN, **settings)


def rows_of(lengths, learned_from=1):
    """Row i holds the ids 100 * i + position, all learned from `learned_from` on."""
    return RowsInMemory(
        [
            TokenizedRow(
                row=1000 + i,
                ids=np.arange(n, dtype=np.int32) + 100 * i,
                weights=(np.arange(n) >= learned_from).astype(np.float32),
            )
            for i, n in enumerate(lengths)
        ]
    )


@given(lengths_of_rows, plans)
def test_every_row_is_seen_exactly_once_an_epoch(lengths, settings):
    updates = plan(lengths, **settings)

    assert sorted(row for update in updates for row in update.rows) == list(range(len(lengths)))


@given(lengths_of_rows, plans)
def test_no_pack_is_longer_than_the_sequence_length(lengths, settings):
    packs = [pack for update in plan(lengths, **settings) for batch in update.micro_batches for pack in batch]

    assert max(sum(lengths[row] for row in pack) for pack in packs) <= SEQ_LEN


@given(lengths_of_rows, plans)
def test_every_batch_but_the_last_is_full(lengths, settings):
    updates = plan(lengths, **settings)

    assert all(len(update.micro_batches) == settings["accumulation"] for update in updates[:-1])
    sizes = [len(batch) for update in updates for batch in update.micro_batches]
    assert max(sizes) <= settings["batch_size"]
    assert len(sizes) - sizes.count(settings["batch_size"]) <= 1


@given(lengths_of_rows, plans)
def test_the_plan_depends_on_its_arguments_alone(lengths, settings):  # R3
    np.random.seed(1)
    first = plan(lengths, **settings)
    np.random.seed(2)

    assert plan(lengths, **settings) == first


def test_another_seed_or_epoch_gives_another_order():
    lengths = [16] * 100

    assert plan(lengths, epoch=0) != plan(lengths, epoch=1)
    assert plan(lengths, seed=0) != plan(lengths, seed=1)
    assert plan(lengths, seed=0, epoch=1) != plan(lengths, seed=1, epoch=0)


def test_packs_are_well_filled():
    lengths = np.random.default_rng(0).integers(5, 40, 5000)
    packs = [pack for update in plan(lengths) for batch in update.micro_batches for pack in batch]

    assert lengths.sum() / (len(packs) * SEQ_LEN) > 0.98


def test_without_packing_rows_of_like_length_stand_together():
    lengths = np.random.default_rng(0).integers(1, SEQ_LEN, 4000)
    batches = [batch for update in plan(lengths, packing=False) for batch in update.micro_batches]

    spread = [
        max(lengths[row] for (row,) in batch) - min(lengths[row] for (row,) in batch) for batch in batches
    ]

    assert np.mean(spread) < 3


def test_a_data_set_without_rows_is_refused():
    with pytest.raises(StudioError, match="no row to learn"):
        plan([])


def test_steps_count_the_updates_of_each_epoch():
    lengths = np.full(40, SEQ_LEN, dtype=np.int32)
    shape = {"seq_len": SEQ_LEN, "packing": True, "seed": 0, "batch_size": 2, "accumulation": 2}

    assert steps_in(1.0, lengths, **shape) == 10
    assert steps_in(2.5, lengths, **shape) == 25
    assert steps_in(0.01, lengths, **shape) == 1


@given(lengths_of_rows, st.booleans(), st.integers(1, 4))
def test_evaluation_sees_every_row_once(lengths, packing, batch_size):
    batches = evaluation_batches(
        np.array(lengths, dtype=np.int32), seq_len=SEQ_LEN, packing=packing, batch_size=batch_size
    )

    assert sorted(row for batch in batches for pack in batch for row in pack) == list(range(len(lengths)))


def test_evaluation_of_nothing_has_no_batches():
    assert evaluation_batches(np.array([], np.int32), seq_len=SEQ_LEN, packing=True, batch_size=2) == []


def test_a_batch_lays_rows_side_by_side_and_restarts_their_positions():
    batch = collate([(0, 1), (2,)], rows_of([3, 2, 4]), pad_id=9, length=6)

    assert batch.input_ids.tolist() == [[0, 1, 2, 100, 101, 9], [200, 201, 202, 203, 9, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]]
    assert batch.segment_ids.tolist() == [[0, 0, 0, 1, 1, -1], [0, 0, 0, 0, -1, -1]]
    assert batch.rows == (1000, 1001, 1002)
    assert batch.tokens == 9


def test_a_learned_position_predicts_the_token_after_it():
    batch = collate([(0, 1)], rows_of([3, 3], learned_from=2), pad_id=9, length=8)

    assert batch.learned.tolist() == [1, 4]
    assert batch.targets.tolist() == [2, 102]


@given(lengths_of_rows, plans)
@settings(max_examples=50)
def test_no_position_predicts_across_rows(lengths, settings):
    rows = rows_of(lengths)
    for update in plan(lengths, **settings):
        for micro_batch in update.micro_batches:
            batch = collate(micro_batch, rows, pad_id=-5)
            flat = batch.segment_ids.reshape(-1)
            ids = batch.input_ids.reshape(-1)

            assert (flat[batch.learned] == flat[batch.learned + 1]).all()
            assert (flat[batch.learned] >= 0).all()
            assert (ids[batch.learned + 1] == batch.targets).all()
            assert batch.learned_tokens == sum(
                lengths[row] - 1 for pack in micro_batch for row in pack
            )  # all but each row's first


def test_weights_stand_beside_their_targets():
    row = TokenizedRow(0, np.array([5, 6, 7], np.int32), np.array([0, 0.25, 1], np.float32))

    batch = collate([(0,)], RowsInMemory([row]), pad_id=0)

    assert batch.targets.tolist() == [6, 7]
    assert batch.weights.tolist() == [0.25, 1.0]


def test_a_batch_may_be_raised_to_a_fixed_shape():
    batch = collate([(0,)], rows_of([3]), pad_id=9, length=8, height=4)

    assert batch.input_ids.shape == (4, 8)
    assert (batch.segment_ids[1:] == -1).all()
    assert batch.tokens == 3


def test_without_a_length_batches_are_padded_to_a_multiple_of_sixteen():
    assert collate([(0,)], rows_of([17]), pad_id=0).input_ids.shape == (1, 32)
