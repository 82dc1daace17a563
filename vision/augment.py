"""Augmentation of image observations."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor


def random_shift(image: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image of (B, C, H, W) moved by up to ±pixels along both axes, its edges repeated.

    Yarats et al. 2021, section 4.1: pad by repetition, crop at random; whole pixels, 0 or more, as
    there. The generator is of the images' device; returns a copy of their shape and dtype.
    """
    size, _, height, width = image.shape
    draw = torch.randint(
        2 * pixels + 1, (2, size, 1), generator=generator, device=image.device
    ).sub_(pixels)
    if image.dtype == torch.uint8 and image.is_cpu and image.is_contiguous() and image.numel():
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
    """The same for bytes (B, C, H * W), by draw (2, B): planes as a whole, then their edges."""
    size, channels, area = image.shape
    for b in range(size):
        down, across = draw[0, b], min(max(draw[1, b], -width), width)  # beyond, all is edge
        offset = down * width + across
        left, right = max(0, -across), width - max(0, across)
        for c in range(channels):
            source, moved = image[b, c], out[b, c]
            inner = moved[max(0, -offset) : max(0, area - offset)]
            inner_source = source[max(0, offset) :]
            for i in range(inner.size):
                inner[i] = inner_source[i]
            for y in range(area // width):
                row = min(max(y + down, 0), area // width - 1)
                first, last = row * width, (row + 1) * width - 1
                if row != y + down:
                    for x in range(left, right):
                        moved[y * width + x] = source[first + x + across]
                for x in range(left):
                    moved[y * width + x] = source[first]
                for x in range(right, width):
                    moved[y * width + x] = source[last]
