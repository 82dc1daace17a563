"""No layers: vectors as they are, for agents whose heads do all the work."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vision.encoder import Encoder
from vision.registry import register


@register("flat")
class Flat(Encoder):
    """The observation itself as one vector (B, D); images are flattened, uint8 scaled to [0, 1]."""

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__(observation_shape, width)
        self.feature_dim = math.prod(observation_shape)
        self.channels, self.strides = (self.feature_dim,), ()

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        """(B, *shape) -> the vector, (B, D) float32 always; it has no stride."""
        # bfloat16 would round a state's small differences away
        with torch.autocast(observation.device.type, enabled=False):
            return [self.prepare(observation).flatten(1)]
