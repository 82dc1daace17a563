"""The least mass above 0 of the host's leaves, kept by blocks like the tree's sums."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from replay.tree import BLOCK

_SHIFT = 4


@njit("void(f4[::1], f4[::1], i8[::1], i8[::1])", nogil=True, cache=True)
def _lower(leaves, minima, levels, nodes):  # type: ignore[no-untyped-def]
    """Refresh the minima over leaves `nodes`, a level at a time; `nodes` is overwritten."""
    for level in range(levels.size):
        values, first = (leaves, 0) if level == 0 else (minima, levels[level - 1])
        for i in range(nodes.size):
            nodes[i] >>= _SHIFT
            least = np.float32(np.inf)
            start = first + nodes[i] * BLOCK
            for value in values[start : start + BLOCK]:
                if value > 0:
                    least = min(least, value)
            minima[levels[level] + nodes[i]] = least


class LeastTree:
    """Minima over `leaves` (a multiple of the fan-out,) float32; `refresh` after each change."""

    def __init__(self, leaves: NDArray[np.float32]) -> None:
        self._leaves = leaves
        counts = [leaves.size // BLOCK]  # minima of each level: one for each block below
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // BLOCK))
        padded = [-(-count // BLOCK) * BLOCK for count in counts]
        self._levels = np.cumsum([0, *padded[:-1]]).astype(np.int64)
        self._minima = np.full(sum(padded), np.inf, np.float32)
        self.refresh(np.arange(0, leaves.size, BLOCK))

    @property
    def least(self) -> float:
        """The least mass above 0; infinite where there is none."""
        return float(self._minima[self._levels[-1]])

    @property
    def nbytes(self) -> int:
        """Bytes of the minima."""
        return self._minima.nbytes

    def refresh(self, index: NDArray[np.int64]) -> None:
        """Take up what leaves `index` (N,) int64 have become."""
        _lower(self._leaves, self._minima, self._levels, index.copy())
