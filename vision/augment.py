"""Augmentation of image observations."""

from __future__ import annotations

import torch
from torch import Tensor


def random_shift(image: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image of (B, C, H, W) moved by up to ±pixels, down and across, its edges repeated.

    Yarats et al. 2021, section 4.1: pad by repetition, crop at random; whole pixels, as there.
    """
    size, _, height, width = image.shape
    draw = torch.randint(
        2 * pixels + 1, (2, size, 1), generator=generator, device=image.device
    ).sub_(pixels)
    rows = (torch.arange(height, device=image.device) + draw[0]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=image.device) + draw[1]).clamp_(0, width - 1)
    place = (rows[:, :, None] * width + columns[:, None, :]).view(size, 1, -1)
    moved = image.flatten(2).gather(2, place.expand(-1, image.shape[1], -1))
    return moved.view_as(image)
