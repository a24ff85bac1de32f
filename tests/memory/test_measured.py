"""How fast this machine trained before: nothing is guessed, and a torn file costs one measurement."""

from __future__ import annotations

import json

import pytest

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.memory.measured import measured_speed, remember_speed, shape_key

SHAPE = ModelShape(
    family="llama",
    hidden_size=576,
    intermediate_size=1536,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_position_embeddings=8192,
    tied=True,
    linears=(),
    other_parameters_a_layer=0,
    parameters=134_515_008,
)


def test_before_the_first_run_no_speed_is_known():
    assert measured_speed("cpu", SHAPE, "nf4") is None


def test_the_newest_run_counts_for_its_device_model_and_storage_alone():
    remember_speed("cpu", SHAPE, "nf4", 100.0)
    remember_speed("cpu", SHAPE, "nf4", 120.0)
    remember_speed("H100", SHAPE, "nf4", 9000.0)
    assert measured_speed("cpu", SHAPE, "nf4") == 120.0
    assert measured_speed("H100", SHAPE, "nf4") == 9000.0
    assert measured_speed("cpu", SHAPE, "none") is None


def test_runs_that_multiply_in_fp8_have_a_speed_of_their_own():
    remember_speed("H100", SHAPE, "nf4", 15_900.0)
    assert measured_speed("H100", SHAPE, "nf4", fp8=True) is None
    remember_speed("H100", SHAPE, "nf4", 19_300.0, fp8=True)
    assert measured_speed("H100", SHAPE, "nf4") == 15_900.0
    assert measured_speed("H100", SHAPE, "nf4", fp8=True) == 19_300.0
    assert measured_speed("H100", SHAPE, "nf4", graphed=True) is None
    remember_speed("H100", SHAPE, "nf4", 189_000.0, graphed=True)
    assert measured_speed("H100", SHAPE, "nf4") == 15_900.0
    assert measured_speed("H100", SHAPE, "nf4", graphed=True) == 189_000.0


def test_a_speed_of_before_fp8_is_one_in_16_bit(home):
    (home / "settings").mkdir(parents=True)
    said = {"device_name": "H100", "shape": shape_key(SHAPE), "quantization": "nf4"}
    file = {"schema_version": 1, "speeds": [said | {"tokens_per_second": 9000.0}]}
    (home / "settings" / "measured.json").write_text(json.dumps(file))
    assert measured_speed("H100", SHAPE, "nf4") == 9000.0
    assert measured_speed("H100", SHAPE, "nf4", fp8=True) is None


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_not_remembered(speed):
    remember_speed("cpu", SHAPE, "nf4", speed)
    assert measured_speed("cpu", SHAPE, "nf4") is None


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"\0\0", b"[" * 10**5),
        *(b'{"speeds": [{"device_name": 1}]}', b'{"speeds": [{"device_name": "\xff"}]}'),
    ],
)
def test_a_torn_file_is_measured_again(home, text):
    (home / "settings").mkdir(parents=True)
    (home / "settings" / "measured.json").write_bytes(text)
    assert measured_speed("cpu", SHAPE, "nf4") is None
    remember_speed("cpu", SHAPE, "nf4", 100.0)
    assert measured_speed("cpu", SHAPE, "nf4") == 100.0


def test_a_newer_versions_file_stays_as_it_is(home):  # R15
    (home / "settings").mkdir(parents=True)
    file = home / "settings" / "measured.json"
    file.write_text('{"schema_version": 2, "speeds": []}')
    remember_speed("cpu", SHAPE, "nf4", 100.0)
    assert file.read_text() == '{"schema_version": 2, "speeds": []}'


def test_a_folder_that_cannot_be_written_to_harms_nothing(home):
    home.mkdir()
    (home / "settings").write_text("a file in its place")
    remember_speed("cpu", SHAPE, "nf4", 100.0)
    assert measured_speed("cpu", SHAPE, "nf4") is None


def test_no_staged_file_is_left(home):
    remember_speed("cpu", SHAPE, "nf4", 100.0)
    assert [file.name for file in (home / "settings").iterdir()] == ["measured.json"]
