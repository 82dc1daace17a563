"""The priority tree's plain PyTorch twin, for any device: a running sum and a search in it.

Each draw costs all leaves. It serves where neither numba nor Triton reaches, and waits for the
device no more than `replay.tree_triton` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1.1754944e-38  # least normal float32


class TorchTree:
    """`replay.tree_triton.TritonTree`'s interface, in plain PyTorch; `least` as there."""

    def __init__(self, size: int, device: torch.device | str, least: bool = False) -> None:
        self.size = size
        self.least = least
        self.device = torch.device(device)
        self.leaves = torch.zeros(size, dtype=torch.float32, device=device)
        self._numbers = torch.arange(size, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of leaves and their numbers."""
        return self.leaves.nbytes + self._numbers.nbytes

    @staticmethod
    def bytes_for(size: int) -> int:
        """What a tree of `size` leaves takes, in bytes, with the running sums of a draw."""
        return size * (4 + 8 + 24)

    def touch_all(self) -> None:
        """Nothing: there are no sums to refresh."""

    def weigh(self, leaf: Tensor, beta: Tensor) -> Tensor:
        """Importance weights (N,) float32 of drawn leaves (N,): (P_min / P_i)^beta; 0 for leaf 0.

        P_min is the draw's, or with `least` the whole tree's.
        """
        least = leaf.min()
        if self.least:
            least = torch.where(self.leaves > 0, self.leaves, torch.inf).min()
        share = (least.double() / leaf.double()) ** beta
        return torch.where(leaf > 0, share.float().clamp_min(TINY), 0.0)

    def find(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Leaf under each `share` (N,) of the mass, and its mass; -1 and 0 in an empty tree."""
        some = self.leaves > 0
        upto = self.leaves.double().cumsum(0)
        found = torch.searchsorted(upto, share * upto[-1], right=True).clamp_(max=self.size - 1)
        # A scan in parallel may round out of order, and so end on a leaf without mass: then the
        # last one before it that has any, or else the first of all.
        kept = torch.where(some, self._numbers, -1).cummax(0).values
        found = kept[found]
        found = torch.where(found < 0, some.int().argmax(), found)
        return torch.where(some.any(), found, -1), self.leaves[found]


def strata(uniforms: Tensor) -> Tensor:
    """Uniforms (N,) moved into N equal strata of [0, 1), one each."""
    numbers = torch.arange(len(uniforms), dtype=torch.float64, device=uniforms.device)
    return (numbers + uniforms) / len(uniforms)


def put(target: Tensor, index: Tensor, value: Tensor) -> None:
    """target[index] = value, where an index of -1 stands for none and of duplicates the last wins.

    Waits for no device: what an index_put does with duplicates is nobody's promise, so each place
    is first told the number of the last that wants it.
    """
    if not len(index):
        return
    numbers = torch.arange(1, len(index) + 1, device=index.device)
    place = torch.where(index < 0, len(target), index)
    last = torch.zeros(len(target) + 1, dtype=torch.int64, device=index.device)
    last.scatter_reduce_(0, place, numbers, "amax")
    value = value.to(target.dtype).expand(len(index))
    # All that want a place write the same now; those without one write what place 0 gets anyway.
    first = torch.where(last[:1] > 0, value[(last[:1] - 1).clamp_min(0)], target[:1])
    wins = torch.where(index < 0, first, value[(last[place] - 1).clamp_min(0)])
    target[index.clamp_min(0)] = wins
