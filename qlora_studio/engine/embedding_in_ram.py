"""The input embedding in the machine's memory: a batch needs few of its rows on the card."""

from __future__ import annotations

from qlora_kernels.rows_in_ram import rows_in_ram
from torch import Tensor, nn
from transformers import PreTrainedModel

from qlora_studio.engine.pinned_memory import in_ram


class EmbeddingInRam(nn.Module):
    """Takes an embedding's place. It has no parameter: what asks a model where it lies asks its first one."""

    def __init__(self, embedding: nn.Embedding) -> None:
        """Raises: PinnedMemoryError."""
        super().__init__()
        weight = embedding.weight.detach()
        self._table = in_ram(weight.shape, weight.dtype, pinned=weight.is_cuda).copy_(weight)

    @property
    def weight(self) -> Tensor:
        """dtype [vocabulary, hidden_size], in RAM."""
        return self._table

    def forward(self, ids: Tensor) -> Tensor:
        """dtype [..., hidden_size], on the device of `ids`, int64 [...]."""
        return rows_in_ram(self._table, ids)


def put_in_ram(model: PreTrainedModel) -> bool:
    """Moves the model's embedding there for good. False where it is the head too, or more than a table.

    Raises: PinnedMemoryError.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, EmbeddingInRam):
        return True
    is_table = type(embedding) is nn.Embedding and embedding.max_norm is None
    if not is_table or head is None or head.weight.data_ptr() == embedding.weight.data_ptr():
        return False
    model.set_input_embeddings(EmbeddingInRam(embedding))
    return True


def bytes_in_ram(model: PreTrainedModel) -> int:
    """That `put_in_ram` took from the device; 0 where the embedding is where it was loaded."""
    embedding = model.get_input_embeddings()
    return embedding.weight.nbytes if isinstance(embedding, EmbeddingInRam) else 0
