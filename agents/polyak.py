"""Target networks that follow slowly."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move a share `tau` of `online` into `target`: parameters, and BatchNorm's statistics.

    Lillicrap et al. 2015, algorithm 1. Counts, which are whole numbers, are copied.
    """
    pairs = list(zip(_tensors(target), _tensors(online), strict=True))
    real = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([there for there, _ in real], [here for _, here in real], tau)
    for there, here in pairs:
        if not there.is_floating_point():
            there.copy_(here)


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return chain(module.parameters(), module.buffers())
