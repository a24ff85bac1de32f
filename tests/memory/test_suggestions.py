"""What to change so that a run fits: least harm first, and each one really fits."""

from __future__ import annotations

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.memory.suggestions import changed, ways_to_fit


def tokens(config: RunConfig) -> int:
    return config.training.batch_size * config.data.seq_len


def test_what_costs_only_time_comes_first():
    config = changed(RunConfig(), {"training.recompute": "none"})
    ways = ways_to_fit(config, lambda changed_config: changed_config != config, on_card=True)
    assert [way.changes for way in ways] == [
        {"training.recompute": "all"},
        {"training.batch_size": 2, "training.gradient_accumulation": 8},
        {"training.optimizer": "paged_adamw_8bit"},
    ]
    assert [way.words for way in ways] == [
        "recomputing all layers",
        "2 rows a step (8 accumulated)",
        "the 8-bit optimizer",
    ]


def test_weights_that_stay_dequantized_go_first():
    config = changed(RunConfig(), {"training.keep_dequantized": True})
    ways = ways_to_fit(
        config,
        lambda changed_config: changed_config != config,
        on_card=True,
        weights_stay_dequantized=True,
    )
    assert ways[0].changes == {"training.keep_dequantized": False}
    assert ways[0].words == "dequantizing weights for each product"


def test_fewer_rows_keep_the_size_of_an_update():
    ways = ways_to_fit(RunConfig(), lambda config: tokens(config) <= 2048, on_card=True)
    rows = ways[0].config.training
    assert (rows.batch_size, rows.gradient_accumulation) == (1, 16)


def test_the_weakest_change_that_fits_is_taken():
    ways = ways_to_fit(RunConfig(), lambda config: config.lora.r <= 20, on_card=True)
    assert [way.changes for way in ways] == [{"lora.r": 16}]


def test_where_no_single_change_fits_several_are_put_together():
    ways = ways_to_fit(
        RunConfig(), lambda config: config.lora.r <= 32 and tokens(config) <= 2048, on_card=True
    )
    (way,) = ways
    assert way.words == (
        "recomputing all layers, their inputs in RAM, 1 row a step (16 accumulated), the 8-bit optimizer "
        "and rank 32"
    )
    assert way.changes == {
        "training.recompute": "host",
        "training.batch_size": 1,
        "training.gradient_accumulation": 16,
        "training.optimizer": "paged_adamw_8bit",
        "lora.r": 32,
    }


def test_where_nothing_helps_nothing_is_offered():
    assert ways_to_fit(RunConfig(), lambda config: False, on_card=True) == []


def test_the_8_bit_optimizer_is_offered_on_a_card_alone():
    ways = ways_to_fit(
        RunConfig(), lambda config: config.training.optimizer == "paged_adamw_8bit", on_card=False
    )
    assert ways == []


def test_every_change_stands_the_checks_of_the_settings():
    ways = ways_to_fit(RunConfig(), lambda config: tokens(config) <= 1536, on_card=True)
    for way in ways:
        assert with_changes(RunConfig(), way.changes) == way.config
