"""The priority tree on the CPU: sums of four children a node, over float32 leaves.

Leaves are float32, sums and the drawn mass float64: in a float32 tree of 2^20 leaves many can't be
reached. A touched node is recomputed from its children, never changed by a difference, so sums
don't drift, and of duplicates in one call the last one wins. A leaf of zero is never returned.

A call takes all its draws or leaves through one level before the next, because loads that don't
depend on one another overlap their cache misses. The lowest sums are of blocks of 16 leaves, one
cache line; those of four leaves are worked out from the line and not stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

FAN_OUT = 4
BLOCK = 16  # leaves, in one cache line of 64 bytes
TINY = 2.0**-126  # least normal float32
_LINE = 64
_BELOW = 1 - 2.0**-52  # times a sum: less than the sum

# leaves (blocks, 16); sums (nodes of all levels, 4), lowest first; each level's first node.
_TREE = "f4[:, ::1], f8[:, ::1], i8[::1]"


@njit(nogil=True, inline="always")
def _four(values, row, first):  # type: ignore[no-untyped-def]
    """Sum of four neighbours in float64, in the order in which `_choose` adds them."""
    a, b = np.float64(values[row, first]), np.float64(values[row, first + 1])
    c, d = np.float64(values[row, first + 2]), np.float64(values[row, first + 3])
    return ((a + b) + c) + d


@njit(nogil=True, inline="always")
def _choose(a, b, c, mass):  # type: ignore[no-untyped-def]
    """Which of four neighbours that begin with a, b, c lies under `mass`, and what is left of it.

    Of a mass below their sum the one is never zero. No branch depends on the drawn mass: it would
    be guessed wrongly every other time.
    """
    ab = a + b
    abc = ab + c
    i, j, k = a <= mass, ab <= mass, abc <= mass
    before = a if i else 0.0
    before = ab if j else before
    before = abc if k else before
    return np.int64(i) + np.int64(j) + np.int64(k), mass - before


@njit(f"void({_TREE}, u4[::1], i8)", nogil=True, cache=True)
def _recompute(leaves, sums, levels, nodes, count):  # type: ignore[no-untyped-def]
    """Refresh the sums over leaves `nodes[:count]`, a level at a time; `nodes` is overwritten.

    Neighbours that share a node cost once, and a stratified draw comes in rising order.
    """
    shift = 4
    for level in range(levels.size):
        kept = 0
        last = np.int64(-1)
        for i in range(count):
            node = nodes[i] >> shift
            nodes[kept] = node
            kept += node != last
            last = node
        count = kept
        shift = 2
        for i in range(count):
            node = nodes[i]
            if level == 0:
                a, b = _four(leaves, node, 0), _four(leaves, node, 4)
                c, d = _four(leaves, node, 8), _four(leaves, node, 12)
                total = ((a + b) + c) + d
            else:
                total = _four(sums, np.uint32(levels[level - 1]) + node, 0)
            sums[levels[level] + (node >> 2), node & 3] = total


@njit(f"i8({_TREE}, i8, i8[::1], f4[::1])", nogil=True, cache=True)
def _set(leaves, sums, levels, size, index, leaf):  # type: ignore[no-untyped-def]
    """Write leaves and refresh their sums; or the position of the first bad pair, else -1."""
    nodes = np.empty(index.size, np.uint32)
    for i in range(index.size):
        if not (0 <= index[i] < size and 0.0 <= leaf[i] < np.inf):
            return i
        nodes[i] = index[i]
    for i in range(index.size):
        leaves[nodes[i] >> 4, nodes[i] & 15] = leaf[i]
    _recompute(leaves, sums, levels, nodes, index.size)
    return -1


@njit(f"void({_TREE})", nogil=True, cache=True)
def _rebuild(leaves, sums, levels):  # type: ignore[no-untyped-def]
    nodes = np.arange(0, leaves.size, BLOCK).astype(np.uint32)
    _recompute(leaves, sums, levels, nodes, nodes.size)


@njit(f"void({_TREE}, f8[::1], b1, i8[::1])", nogil=True, cache=True)
def _descend(leaves, sums, levels, uniforms, stratified, index):  # type: ignore[no-untyped-def]
    """Leaf under each uniform. Rounding may leave a sliver past a node's mass: it is cut off."""
    count = uniforms.size
    mass = np.empty(count, np.float64)
    nodes = np.zeros(count, np.uint32)  # unsigned, since an index that may be negative costs a test
    total = sums[levels[-1], 0]
    for i in range(count):
        share = (i + uniforms[i]) / count if stratified else uniforms[i]
        mass[i] = min(share * total, total * _BELOW)
    for level in range(levels.size - 2, -1, -1):
        first = np.uint32(levels[level])
        for i in range(count):
            node = first + nodes[i]
            child, rest = _choose(sums[node, 0], sums[node, 1], sums[node, 2], mass[i])
            mass[i] = min(rest, sums[node, child] * _BELOW)
            nodes[i] = nodes[i] * FAN_OUT + child
    touched = np.empty(count, np.float32)
    for i in range(count):  # the loop below is too long for its own loads to overlap
        touched[i] = leaves[nodes[i], 0]
    for i in range(count):
        block = nodes[i]
        four, rest = _choose(
            _four(leaves, block, 0), _four(leaves, block, 4), _four(leaves, block, 8), mass[i]
        )
        at = four * 4
        rest = min(rest, _four(leaves, block, at) * _BELOW)
        a, b = np.float64(leaves[block, at]), np.float64(leaves[block, at + 1])
        child, rest = _choose(a, b, np.float64(leaves[block, at + 2]), rest)
        index[i] = block * BLOCK + at + child


