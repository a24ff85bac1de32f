"""A promise that was measured is held to: the next one of its kind is corrected, within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.correction import (
    NO_CORRECTION,
    Correction,
    as_promised,
    correction,
    correction_words,
    remember_peak,
)
from qlora_studio.memory.largest import largest_that_fits
from qlora_studio.memory.measured import measured_speed, remember_dtype, remember_factor, remember_speed
from qlora_studio.memory.parts import never_estimated
from qlora_studio.memory.promise import GIB, Promise, promise
from qlora_studio.memory.suggestions import changed
from qlora_studio.models.shapes import known_shape

LLAMA = known_shape("llama-3.1-8b")
CONFIG = changed(RunConfig(), {"training.recompute": 12})
ESTIMATED = ("activations", "logits", "other")


def promised(corrected: Correction = NO_CORRECTION, device: str = "cuda", **more: Any) -> Promise:
    config = changed(CONFIG, {key.replace("__", "."): value for key, value in more.items()})
    return promise(LLAMA, config, device=device, free_bytes=400 * GIB, corrected=corrected)


def measure(times: float, device: str = "cuda", all_tokens: int = 10**9) -> None:
    """A run whose estimated bytes were so many times what was computed, as the meter would tell them."""
    parts = dict(promised(device=device).parts)
    computed = sum(parts[part] for part in ESTIMATED) - never_estimated(device)
    seen_too = {"cpu": never_estimated("cpu"), "cuda": 0}
    told = {part: parts[part] for part in ("weights", "adapter", "optimizer")}
    told["other"] = int(times * computed) + seen_too[device]
    remember_peak(
        "H100", LLAMA, CONFIG, device=device, longest_row=2048, all_tokens=all_tokens, measured=told
    )


def here() -> Correction:
    return correction("H100", LLAMA, "nf4")


def test_before_the_first_run_nothing_is_corrected():
    assert here() == NO_CORRECTION
    assert promised(here()).total == promised().total


@pytest.mark.parametrize("times", [0.95, 1.0, 1.1, 1.4])
def test_the_next_promise_is_what_was_measured(times):
    measure(times)
    plain, corrected = promised(), promised(here())
    estimated = sum(plain.parts[part] for part in ESTIMATED) - never_estimated("cuda")
    assert corrected.total - plain.total == pytest.approx((times - 1) * estimated, abs=10)
    assert corrected.factor == pytest.approx(times, rel=1e-6)


def test_what_is_counted_from_tensors_is_not_corrected():
    measure(1.3)
    exact = ("weights", "adapter", "optimizer")
    assert [promised(here()).parts[part] for part in exact] == [promised().parts[part] for part in exact]


@pytest.mark.parametrize(("times", "factor"), [(0.5, 0.9), (3.0, 1.5)])
def test_a_correction_has_bounds_and_lowers_less_than_it_raises(times, factor):
    measure(times)
    assert here().graphed == factor


@pytest.mark.parametrize("times", [0.0, -2.0, 0.1, 40.0, 1e9])
def test_what_no_run_can_have_taken_is_not_kept(times):
    measure(times)
    assert here() == NO_CORRECTION


def test_nothing_measured_at_all_is_not_kept():
    remember_peak("H100", LLAMA, CONFIG, device="cuda", longest_row=2048, all_tokens=10**9, measured={})
    assert here() == NO_CORRECTION


def test_data_that_fill_no_batch_say_nothing_of_a_full_one():
    measure(1.2, device="cpu", all_tokens=1_389)
    assert here() == NO_CORRECTION
    measure(1.2, device="cpu")
    assert here() != NO_CORRECTION


@pytest.mark.parametrize("others", [{"training__compile": "off"}, {"lora__dropout": 0.1}], ids=str)
def test_runs_that_are_played_as_graphs_say_nothing_of_others(others):
    measure(1.2)
    assert here().graphed == pytest.approx(1.2)
    assert promised(here(), **others).total == promised(**others).total


def test_other_cards_shapes_and_weights_are_not_corrected():
    measure(1.2)
    assert correction("another card", LLAMA, "nf4") == NO_CORRECTION
    assert correction("H100", known_shape("smollm2-135m"), "nf4") == NO_CORRECTION
    assert correction("H100", LLAMA, "none") == NO_CORRECTION


def test_on_a_processor_the_process_itself_is_not_corrected():
    measure(1.2, device="cpu")
    corrected = promised(here(), device="cpu").parts["other"] - never_estimated("cpu")
    plain = promised(device="cpu").parts["other"] - never_estimated("cpu")
    assert corrected == pytest.approx(1.2 * plain, rel=1e-6)


def test_the_newest_run_counts_and_speeds_stay():
    remember_speed("H100", LLAMA, "nf4", 9000.0)
    measure(1.1)
    measure(1.2)
    assert here().graphed == pytest.approx(1.2)
    assert measured_speed("H100", LLAMA, "nf4") == 9000.0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"factors": [{"device_name": "H100"}]}',
        b'{"factors": {"a": 1}}',
        b'{"factors": [{"device_name": "", "shape": "", "quantization": "", "compiled": 1, "factor": 1}]}',
    ],
)
def test_a_torn_file_corrects_nothing_and_is_measured_again(home, text):
    (home / "settings").mkdir(parents=True)
    (home / "settings" / "measured.json").write_bytes(text)
    assert here() == NO_CORRECTION
    measure(1.2)
    assert here().graphed == pytest.approx(1.2)


def test_a_newer_versions_file_stays_as_it_is(home):  # R15
    (home / "settings").mkdir(parents=True)
    file = home / "settings" / "measured.json"
    file.write_text('{"schema_version": 2, "factors": []}')
    measure(1.2)
    assert file.read_text() == '{"schema_version": 2, "factors": []}'


def test_what_was_measured_beside_another_estimate_corrects_nothing_until_it_is_measured_again(home):
    measure(1.2)
    file = home / "settings" / "measured.json"
    kept = json.loads(file.read_bytes())
    del kept["factors"][0]["estimate"]  # as versions wrote it that counted otherwise
    file.write_text(json.dumps(kept))
    assert here() == NO_CORRECTION
    measure(1.1)
    assert here().graphed == pytest.approx(1.1)
    assert len(json.loads(file.read_bytes())["factors"]) == 1


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e300])
def test_an_absurd_figure_in_the_file_corrects_nothing(factor):
    remember_factor("H100", LLAMA, "nf4", compiled=True, factor=factor)
    assert here() == NO_CORRECTION


def test_what_was_measured_counts_for_the_largest_that_fits():
    plain = largest_that_fits(LLAMA, CONFIG, device="cuda", room=48 * GIB)
    more = Correction(graphed=1.5)
    corrected = largest_that_fits(LLAMA, CONFIG, device="cuda", room=48 * GIB, corrected=more)
    assert plain is not None
    assert corrected is not None
    assert corrected.batch_size < plain.batch_size


def test_a_measured_peak_is_counted_as_the_promise_counts():
    assert as_promised(9 * GIB, "cuda") == 9 * GIB + never_estimated("cuda")
    assert as_promised(9 * GIB, "cpu") == 9 * GIB
    assert as_promised(0, "cuda") == 0


def test_a_correction_is_said_in_words():
    assert correction_words(1.0) == correction_words(1.004) == ""
    assert correction_words(1.06).endswith("as measured here: 6 % more than computed.")
    assert correction_words(0.94).endswith("as measured here: 6 % less than computed.")


def test_what_auto_was_here_is_promised_from_then_on():
    """A processor that computes bfloat16 fast takes half of what float32 takes."""
    before = promised(here(), device="cpu")
    remember_dtype("H100", "bfloat16")
    after = promised(here(), device="cpu")
    as_set = promised(device="cpu", model__compute_dtype="bfloat16")
    assert (after.total, after.parts) == (as_set.total, as_set.parts)
    assert after.total < 0.7 * before.total
    assert promised(here(), device="cpu", model__compute_dtype="float32").total == before.total
    remember_dtype("H100", "float32")
    assert promised(here(), device="cpu").total == before.total
