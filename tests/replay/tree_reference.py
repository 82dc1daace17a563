"""The priority tree's slow, obvious twin in plain PyTorch: a running sum and a search in it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class ReferenceTree:
    """`PriorityTree`'s interface, at a cost of all leaves a call."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; it must be at least 1")
        self.size = size
        self._leaves = torch.zeros(size, dtype=torch.float32)

    @property
    def leaves(self) -> NDArray[np.float32]:
        """Masses (size,) float32, for reading."""
        return self._leaves.numpy()

    @property
    def total(self) -> float:
        """Sum of all leaves, in float64."""
        return float(self._leaves.double().sum())

    def set(self, index: NDArray[np.int64], leaf: NDArray[np.float32]) -> None:
        """Give leaves `index` (N,) the masses `leaf` (N,); the last of duplicates wins."""
        pairs = list(zip(index.tolist(), leaf.tolist(), strict=True))
        for i, mass in pairs:
            if not (0 <= i < self.size and 0 <= mass < float("inf")):
                raise ValueError(
                    f"leaf {i} cannot become {mass}; an index lies in [0, {self.size}) and a mass "
                    f"is finite and at least 0"
                )
        for i, mass in pairs:
            self._leaves[i] = mass

    def fill(self, leaf: NDArray[np.float32]) -> None:
        """Replace all `size` leaves at once."""
        if leaf.shape != (self.size,) or not np.all(np.isfinite(leaf) & (leaf >= 0)):
            raise ValueError(f"leaves must be {self.size} finite masses of at least 0")
        self._leaves = torch.from_numpy(leaf.astype(np.float32))

    def sample(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """Leaf under each of `uniforms` (N,) in [0, 1), times the total mass; never a zero leaf."""
        upto = self._leaves.double().cumsum(0)
        if not upto[-1] > 0:
            raise ValueError("the tree holds no mass; set a leaf above 0 first")
        found = torch.searchsorted(upto, torch.from_numpy(uniforms) * upto[-1], right=True)
        return found.clamp(max=int(self._leaves.nonzero()[-1])).numpy()

    def draw(
        self, uniforms: NDArray[np.float64], beta: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One leaf from each of N equal strata, and (N P)^-beta over its greatest in the draw."""
        index = self.sample((np.arange(uniforms.size) + uniforms) / uniforms.size)
        leaf = self._leaves.double()
        count = int((leaf > 0).sum())
        weight = (count * leaf[torch.from_numpy(index)] / leaf.sum()) ** -beta
        return index, (weight / weight.max()).float().numpy()
