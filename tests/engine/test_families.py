"""Every family that the models room lets in: loaded, packed, trained, as transformers itself computes it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from qlora_studio.data.packing import collate
from qlora_studio.data.tokenized_row import RowsInMemory, TokenizedRow
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.learned_loss import learned_loss
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.packed_batch import on_device
from qlora_studio.models.families import ENCODER_DECODERS
from qlora_studio.models.families import FAMILIES as KNOWN
from tests.engine.tiny import CPU, FAMILIES, events_of, loaded, losses, make_model, make_rows, make_run


def transformers_loss(folder: Path, rows: list[TokenizedRow]) -> float:
    """Each row alone, through transformers' own attention and head."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    nats = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model.eval()(torch.tensor(row.ids, dtype=torch.long)[None]).logits[0].double()
        at = torch.tensor(row.weights).nonzero()[:, 0]
        probabilities = logits.log_softmax(-1)[at - 1, torch.tensor(row.ids, dtype=torch.long)[at]]
        nats -= float(probabilities.sum())
    return nats


def test_no_family_is_left_out() -> None:
    """Encoder-decoders have tests of their own (test_encoder_decoder.py)."""
    assert FAMILIES.keys() == KNOWN.keys() - ENCODER_DECODERS


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_give_the_loss_that_transformers_gives_them_one_by_one(
    tmp_path: Path, family: str
) -> None:
    folder = make_model(tmp_path / family, family)
    rows = make_rows(5, longest=24)
    base = loaded(load_base(str(folder), Storage("none", False, torch.float32), CPU))
    batch = collate([(0, 1, 2), (3, 4)], RowsInMemory(rows), pad_id=0)

    with torch.no_grad():
        ours = float(learned_loss(base.causal_lm, on_device(batch, CPU.torch_device, keep_padding=False)))
        padded = float(learned_loss(base.causal_lm, on_device(batch, CPU.torch_device, keep_padding=True)))

    assert ours == pytest.approx(transformers_loss(folder, rows), rel=1e-5)
    assert padded == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma2", "phi", "phi3", "gpt2"])
def test_a_family_is_trained_in_nf4(tmp_path: Path, family: str) -> None:
    folder = make_model(tmp_path / family, family)
    run = make_run(tmp_path, folder, training__steps=6, training__batch_size=8)

    events = events_of(run)

    assert events[-1].state == "finished"
    assert losses(events)[-1] < losses(events)[0]
