"""Target networks that follow slowly."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


class Polyak:
    """A target network that follows an online one: its parameters, and BatchNorm's statistics.

    Lillicrap et al. 2015, algorithm 1. Counts, which are whole numbers, are copied.
    """

    def __init__(self, target: nn.Module, online: nn.Module) -> None:
        there, here = (chain(net.parameters(), net.buffers()) for net in (target, online))
        pairs = list(zip(there, here, strict=True))
        real = [pair for pair in pairs if pair[0].is_floating_point()]
        self._there, self._here = [there for there, _ in real], [here for _, here in real]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def __call__(self, tau: float) -> None:
        """Move the target by a share `tau` of the way."""
        torch._foreach_lerp_(self._there, self._here, tau)
        for there, here in self._counts:
            there.copy_(here)
