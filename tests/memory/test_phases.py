"""Each phase by itself: what is held in it, and which takes the most."""

from __future__ import annotations

import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.joined_weights import room_of_kept
from qlora_studio.memory.phases import cache_bytes
from qlora_studio.memory.promise import GIB, promise
from qlora_studio.memory.setting import Setting
from qlora_studio.memory.suggestions import changed
from qlora_studio.models.shapes import known_shape

LLAMA = known_shape("llama-3.1-8b")


def phases(device: str = "cuda", **changes: object) -> dict[str, int]:
    config = changed(RunConfig(), {key.replace("__", "."): value for key, value in changes.items()})
    return dict(promise(LLAMA, config, device=device, free_bytes=200 * GIB).phases)


def setting(config: RunConfig = RunConfig()) -> Setting:  # noqa: B008  # it never changes
    return Setting(LLAMA, config, "cuda", True, 8192, None)


@pytest.mark.parametrize("asked", ["training__keep_dequantized", "training__embedding_in_ram"])
def test_after_the_run_the_base_is_as_it_was_loaded(asked):
    plain, other = phases(), phases(**{asked: True})
    assert (other["chat"], other["export"]) == (plain["chat"], plain["export"])
    assert other["evaluation"] != plain["evaluation"]


def test_the_cache_of_a_text_has_free_places_for_its_next_tokens():
    a_token = 2 * 2 * LLAMA.layers * LLAMA.kv_heads * LLAMA.head_dim  # keys and values, 16 bit
    assert cache_bytes(setting(), 1) == 1024 * a_token
    assert cache_bytes(setting(), 512) == 1024 * a_token
    assert cache_bytes(setting(), 513) == 1536 * a_token


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("recompute", ["none", "all"])
def test_training_takes_more_than_an_evaluation_of_the_same_rows(device, recompute):
    found = phases(device, training__recompute=recompute)
    assert found["training"] > found["evaluation"]


def test_chat_and_export_hold_neither_gradients_nor_optimizer():
    found = phases(lora__r=512)
    trained = 8 * 167_772_160  # numbers of the adapter at rank 512
    assert found["evaluation"] - found["chat"] > 3 * 4 * trained * 0.9


def test_weights_stay_dequantized_in_the_run_alone():
    plain, kept = (phases(training__keep_dequantized=asked) for asked in (False, True))
    copies = 2 * LLAMA.layers * sum(out * inner for _, out, inner in LLAMA.linears)
    copies += 2 * room_of_kept(setting())
    for phase in ("training", "evaluation", "sample replies"):
        assert kept[phase] - plain[phase] == pytest.approx(copies, rel=0.02)
    assert (kept["chat"], kept["export"]) == (plain["chat"], plain["export"])


def test_a_longer_chat_takes_more():
    assert phases(data__seq_len=8192)["chat"] > phases(data__seq_len=2048)["chat"]


def test_the_peak_is_that_of_the_phase_of_the_run_that_takes_most():
    short = {"data.seq_len": 16, "training.batch_size": 1, "training.optimizer": "paged_adamw_8bit"}
    promised = promise(LLAMA, changed(RunConfig(), short), device="cuda", free_bytes=80 * GIB)
    assert promised.phase == "sample replies"
    assert promised.total == promised.phases["sample replies"] == sum(promised.parts.values())
    assert promised.total == max(
        promised.phases[phase] for phase in ("training", "evaluation", "sample replies")
    )


def test_an_export_may_take_more_than_the_run_itself():
    tiny = {"data.seq_len": 16, "training.batch_size": 1, "lora.r": 1}
    promised = promise(LLAMA, changed(RunConfig(), tiny), device="cuda", free_bytes=80 * GIB)
    assert promised.largest_phase == "export"


def test_right_numbers_take_the_caches_of_the_replies_written_together():
    alone, few, many, more = (
        phases(checkpoints__evaluate_numbers=count)["sample replies"] for count in (0, 4, 16, 64)
    )
    assert alone < few < many == more
    assert many - few > 11 * cache_bytes(setting(), 2048)
