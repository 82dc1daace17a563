"""Heads: from an encoder's last feature map to its feature vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vision.registry import choose

HEADS = ("flatten", "pool", "softmax")


class Pool(nn.Module):
    """The mean of each channel over the map (Lin et al. 2014, section 3.2)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        return x.mean((2, 3))


class SpatialSoftmax(nn.Module):
    """Where each channel is active: the expected position under a softmax over the map.

    Levine et al. 2016, section 5.1; Finn et al. 2016, section IV.B, whose learned temperature
    this is. Positions are -1 at the left or top edge's centre of pixels, 1 at the right or bottom.
    """

    columns: Tensor
    rows: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.register_buffer("rows", _positions(rows), persistent=False)
        self.register_buffer("columns", _positions(columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 * C): x and y of each channel, channel after channel."""
        share = (x.flatten(2) / self.temperature).softmax(2).view_as(x)
        across = (share.sum(2) * self.columns).sum(2)
        down = (share.sum(3) * self.rows).sum(2)
        return torch.stack((across, down), 2).flatten(1)


def _positions(size: int) -> Tensor:
    """`size` positions (size,) from -1 to 1; the middle where there is only one."""
    return torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)


def build_head(name: str, channels: int, rows: int, columns: int) -> tuple[nn.Module, int]:
    """A head for maps (B, channels, rows, columns), and the length of its feature vector.

    name  flatten (every value), pool (each channel's mean), softmax (each channel's position)
    Raises ValueError for another name, and for softmax on a map of one position.
    """
    choose("no head is called", name, HEADS)
    if name == "flatten":
        return nn.Flatten(), channels * rows * columns
    if name == "pool":
        return Pool(), channels
    if rows * columns == 1:
        raise ValueError(
            "the head softmax tells positions on the last map, which is 1x1 here; take larger "
            "images, or the head flatten or pool"
        )
    return SpatialSoftmax(rows, columns), 2 * channels