@njit(f"void({_TREE}, f8[::1], i8[::1], f8[::1])", nogil=True, cache=True)
def _draw(leaves, sums, levels, uniforms, index, share):  # type: ignore[no-untyped-def]
    """Stratified draw, and the least drawn leaf over each."""
    _descend(leaves, sums, levels, uniforms, True, index)
    least = np.inf
    for i in range(index.size):
        share[i] = leaves[index[i] >> 4, index[i] & 15]
        least = min(least, share[i])
    for i in range(index.size):
        share[i] = least / share[i]


class PriorityTree:
    """Masses over `size` leaves, drawn from in proportion.

    `leaves` (size padded to blocks,) float32 is for reading; `set` and `fill` keep the sums.
    """

    def __init__(self, size: int) -> None:
        if not 1 <= size <= 1 << 32:
            raise ValueError(f"size is {size}; it must lie in [1, 2^32]")
        self.size = size
        counts = [-(-size // BLOCK)]  # sums of each level: one for each block or node below
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // FAN_OUT))
        nodes = [-(-count // FAN_OUT) for count in counts]  # padded by sums that stay at zero
        self._levels = np.cumsum([0, *nodes[:-1]]).astype(np.int64)
        self._sums: NDArray[np.float64] = _zeros((sum(nodes), FAN_OUT), np.float64)
        self._blocks: NDArray[np.float32] = _zeros((counts[0], BLOCK), np.float32)
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
        return size * 4 + size * 8 // BLOCK * FAN_OUT // (FAN_OUT - 1) + 8 * 16 * FAN_OUT

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
        share = np.empty(uniforms.size, np.float64)
        _draw(self._blocks, self._sums, self._levels, uniforms, index, share)
        # (N P_i)^-beta / max_j (N P_j)^-beta is (P_min / P_i)^beta: N and the total cancel.
        weight = np.maximum(np.power(share, beta, out=share), TINY)
        return index, weight.astype(np.float32)

    def _require_mass(self) -> None:
        if not self._sums[self._levels[-1], 0] > 0:
            raise ValueError("the tree holds no mass; set a leaf above 0 first")


def _zeros(shape: tuple[int, int], dtype: type) -> NDArray[Any]:
    """Zeros that begin on a cache line."""
    size = np.dtype(dtype).itemsize * shape[0] * shape[1]
    memory = np.zeros(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(dtype).reshape(shape)
