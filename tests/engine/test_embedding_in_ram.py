"""The embedding in RAM: what is computed stays the same, and the card is rid of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.engine import prepared_run
from qlora_studio.engine.embedding_in_ram import EmbeddingInRam, lies_in_ram, put_in_ram
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.models.shapes import known_shape
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


@pytest.mark.parametrize(
    ("shape", "changes", "is_table", "said"),
    [
        ("llama-3.1-8b", {"training.embedding_in_ram": True}, True, ()),
        ("llama-3.1-8b", {}, True, ()),
        ("llama-3.1-8b", {"training.embedding_in_ram": True}, False, ("it does more than look rows up",)),
        ("llama-3.2-1b", {"training.embedding_in_ram": True}, True, ("it's the head too",)),
        (
            "llama-3.1-8b",
            {
                "training.embedding_in_ram": True,
                "training.finetuning": "full",
                "model.quantization": "none",
            },
            True,
            ("all weights learn",),
        ),
    ],
)
def test_on_a_card_it_is_moved_where_that_is_asked_for_and_can_be(
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    changes: dict[str, Any],
    is_table: bool,
    said: tuple[str, ...],
) -> None:
    moved: list[bool] = []

    def put() -> bool:
        moved.append(True)
        return is_table

    monkeypatch.setattr(prepared_run, "model_shape", lambda _: known_shape(shape))
    run = SimpleNamespace(
        config=with_changes(RunConfig(), changes),
        device=SimpleNamespace(is_cuda=True),
        adapted=SimpleNamespace(put_embedding_in_ram=put),
    )

    notes = PreparedRun._put_embedding_in_ram(cast(Any, run))

    assert notes == tuple(f"The embedding stays on the card: {reason}." for reason in said)
    tried = bool(changes) and (not said or not is_table)
    assert moved == [True] * tried
