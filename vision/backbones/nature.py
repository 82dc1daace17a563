"""The convolutions of the two DQN papers."""

from __future__ import annotations

from vision.encoder import ConvEncoder
from vision.registry import register


@register("dqn2013")
class DQN2013(ConvEncoder):
    """Mnih et al. 2013, section 4.1: 16 filters 8x8 stride 4, then 32 of 4x4 stride 2."""

    layers = ((16, 8, 4), (32, 4, 2))


@register("nature")
class Nature(ConvEncoder):
    """Mnih et al. 2015, Methods: 32 filters 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3."""

    layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
