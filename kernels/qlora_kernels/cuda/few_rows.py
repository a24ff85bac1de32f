"""The products of a few tokens with 4-bit weights and their adapters, as when a reply is written.

Dequantizing a weight for one token moves six times the bytes that it has; here each is read once.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qlora_kernels.codebooks import four_bit_code
from qlora_kernels.cuda.launching import Kernel

MOST_ROWS = 4
MOST_WEIGHTS = 3  # in one launch: query, key and value
_PIECE = 128  # columns that few_rows.cu multiplies at once: two blocks of 64 weights
_BLOCKS = (64, 128, 256, 512, 1024, 2048)  # weights a scale; 16 warps pass over 2048 columns in a turn
_TILE = 16  # rows of the weight
_LANES = 32
_TABLE_BYTES = 65_536
_SHARED_BYTES = 80 * 1024  # that a block needs at most, the table among them

# For the kernels to which most of it is nothing.
_PLAIN = {
    "TOKENS": 1,
    "WARPS": 8,
    "BLOCKS": 1,
    "WEIGHTS": 1,
    "ADAPTERS": 1,
    "BLOCK_BITS": 6,
    "COLUMNS": _PIECE,
    "WHOLE": 1,
    "NESTED": 0,
    "TABLE_AT": 0,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """What is added to a product; nothing where all is None.

    low_rank: x's dtype [rows, r]; where it isn't there, it is made of lora_a
    lora_a:   float32 [r, in_features]
    lora_b:   float32 [out_features, r]
    """

    low_rank: Tensor | None = None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scaling: float = 1.0


@dataclass(frozen=True)
class Factor:
    """One of the weights that x is multiplied with.

    tensors:  codes and scales as `Quantized4bit.tensors` gives them
    bias:     x's dtype [out_features]
    adapters: one for all rows of x, or one for each
    """

    tensors: Sequence[Tensor]
    out_features: int
    bias: Tensor | None = None
    adapters: Sequence[Adapter] = (Adapter(),)


def takes(x: Tensor, weight: Sequence[Tensor], block_size: int, in_features: int) -> bool:
    """Whether `products` computes this one."""
    rows = x.numel() // x.shape[-1]
    return (
        0 < rows <= MOST_ROWS
        and len(weight) > 1
        and in_features % _PIECE == 0
        and block_size in _BLOCKS
        and in_features % block_size == 0
        and _computes(x)
    )


def products(x: Tensor, factors: Sequence[Factor], block_size: int, quant_type: str) -> list[Tensor]:
    """x [..., in_features] times each, see `qlora_kernels.linear.linear_4bit`; at most MOST_WEIGHTS, all with
    as many adapters.

    Values of codes are rounded to x's dtype, sums are float32. Scales are all quantized by one code, or none.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    outs = [x.new_empty(len(rows), factor.out_features) for factor in factors]
    given = _Given(rows, factors, outs)
    launch = _launch(x.device)
    nested = len(factors[0].tensors) > 2
    defined = {
        "TOKENS": len(rows),
        "WARPS": launch.warps,
        "BLOCKS": launch.blocks,
        "WEIGHTS": len(factors),
        "ADAPTERS": len(factors[0].adapters),
        "BLOCK_BITS": block_size.bit_length() - 1,
        "COLUMNS": rows.shape[1],
        "WHOLE": int(all(factor.out_features % _TILE == 0 for factor in factors)),
        "NESTED": int(nested),
        "TABLE_AT": _table_at(x.device.index),
    }
    shared_bytes = _TABLE_BYTES + 2 * launch.warps * _TILE * len(rows) * 4
    kernel = _compiled("few_rows", x.dtype, x.device.index, shared_bytes, **defined)
    tiles = sum(math.ceil(factor.out_features / _TILE) for factor in factors)
    code = factors[0].tensors[3 if nested else 1]  # where none is read, anything
    kernel.start(
        (min(tiles, launch.processors * launch.blocks), 1),
        launch.warps * _LANES,
        [given.weights, four_bit_code(quant_type, x.device), code, rows, _progress(x.device)],
    )
    return [out.view(*x.shape[:-1], -1) for out in outs]


def takes_low_rank(x: Tensor, lora_a: Tensor) -> bool:
    """Whether `low_rank` computes this one."""
    rows = x.numel() // x.shape[-1]
    return 0 < rows <= MOST_ROWS and lora_a.dtype == torch.float32 and x.shape[-1] % 4 == 0 and _computes(x)


