"""Augmentation of image observations."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor


def random_shift(image: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image of (B, C, H, W) moved by up to ±pixels, down and across, its edges repeated.

    Yarats et al. 2021, section 4.1: pad by repetition, crop at random; whole pixels, as there.
    """
    size, _, height, width = image.shape
    draw = torch.randint(
        2 * pixels + 1, (2, size, 1), generator=generator, device=image.device
    ).sub_(pixels)
    if image.dtype == torch.uint8 and image.device.type == "cpu" and image.is_contiguous():
        moved = torch.empty_like(image)
        _move(image.flatten(2).numpy(), draw[..., 0].numpy(), moved.flatten(2).numpy(), width)
        return moved
    rows = (torch.arange(height, device=image.device) + draw[0]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=image.device) + draw[1]).clamp_(0, width - 1)
    place = (rows[:, :, None] * width + columns[:, None, :]).view(size, 1, -1)
    moved = image.flatten(2).gather(2, place.expand(-1, image.shape[1], -1))
    return moved.view_as(image)


@njit("void(Array(u1, 3, 'C', readonly=True), i8[:, ::1], u1[:, :, ::1], i8)", cache=True)
def _move(image: np.ndarray, draw: np.ndarray, out: np.ndarray, width: int) -> None:
    """The same for bytes (B, C, H * W), moved by draw (2, B): each plane as a whole, then edges."""
    size, channels, pixels = image.shape
    for b in range(size):
        down, across = draw[0, b], min(max(draw[1, b], -width), width)  # beyond, all is edge
        by = down * width + across
        left, right = max(0, -across), width - max(0, across)
        for c in range(channels):
            plane, to = image[b, c], out[b, c]
            there, here = to[max(0, -by) : max(0, pixels - by)], plane[max(0, by) :]
            for i in range(there.size):
                there[i] = here[i]
            for y in range(pixels // width):
                row = min(max(y + down, 0), pixels // width - 1)
                first, last = row * width, (row + 1) * width - 1
                if row != y + down:
                    for x in range(left, right):
                        to[y * width + x] = plane[first + x + across]
                for x in range(left):
                    to[y * width + x] = plane[first]
                for x in range(right, width):
                    to[y * width + x] = plane[last]
