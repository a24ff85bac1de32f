"""What is asked of the layers of a run on a card, and said where it can't be; the card is stood in for."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn

from qlora_studio.config.run_config import HOST, RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.engine import layer_setup
from qlora_studio.engine.compiled_layers import InFp8
from qlora_studio.engine.layer_setup import LayerSetup, set_layers_up
from qlora_studio.models.shapes import known_shape

KEPT, IN_RAM = {"training.keep_dequantized": True}, {"training.embedding_in_ram": True}


@dataclass
class Card:
    """What is done to a model whose layers may be compiled there, or why they aren't."""

    not_compiled: str | None = None
    shape: str = "llama-3.1-8b"
    is_table: bool = True
    is_encoder_decoder: bool = False
    kept: list[bool] = field(default_factory=list)
    moved: int = 0

    def put_in_ram(self, _: Any) -> bool:
        self.moved += 1
        return self.is_table

    def set_up(self, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> LayerSetup:
        stand_ins: dict[str, Any] = {
            "decoder_layers": lambda _: nn.ModuleList(),
            "why_not_compiled": lambda *_: self.not_compiled,
            "keep_dequantized": lambda _, wanted: self.kept.append(wanted),
            "multiply_in_fp8": lambda _, wanted: InFp8(wanted, {}),
            "put_in_ram": self.put_in_ram,
            "model_shape": lambda _: known_shape(self.shape),
        } | dict.fromkeys(("compile_layers", "let_layers_be", "recompute"), lambda *_: None)
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(layer_setup, name, stand_in)
        config = SimpleNamespace(model_type="llama", is_encoder_decoder=self.is_encoder_decoder)
        adapted = SimpleNamespace(
            base=SimpleNamespace(device=SimpleNamespace(is_cuda=True)),
            causal_lm=SimpleNamespace(config=config),
        )
        return set_layers_up(cast(Any, adapted), with_changes(RunConfig(), changes), 1)


@pytest.mark.parametrize(
    ("changes", "not_compiled", "kept", "said"),
    [
        ({}, None, False, ()),
        (KEPT, None, True, ()),
        (KEPT, "a reason", False, ("layers aren't compiled (a reason)",)),
        (KEPT | {"training.fp8": True}, None, False, ("of their codes",)),
    ],
    ids=str,
)
def test_weights_stay_dequantized_where_they_are_asked_to_and_can(
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    not_compiled: str | None,
    kept: bool,
    said: tuple[str, ...],
) -> None:
    card = Card(not_compiled)
    setup = card.set_up(monkeypatch, changes)
    assert card.kept == [kept] == [setup.keeps_dequantized]
    assert setup.multiplies_in_fp8 == ("training.fp8" in changes)
    assert len(setup.notes) == len(said)
    assert all(map(str.__contains__, setup.notes, said))


@pytest.mark.parametrize(
    ("shape", "changes", "is_table", "moved", "said"),
    [
        ("llama-3.1-8b", IN_RAM, True, 1, ()),
        ("llama-3.1-8b", {}, True, 0, ()),
        ("llama-3.1-8b", IN_RAM, False, 1, ("it does more than look rows up",)),
        ("llama-3.2-1b", IN_RAM, True, 0, ("it's the head too",)),
        (
            "llama-3.1-8b",
            IN_RAM | {"training.finetuning": "full", "model.quantization": "none"},
            True,
            0,
            ("all weights learn",),
        ),
    ],
)
def test_the_embedding_is_moved_where_that_is_asked_for_and_can_be(
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    changes: dict[str, Any],
    is_table: bool,
    moved: int,
    said: tuple[str, ...],
) -> None:
    card = Card(shape=shape, is_table=is_table)
    setup = card.set_up(monkeypatch, changes)
    assert setup.notes == tuple(f"The embedding stays on the card: {reason}." for reason in said)
    assert card.moved == moved


@pytest.mark.parametrize("is_encoder_decoder", [False, True])
def test_inputs_of_layers_go_to_ram_but_for_an_encoder_decoder(
    monkeypatch: pytest.MonkeyPatch, is_encoder_decoder: bool
) -> None:
    card = Card(is_encoder_decoder=is_encoder_decoder)
    setup = card.set_up(monkeypatch, {"training.recompute": HOST})
    assert (setup.hosted is None) == is_encoder_decoder
    assert len(setup.notes) == is_encoder_decoder
