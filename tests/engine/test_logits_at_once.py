"""How many logits a run makes at one time: as many as its memory was promised with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_studio.engine import learned_loss, prepared_run
from tests.engine.test_preferences import pairs
from tests.engine.tiny import events_of, make_model, make_run

MADE = 777


@pytest.mark.parametrize(
    ("method", "loss"), [("sft", "learned_cross_entropy"), ("dpo", "learned_token_losses")]
)
@pytest.mark.parametrize("recomputed", [0, 1])
def test_a_step_makes_as_many_as_suit_its_recomputed_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, loss: str, recomputed: int
) -> None:
    asked: list[tuple[str, int]] = []
    told: list[int | None] = []
    make = getattr(learned_loss, loss)

    def at_once(device: str, _: object, layers: int) -> int:
        asked.append((device, layers))
        return MADE

    def note(*given: Any, logits_at_once: int | None, **named: Any) -> Any:
        if torch.is_grad_enabled():
            told.append(logits_at_once)
        return make(*given, logits_at_once=logits_at_once, **named)

    monkeypatch.setattr(prepared_run, "logits_at_once", at_once)
    monkeypatch.setattr(learned_loss, loss, note)
    rows = pairs(8) if method == "dpo" else None
    settings: dict[str, Any] = {"training__method": method, "training__recompute": recomputed}
    events_of(make_run(tmp_path, make_model(tmp_path / "model"), rows, [], training__steps=1, **settings))

    assert asked == [("cpu", recomputed)]
    assert told == [MADE] * 2  # micro-batches
