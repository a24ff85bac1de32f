"""The embedding in RAM: what is computed stays the same, and the card is rid of it."""

from __future__ import annotations

import torch
from torch import nn

from qlora_studio.engine.embedding_in_ram import EmbeddingInRam, lies_in_ram, put_in_ram
from tests.engine.tiny import tiny_llama

IDS = torch.tensor([[3, 5, 5, 90]])


def test_a_model_gives_the_same_with_its_embedding_there() -> None:
    model = tiny_llama().eval()
    first, size = next(model.parameters()), model.get_input_embeddings().weight.nbytes
    before = model(input_ids=IDS).logits
    assert first is model.get_input_embeddings().weight
    assert not lies_in_ram(model)

    assert put_in_ram(model) == size
    assert put_in_ram(model) == size  # it is there already

    assert lies_in_ram(model)
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
        assert put_in_ram(model) == 0
        assert not isinstance(model.get_input_embeddings(), EmbeddingInRam)
