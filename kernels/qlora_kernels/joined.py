"""Frozen weights with the same input as one matrix, with room for their adapters: one product, not several.

H100, gate and up of Llama 8B, r = 64, 4,096 rows: 1,464 us where each is added to its adapter's part; as one,
with what the adapters make summed up by the same product, 1,390.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from qlora_kernels.dequantize import dequantize_4bit
from qlora_kernels.scratch import scratches
from qlora_kernels.triton import dequantize_on_card

_WIDE = 2  # times as long as the input: an output that long is dear to write twice, an input cheap to copy

_ALIGNED = 16  # bytes


def is_wide(out_features: int, in_features: int) -> bool:
    """Whether the input is so short beside the output that it is copied, to write that once."""
    return out_features >= _WIDE * in_features


def has_room_beside(in_features: int, rank: int, dtype: torch.dtype) -> bool:
    """Whether rows that much longer still begin where a card's fast products want them to."""
    return (in_features + rank) * dtype.itemsize % _ALIGNED == 0


def joined(
    weights: Sequence[Sequence[Tensor]],
    out_features: Sequence[int],
    in_features: int,
    block_size: int,
    quant_type: str,
    dtype: torch.dtype,
    *,
    beside: int = 0,
    below: int = 0,
    copy: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor] | None:
    """One below the other, and memory for a copy of what is multiplied with them, which would leave holes as
    they would (`scratch`). None where they are dequantized and lie apart, or without the room.

    weights: each as codes and scales; or alone, dequantized, with the room that it has:
             dtype [out_features or more, in_features or more]
    returns: dtype [sum of out_features + below, in_features + beside], the room as it is; dtype [*copy]. On a
             card until the next ones are asked for
    """
    rows, columns = sum(out_features), in_features + beside
    if len(weights[0]) == 1:
        lying = _as_they_lie([weight for (weight,) in weights], out_features, rows + below, columns)
        return None if lying is None else (lying, _memory([copy], dtype, lying.device)[0])
    whole, copied = _memory([(rows + below, columns), copy], dtype, weights[0][0].device)
    parts = torch.split(whole[:rows, :in_features], list(out_features))
    for weight, part in zip(weights, parts, strict=True):
        dequantize_into(part, weight, block_size, quant_type)
    return whole, copied


def _memory(shapes: list[tuple[int, int]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    if device.type == "cuda":
        return scratches(shapes, dtype, device)
    return [torch.empty(shape, dtype=dtype) for shape in shapes]


def dequantize_into(part: Tensor, weight: Sequence[Tensor], block_size: int, quant_type: str) -> None:
    """part: dtype [out_features, in_features], rows may lie apart. weight: codes and scales"""
    packed, absmax, *nested = weight
    given = packed, absmax, block_size, quant_type, list(part.shape), part.dtype, *nested
    if part.is_cuda:
        dequantize_on_card(*given, into=part)
    else:
        part.copy_(dequantize_4bit(*given))


def _as_they_lie(
    weights: Sequence[Tensor], out_features: Sequence[int], rows: int, columns: int
) -> Tensor | None:
    first, last = weights[0], weights[-1]
    if any(weight.shape[1] != first.shape[1] or not weight.is_contiguous() for weight in weights):
        return None
    if any(
        one.shape[0] != features or two.data_ptr() != one.data_ptr() + one.nbytes
        for (one, two), features in zip(pairwise(weights), out_features, strict=False)
    ):
        return None
    if first.shape[1] < columns or sum(out_features[:-1]) + last.shape[0] < rows:
        return None
    storage = first.untyped_storage()
    if any(weight.untyped_storage().data_ptr() != storage.data_ptr() for weight in weights):
        return None
    # `data`, or autograd took what is put into the room for a change of the weight that it saved.
    return first.data.as_strided((rows, columns), first.stride())
