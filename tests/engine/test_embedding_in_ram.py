"""The embedding in RAM: what is computed stays the same, and the card is rid of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qlora_studio.data.prepared import EncodedSample
from qlora_studio.engine import prepared_run
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.embedding_in_ram import EmbeddingInRam, bytes_in_ram, put_in_ram
from qlora_studio.engine.layer_setup import LayerSetup, set_layers_up
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import EvaluationFinished, SampleReady
from tests.engine.tiny import CPU, events_of, losses, make_model, make_run, of_kind, tiny_llama

IDS = torch.tensor([[3, 5, 5, 90]])


def test_a_model_gives_the_same_with_its_embedding_there() -> None:
    model = tiny_llama().eval()
    first, size = next(model.parameters()), model.get_input_embeddings().weight.nbytes
    before = model(input_ids=IDS).logits
    assert first is model.get_input_embeddings().weight
    assert bytes_in_ram(model) == 0

    assert put_in_ram(model)
    assert put_in_ram(model)  # it is there already

    assert bytes_in_ram(model) == size
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert next(model.parameters()) is not first  # of which transformers takes the model's device
    assert model.get_input_embeddings().weight.shape == first.shape


def test_what_is_the_head_too_or_more_than_a_table_stays() -> None:
    tied = tiny_llama()
    tied.get_output_embeddings().weight = tied.get_input_embeddings().weight
    scaled = tiny_llama()

    class Scaled(nn.Embedding):
        """As Gemma's."""

    scaled.get_input_embeddings().__class__ = Scaled
    for model in (tied, scaled):
        assert not put_in_ram(model)
        assert bytes_in_ram(model) == 0
        assert not isinstance(model.get_input_embeddings(), EmbeddingInRam)


@pytest.mark.parametrize("more", [{}, {"training__neftune_alpha": 5.0}], ids=["", "noise"])
def test_a_run_learns_evaluates_and_replies_the_same_and_leaves_no_model_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """With what is done on a card done on the processor."""
    model = make_model(tmp_path / "model", tie_word_embeddings=False)
    sample = EncodedSample(prompt="A B", ids=(5, 6, 7), max_tokens=4)

    def told() -> tuple[list[float], list[float | None], list[str], bool]:
        run = make_run(tmp_path, model, samples=(sample,), training__steps=4, **more)
        holder = ModelHolder(CPU)
        events = [*events_of(run, Wish.PAUSE, after_step=2, holder=holder), *events_of(run, holder=holder)]
        evaluated = [event.loss for event in of_kind(events, EvaluationFinished)]
        replies = [event.reply for event in of_kind(events, SampleReady)]
        return losses(events), evaluated, replies, holder.held is not None

    *plain, stays = told()
    assert stays

    def set_up(adapted: AdaptedModel, *given: Any) -> LayerSetup:
        before = adapted.weight_bytes
        assert put_in_ram(adapted.causal_lm)
        assert bytes_in_ram(adapted.causal_lm)
        assert before - adapted.weight_bytes == adapted.causal_lm.get_input_embeddings().weight.nbytes
        return set_layers_up(adapted, *given)

    monkeypatch.setattr(prepared_run, "set_layers_up", set_up)
    *moved, stays = told()

    assert moved == plain
    assert not stays
