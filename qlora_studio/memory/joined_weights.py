"""Frozen weights that a card dequantizes at once, and the room beside them: `qlora_kernels.joined`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from qlora_studio.config.adapter_layers import is_adapted, ranks
from qlora_studio.memory.setting import Setting

WIDE = 2  # times as long as an input is an output that is made with those beside it


def numbers_at_once(setting: Setting) -> int:
    """Of the largest piece: a weight alone; or those with the same input, their adapters, and the copy of
    what is multiplied with both.
    """
    alone = max((out * inner for _, out, inner in setting.shape.all_linears), default=0)
    if setting.keeps_dequantized:  # evaluations and samples take the codes of one weight
        return max(alone, *(piece.copied for piece in _joined(setting)), 0)
    return max(alone, *(piece.weights + piece.room + piece.copied for piece in _joined(setting)), 0)


def room_of_kept(setting: Setting) -> int:
    """Numbers beside all weights that stay dequantized, for their adapters."""
    return sum(piece.times * piece.room for piece in _joined(setting))


class _Piece(NamedTuple):
    """times: in how many layers. The rest numbers: of the weights, of the room for their adapters, and of the
    copy of what is multiplied with both.
    """

    times: int
    weights: int
    room: int
    copied: int


def _joined(setting: Setting) -> Iterator[_Piece]:
    """Uncompiled, each weight is multiplied by itself: no other has its input."""
    lora, compiled = setting.config.lora, setting.compiled
    if not setting.fused or setting.config.trains_all or lora.dropout:
        return
    for stack in setting.shape.stacks:
        alone = Counter(inner for _, out, inner in stack.quantized if out < WIDE * inner)
        adapted = [linear for linear in stack.quantized if is_adapted(linear[0], lora)]
        for times, r_of in ranks(lora, [name for name, _, _ in adapted], stack.layers):
            wide: dict[int, list[tuple[int, int]]] = defaultdict(list)
            for name, out, inner in adapted:
                if out >= WIDE * inner:
                    if compiled:
                        wide[inner].append((out, r_of[name]))
                elif inner >= WIDE * out and (alone[inner] == 1 or not compiled):
                    yield _Piece(times, out * inner, r_of[name] * inner, setting.tokens * (out + r_of[name]))
            for inner, members in wide.items():
                outputs, low = sum(out for out, _ in members), sum(r for _, r in members)
                yield _Piece(times, outputs * inner, outputs * low, setting.tokens * (inner + low))
