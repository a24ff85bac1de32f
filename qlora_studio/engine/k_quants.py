"""llama.cpp's K-quants: which tensor is stored in which format, and the numbers made by its own library.

source: llama.cpp, src/llama-quant.cpp (llama_tensor_get_type) and ggml.h (ggml_quantize_chunk), MIT
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from qlora_studio.errors import StudioError
from qlora_studio.models.gguf_support import Q4_K_M, Q5_K_M, Q6_K, QUANTIZER

_USUAL = {
    Q6_K: GGMLQuantizationType.Q6_K,
    Q5_K_M: GGMLQuantizationType.Q5_K,
    Q4_K_M: GGMLQuantizationType.Q4_K,
}
# Of a tensor whose rows are no whole blocks of 256.
_INSTEAD = {
    GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_K: GGMLQuantizationType.Q5_1,
    GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0,
}
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_FINER = ("self_attn.v_proj.", "mlp.down_proj.")  # in some layers stored in Q6_K
_EMBEDDING, _HEAD = "embed_tokens.", "lm_head."


def types_of(shapes: dict[str, tuple[int, ...]], quant: str) -> dict[str, GGMLQuantizationType]:
    """Of each matrix, by its name in transformers."""
    found = {}
    layers = 1 + max((int(layer[1]) for name in shapes if (layer := _LAYER.search(name))), default=0)
    has_head = any(_HEAD in name for name in shapes)
    for name, shape in shapes.items():
        layer = _LAYER.search(name)
        writes_tokens = _HEAD in name or (_EMBEDDING in name and not has_head)
        finer = layer is not None and any(part in name for part in _FINER)
        kind = _USUAL[quant]
        if writes_tokens or (layer is not None and finer and _more_bits(int(layer[1]), layers)):
            kind = GGMLQuantizationType.Q6_K
        found[name] = _fitting(kind, shape[-1])
    return found


def quantized(numbers: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]. numbers: [rows, width], in whole blocks. Raises: StudioError."""
    rows, width = numbers.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    stored = np.empty((rows, width // block * size), np.uint8)
    quantize = _library().ggml_quantize_chunk
    workers = min(os.cpu_count() or 1, rows)
    bounds = np.linspace(0, rows, workers + 1).astype(int).tolist()

    def part(first: int, last: int) -> None:
        source, target = numbers[first:last], stored[first:last]
        quantize(int(kind), source.ctypes.data, target.ctypes.data, 0, last - first, width, None)

    with ThreadPoolExecutor(workers) as pool:  # the library needs no interpreter while it counts
        for done in [pool.submit(part, *ends) for ends in itertools.pairwise(bounds)]:
            done.result()
    return stored


def _fitting(kind: GGMLQuantizationType, width: int) -> GGMLQuantizationType:
    for tried in _tried(kind):
        if width % gguf.GGML_QUANT_SIZES[tried][0] == 0:
            return tried
    return GGMLQuantizationType.F16


def _tried(kind: GGMLQuantizationType) -> Iterable[GGMLQuantizationType]:
    yield kind
    yield _INSTEAD[kind]


def _more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and of the others each third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


@cache
def _library() -> Any:
    """Raises: StudioError where it isn't installed, or has no quantizer any more."""
    spec = importlib.util.find_spec(QUANTIZER)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ()) if spec] if spec else []
    for folder in folders:
        for file in sorted((*folder.glob(f"{QUANTIZER}*.so"), *folder.glob(f"{QUANTIZER}*.pyd"))):
            library = ctypes.CDLL(str(file))
            if hasattr(library, "ggml_quantize_chunk"):
                library.ggml_quantize_chunk.restype = ctypes.c_size_t
                library.ggml_quantize_chunk.argtypes = [
                    *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
                    *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
                ]
                return library
    raise StudioError(
        f"K-quants are made with llama.cpp's own library, and {QUANTIZER} is not there or has none.",
        hint=f"Install {QUANTIZER}, or choose Q8_0.",
    )
