"""Resume with real weights and real text, bit for bit (R3)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qlora_studio.config.places import sample_data_file
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine import objective
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import RunStarted
from qlora_studio.runs.metrics import read_metrics
from tests.engine.tiny import CPU, events_of, make_run, of_kind

SETTINGS: dict[str, Any] = {
    "data__seq_len": 64,
    "model__compute_dtype": "auto",
    "lora__dropout": 0.1,
    "training__batch_size": 1,
    "training__gradient_accumulation": 2,
    "training__learning_rate": 1e-3,
    "training__steps": 5,  # 3 an epoch
    "checkpoints__evaluate_every_steps": 0,
    "checkpoints__every_steps": 100,
}


def short_rows(model: Path) -> list[TokenizedRow]:
    """The first words of some questions; the second half of them is learned."""
    tokenizer = load_tokenizer(model)
    lines = sample_data_file().read_text("utf-8").splitlines()[:10]
    rows = []
    for row, encoded in enumerate(tokenizer.encode_texts([json.loads(line)["question"] for line in lines])):
        ids = encoded.ids[:40]
        weights = np.ones(len(ids), np.float32)
        weights[: len(ids) // 2] = 0
        rows.append(TokenizedRow(row, ids, weights))
    return rows


def end_of(run: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    return (
        read_metrics(run / "metrics.jsonl").loss.tolist(),
        load_file(run / "adapter" / "adapter_model.safetensors"),
    )


@pytest.mark.slow
def test_smollm2_resumed_from_the_middle_of_an_epoch_and_killed_in_an_accumulation_ends_with_the_same_bits(
    tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, holder = short_rows(smollm2), ModelHolder(CPU)
    unbroken, broken = (make_run(tmp_path, smollm2, rows, [], **SETTINGS) for _ in range(2))
    events_of(unbroken, holder=holder)

    events_of(broken, Wish.PAUSE, after_step=2, holder=holder)
    real, micro_batches = vars(objective)["learned_loss"], iter(range(1, 100))

    def dies_in_an_accumulation(*inputs: Any) -> Any:
        if next(micro_batches) == 4:  # the second half of its second update
            raise KeyboardInterrupt
        return real(*inputs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(objective, "learned_loss", dies_in_an_accumulation)
        events_of(broken, holder=holder)
    events = events_of(broken, holder=ModelHolder(CPU))

    assert of_kind(events, RunStarted)[0].step == 2
    (losses, adapter), (losses_again, adapter_again) = end_of(unbroken), end_of(broken)
    assert losses == losses_again
    assert all(torch.equal(weight, adapter_again[name]) for name, weight in adapter.items())
