"""Fully connected layers for observations that are vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vision.encoder import Encoder
from vision.registry import register


@register("mlp")
class MLP(Encoder):
    """Two layers of 256 ReLU units (times width); images are flattened, uint8 scaled."""

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__(observation_shape, width)
        units = self.scaled(256)
        size = 1
        for n in observation_shape:
            size *= n
        self.layers = nn.ModuleList([nn.Linear(size, units), nn.Linear(units, units)])
        self.feature_dim, self.channels, self.strides = units, (units, units), ()

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        """(B, *shape) -> the two layers' outputs, (B, units) each; they have no strides."""
        x = self.prepare(observation).flatten(1)
        maps = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            maps.append(x)
        return maps
