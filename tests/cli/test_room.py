"""What a run needs here: one device and one figure, whichever command is asked."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from qlora_studio.cli import estimating, reading, recipes
from qlora_studio.cli.room import Room, room_of_card
from qlora_studio.errors import StudioError
from qlora_studio.memory.devices import device_name
from qlora_studio.memory.measured import remember_factor
from qlora_studio.models.shapes import known_shape

SHAPE = known_shape(recipes.SAMPLE_SHAPE)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("measured", [1.0, 1.3])
def test_model_and_estimate_promise_the_same_for_the_same_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, measured: float
) -> None:
    for kind in ({"compiled": False}, {"compiled": True}, {"compiled": True, "graphed": True}):
        remember_factor(device_name(device), SHAPE, "nf4", factor=measured, **kind)
    room = Room(device, 8 * 2**30)
    monkeypatch.setattr(estimating, "room_here", lambda: room)
    asked = argparse.Namespace(
        file=Path("sample"), recipe=None, model=None, data=None, card=None, changes=[], json=True
    )

    estimating.estimate_command(asked)

    said = json.loads(capsys.readouterr().out)
    estimated = said["total_gib"]
    assert said["measured_factor"] == measured
    needs = reading._needs_gib(SHAPE, room)
    assert needs["Sample run"] == pytest.approx(estimated, abs=0.006)


def estimated(card: float | None, capsys: pytest.CaptureFixture[str], as_json: bool, *changes: str) -> str:
    asked = argparse.Namespace(
        file=Path("sample"),
        recipe=None,
        model=None,
        data=None,
        card=card,
        changes=["data.seq_len=512", *changes],
        json=as_json,
    )
    assert estimating.estimate_command(asked) == 0
    return capsys.readouterr().out


def test_a_card_that_is_not_here_is_said_what_fits_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = estimated(48, capsys, as_json=False)
    assert "GiB of 48.0 on the card" in text
    assert "Largest that fits, with more layers recomputed: " in text
    assert "sample replies" in text
    found = json.loads(estimated(48, capsys, as_json=True))
    assert found["free_gib"] == 48
    assert found["largest"]["batch_size"] > json.loads(estimated(8, capsys, True))["largest"]["batch_size"]
    assert found["total_gib"] == pytest.approx(found["phases_gib"]["training"])


@pytest.mark.parametrize(
    ("room", "change", "reason"),
    [
        (Room("cpu", 2**33), "lora.r=8", "there is no card"),
        (Room("cuda", 2**35, multiplies_in_fp8=False), "lora.r=8", "the card is older than Ada"),
        (Room("cuda", 2**35), "training.compile=off", "layers aren't compiled (compiling is off)"),
        (Room("cuda", 2**35), "model.quantization=int8", "only 4-bit weights are multiplied in fp8"),
        (
            Room("cuda", 2**35),
            "model.compute_dtype=float16",
            "beside fp8 all else is computed in bfloat16, not in float16",
        ),
    ],
)
def test_where_products_are_not_made_in_fp8_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], room: Room, change: str, reason: str
) -> None:
    monkeypatch.setattr(estimating, "room_here", lambda: room)
    words = f"Products are made in 16 bit, not in fp8: {reason}."
    asked = "training.fp8=true"
    assert words in estimated(None, capsys, False, change, asked).splitlines()
    assert json.loads(estimated(None, capsys, True, change, asked))["notes"] == [words]
    assert json.loads(estimated(None, capsys, True, change))["notes"] == []
    assert json.loads(estimated(24, capsys, True, asked))["notes"] == []


def test_where_weights_do_not_stay_dequantized_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def notes(room: Room, *more: str) -> list[str]:
        monkeypatch.setattr(estimating, "room_here", lambda: room)
        found: list[str] = json.loads(estimated(None, capsys, True, asked, *more))["notes"]
        return found

    asked = "training.keep_dequantized=true"
    card = Room("cuda", 2**35)
    words = "Weights aren't kept dequantized: {}."
    assert notes(card, "training.compile=off") == [words.format("layers aren't compiled (compiling is off)")]
    assert notes(card, "model.quantization=int8") == [words.format("only 4-bit ones are")]
    assert notes(card) == notes(Room("cpu", 2**33)) == []


def test_the_device_is_called_what_it_is() -> None:
    assert (Room("cpu", 1).words, Room("cuda", 1).words) == ("of RAM", "on the card")


@pytest.mark.parametrize(("gib", "free"), [(47.5, 51_002_736_640), (0.5, 2**29), (1e-6, 1_073)])
def test_a_card_may_have_a_part_of_a_gib(gib: float, free: int) -> None:
    assert room_of_card(gib).free_bytes == free


@pytest.mark.parametrize("gib", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_card_that_can_not_be_is_refused(gib: float) -> None:
    with pytest.raises(StudioError, match="--card"):
        room_of_card(gib)


def test_estimate_tells_what_is_to_lie_in_ram(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = ("training.batch_size=4", "data.seq_len=2048", "training.recompute=host")
    monkeypatch.setattr(estimating, "room_here", lambda: Room("cuda", 2**35, ram_bytes=2**27))
    text = estimated(None, capsys, False, *host)
    # 4 x 2048 x 576 numbers of 2 bytes are 9 MiB a layer, which take 16, in 30 layers
    assert "beside it        0.47 GiB of 0.1 of RAM: inputs of recomputed layers" in text
    assert "The inputs of recomputed layers need 0.5 GiB of RAM; 0.1 are free." in text
    assert not json.loads(estimated(None, capsys, True, *host))["fits"]
    assert json.loads(estimated(48, capsys, True, *host))["fits"]  # of a machine elsewhere nothing is known
    assert json.loads(estimated(48, capsys, True, *host))["in_ram_gib"] == 30 * 16 / 1024
    assert "beside it" not in estimated(48, capsys, False)
