"""Which rows are longer than the limits: as a whole, or for an encoder-decoder by source and target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def too_long(lengths: NDArray[np.int32], seq_len: int, target_len: int) -> NDArray[np.bool_]:
    """bool [rows].

    lengths:    int32 [rows, 2]: tokens and learned tokens, as `lengths.py` counts them
    target_len: 0: a row has no target of its own
    """
    if not target_len:
        return np.asarray(lengths[:, 0] > seq_len)
    return np.asarray((source_lengths(lengths) > seq_len) | (lengths[:, 1] > target_len))


def source_lengths(lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """int32 [rows]: tokens of each source. One token parts it from its target, which is learned whole."""
    return np.asarray(np.maximum(lengths[:, 0] - lengths[:, 1] - 1, 0))
