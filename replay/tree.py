"""The priority tree on the CPU: sums of 16 children a node, over float32 leaves.

Leaves are float32, sums and the drawn mass float64: in a float32 tree of 2^20 leaves many can't be
reached. A touched block is recomputed from its children, never changed by a difference, so sums
don't drift, and of duplicates in one call the last one wins. A leaf of zero is never returned.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FAN_OUT = 16  # a block of leaves is one cache line of 64 bytes
_SHIFT = 4
TINY = np.float32(1.1754944e-38)  # least normal float32

# leaves (blocks, 16); sums (blocks of all levels, 16), lowest first; each level's first block.
_TREE = "f4[:, ::1], f8[:, ::1], i8[::1]"


@njit(nogil=True, inline="always")
def _block_sum(values, block):  # type: ignore[no-untyped-def]
    """Sum of a block in float64; four chains, because one would wait on each addition."""
    a = np.float64(0.0)
    b = np.float64(0.0)
    c = np.float64(0.0)
    d = np.float64(0.0)
    for i in range(0, FAN_OUT, 4):
        a += np.float64(values[block, i])
        b += np.float64(values[block, i + 1])
        c += np.float64(values[block, i + 2])
        d += np.float64(values[block, i + 3])
    return (a + b) + (c + d)


@njit(f"void({_TREE}, i8[::1], i8)", nogil=True, cache=True)
def _recompute(leaves, sums, levels, nodes, count):  # type: ignore[no-untyped-def]
    """Refresh the sums over leaves `nodes[:count]`, a level at a time; `nodes` is overwritten.

    Neighbours that share a block cost once, and a stratified draw comes in rising order.
    """
    for level in range(levels.size):
        kept = 0
        last = np.int64(-1)
        for i in range(count):
            block = nodes[i] >> _SHIFT
            if block != last:
                nodes[kept] = block
                kept += 1
            last = block
        count = kept
        for i in range(count):
            block = nodes[i]
            if level == 0:
                total = _block_sum(leaves, block)
            else:
                total = _block_sum(sums, levels[level - 1] + block)
            sums[levels[level] + (block >> _SHIFT), block & (FAN_OUT - 1)] = total


@njit(f"i8({_TREE}, i8, i8[::1], f4[::1])", nogil=True, cache=True)
def _set(leaves, sums, levels, size, index, leaf):  # type: ignore[no-untyped-def]
    """Write leaves and refresh their sums; or the position of the first bad pair, else -1."""
    for i in range(index.size):
        if not (0 <= index[i] < size and 0.0 <= leaf[i] < np.inf):
            return i
    nodes = np.empty(index.size, np.int64)
    for i in range(index.size):
        leaves[index[i] >> _SHIFT, index[i] & (FAN_OUT - 1)] = leaf[i]
        nodes[i] = index[i]
    _recompute(leaves, sums, levels, nodes, index.size)
    return -1


@njit(f"void({_TREE})", nogil=True, cache=True)
def _rebuild(leaves, sums, levels):  # type: ignore[no-untyped-def]
    nodes = np.arange(0, leaves.size, FAN_OUT)
    _recompute(leaves, sums, levels, nodes, nodes.size)


@njit(nogil=True, inline="always")
def _choose(values, block, mass):  # type: ignore[no-untyped-def]
    """Child of the block under `mass`, and what of the mass is left inside it.

    No branch depends on the drawn mass: a guess of where to stop fails about once a block.
    """
    upto = 0.0
    before = 0.0
    child = 0
    for i in range(FAN_OUT):
        upto += np.float64(values[block, i])
        past = upto <= mass
        child += past
        before = upto if past else before
    if child == FAN_OUT:
        # Rounding left a sliver past the last child: it belongs to the last that has any mass.
        child = FAN_OUT - 1
        while values[block, child] == 0 and child > 0:
            child -= 1
        return child, np.float64(values[block, child])
    return child, mass - before


@njit(f"void({_TREE}, f8[::1], b1, i8[::1])", nogil=True, cache=True)
def _descend(leaves, sums, levels, uniforms, stratified, index):  # type: ignore[no-untyped-def]
    """Leaf under each uniform; level by level, so that the loads of all draws overlap."""
    count = uniforms.size
    mass = np.empty(count, np.float64)
    total = sums[levels[levels.size - 1], 0]
    for i in range(count):
        share = (i + uniforms[i]) / count if stratified else uniforms[i]
        mass[i] = share * total
        index[i] = 0
    for level in range(levels.size - 2, -1, -1):
        for i in range(count):
            child, rest = _choose(sums, levels[level] + index[i], mass[i])
            index[i] = index[i] * FAN_OUT + child
            mass[i] = rest
    for i in range(count):
        child, rest = _choose(leaves, index[i], mass[i])
        index[i] = index[i] * FAN_OUT + child


@njit(f"void({_TREE}, f8[::1], f8, i8[::1], f4[::1])", nogil=True, cache=True)
def _draw(leaves, sums, levels, uniforms, beta, index, weight):  # type: ignore[no-untyped-def]
    """Stratified draw with importance weights (N P)^-beta, divided by their greatest."""
    _descend(leaves, sums, levels, uniforms, True, index)
    least = np.float32(np.inf)
    for i in range(index.size):
        leaf = leaves[index[i] >> _SHIFT, index[i] & (FAN_OUT - 1)]
        weight[i] = leaf
        least = min(least, leaf)
    # (N P_i)^-beta / max_j (N P_j)^-beta is (P_min / P_i)^beta: N and the total cancel.
    for i in range(index.size):
        share = (np.float64(least) / np.float64(weight[i])) ** beta
        weight[i] = max(np.float32(share), TINY)


class PriorityTree:
    """Masses over `size` leaves, drawn from in proportion.

    `leaves` (size padded to the fan-out,) float32 is for reading; `set` and `fill` keep the sums.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; it must be at least 1")
        self.size = size
        counts = [-(-size // FAN_OUT)]  # sums of each level: one for each block below
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // FAN_OUT))
        blocks = [-(-count // FAN_OUT) for count in counts]  # padded by nodes that stay at zero
        self._levels = np.cumsum([0, *blocks[:-1]]).astype(np.int64)
        self._sums: NDArray[np.float64] = np.zeros((sum(blocks), FAN_OUT), np.float64)
        self._blocks: NDArray[np.float32] = np.zeros((counts[0], FAN_OUT), np.float32)
        self.leaves = self._blocks.reshape(-1)

    @property
    def total(self) -> float:
        """Sum of all leaves, in float64."""
        return float(self._sums[self._levels[-1], 0])

    @property
    def nbytes(self) -> int:
        """Bytes of leaves and sums."""
        return self.leaves.nbytes + self._sums.nbytes

    @staticmethod
    def bytes_for(size: int) -> int:
        """About what a tree of `size` leaves takes, in bytes."""
        return size * 4 + size * 8 // (FAN_OUT - 1) + 8 * FAN_OUT * 8

    def set(self, index: NDArray[np.int64], leaf: NDArray[np.float32]) -> None:
        """Give leaves `index` (N,) int64 the masses `leaf` (N,) float32, finite and >= 0.

        The last of duplicates wins. ValueError, with nothing written, for a bad index or mass.
        """
        if index.shape != leaf.shape:
            raise ValueError(f"index has shape {index.shape} and leaf {leaf.shape}; both are (N,)")
        bad = _set(self._blocks, self._sums, self._levels, self.size, index, leaf)
        if bad >= 0:
            raise ValueError(
                f"leaf {index[bad]} cannot become {leaf[bad]}; an index lies in [0, {self.size}) "
                f"and a mass is finite and at least 0"
            )

    def fill(self, leaf: NDArray[np.float32]) -> None:
        """Replace all `size` leaves at once."""
        if leaf.shape != (self.size,) or not np.all(np.isfinite(leaf) & (leaf >= 0)):
            raise ValueError(f"leaves must be {self.size} finite masses of at least 0")
        self.leaves[: self.size] = leaf
        _rebuild(self._blocks, self._sums, self._levels)

    def sample(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """Leaf under each of `uniforms` (N,) float64 in [0, 1), times the total mass."""
        self._require_mass()
        index = np.empty(uniforms.size, np.int64)
        _descend(self._blocks, self._sums, self._levels, uniforms, False, index)
        return index

    def draw(
        self, uniforms: NDArray[np.float64], beta: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One leaf from each of N equal strata of the mass, and its importance weight.

        Schaul et al. 2016, section 3.3 (stratified) and 3.4: weight (N P)^-beta over its greatest
        in this draw, so in (0, 1]. Rising in index. `uniforms` (N,) float64 in [0, 1).
        """
        self._require_mass()
        index = np.empty(uniforms.size, np.int64)
        weight = np.empty(uniforms.size, np.float32)
        _draw(self._blocks, self._sums, self._levels, uniforms, beta, index, weight)
        return index, weight

    def _require_mass(self) -> None:
        if not self._sums[self._levels[-1], 0] > 0:
            raise ValueError("the tree holds no mass; set a leaf above 0 first")