def low_rank(x: Tensor, lora_a: Tensor, scaling: float) -> Tensor:
    """See `qlora_kernels.linear.low_rank_product`. Sums are float32."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    given = _Given(rows, [Factor((), 0, adapters=[Adapter(lora_a=lora_a, scaling=scaling)])], [None])
    defined = _PLAIN | {"TOKENS": len(rows), "COLUMNS": rows.shape[1]}
    kernel = _compiled("low_ranks", x.dtype, x.device.index, 0, **defined)
    kernel.start((len(lora_a), 1), _PLAIN["WARPS"] * _LANES, [given.weights, rows])
    (made,) = given.low_ranks
    return made.view(*x.shape[:-1], len(lora_a))


class _Given:
    """What the kernels read and write, as they take it.

    weights:   of ctypes, one for each factor
    low_ranks: of each adapter that has a lora_a: [rows that it serves, r]
    """

    def __init__(self, rows: Tensor, factors: Sequence[Factor], outs: Sequence[Tensor | None]) -> None:
        self._rows = rows
        self._held: list[Tensor] = []
        self.low_ranks: list[Tensor] = []
        kind = _weight_with(len(factors[0].adapters))
        given = zip(factors, outs, strict=True)
        self.weights = (kind * len(factors))(*(self._weight(kind, *each) for each in given))

    def _weight(self, kind: type[ctypes.Structure], factor: Factor, out: Tensor | None) -> ctypes.Structure:
        packed, absmax, scale, _, offset = [*factor.tensors, *[None] * 5][:5]
        places = map(self._place, (packed, absmax, scale, offset, factor.bias, out))
        served = len(self._rows) // len(factor.adapters)
        adapters = (_Adapter * len(factor.adapters))(
            *(self._adapter(adapter, served) for adapter in factor.adapters)
        )
        return kind(*places, adapters, factor.out_features)

    def _adapter(self, adapter: Adapter, served: int) -> _Adapter:
        low_rank = adapter.low_rank
        if adapter.lora_a is not None:
            low_rank = self._rows.new_empty(served, len(adapter.lora_a))
            self.low_ranks.append(low_rank)
        rank = 0 if low_rank is None else low_rank.shape[-1]
        lora_a, lora_b = (None if part is None else part.float() for part in (adapter.lora_a, adapter.lora_b))
        return _Adapter(*map(self._place, (lora_a, lora_b, low_rank)), rank, adapter.scaling)

    def _place(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        held = tensor.contiguous()
        self._held.append(held)  # a copy would be gone before the kernel has read it
        return held.data_ptr()


class _Adapter(ctypes.Structure):
    """`Adapter` of few_rows.cu."""

    _fields_ = (
        ("lora_a", ctypes.c_void_p),
        ("lora_b", ctypes.c_void_p),
        ("low_rank", ctypes.c_void_p),
        ("rank", ctypes.c_int),
        ("scaling", ctypes.c_float),
    )


@cache
def _weight_with(adapters: int) -> type[ctypes.Structure]:
    """`Weight` of few_rows.cu, with so many adapters."""
    pointers = ("packed", "absmax", "absmax_scale", "absmax_offset", "bias", "y")

    class Weight(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_void_p) for name in pointers),
            ("adapters", _Adapter * adapters),
            ("n", ctypes.c_int),
            ("unused", ctypes.c_int),
        )

    return Weight


@dataclass(frozen=True)
class _Launch:
    """warps of a block of threads, blocks that a processor holds, processors of the card"""

    warps: int
    blocks: int
    processors: int


@cache
def _launch(device: torch.device) -> _Launch:
    """Two blocks a processor where their tables fit: one multiplies while the other sums up."""
    found = torch.cuda.get_device_properties(device)
    two = found.shared_memory_per_multiprocessor >= 2 * _SHARED_BYTES
    return _Launch(16 if two else 32, 2 if two else 1, found.multi_processor_count)


@cache
def _progress(device: torch.device) -> Tensor:
    """`Progress` of few_rows.cu. One for a card: no two of these kernels run side by side on it."""
    return torch.zeros(2, dtype=torch.int32, device=device)


def _computes(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and _can_compile(x.device.index)


@cache
def _can_compile(device: int) -> bool:
    """Ampere or later, and an NVRTC that compiles for it."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        _table_at(device)
    except (RuntimeError, OSError, ImportError, AttributeError, ValueError) as error:
        _log.warning("Replies are written by the plain products: %s: %s", type(error).__name__, error)
        return False
    return True


@cache
def _table_at(device: int) -> int:
    """Where few_rows.cu's table lies in a block's shared memory: a number that depends on the card."""
    place = torch.zeros(1, dtype=torch.int32, device=torch.device("cuda", device))
    _compiled("table_place", torch.bfloat16, device, _TABLE_BYTES, **_PLAIN).start((1, 1), _LANES, [place])
    return int(place)


@cache
def _compiled(name: str, dtype: torch.dtype, device: int, shared_bytes: int, **defined: int) -> Kernel:
    if dtype == torch.float16:
        defined["HALF"] = 1
    return Kernel("few_rows.cu", name, defined, device, shared_bytes=shared_bytes)
