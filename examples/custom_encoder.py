"""An encoder of one's own, from definition to a trained agent.

    agents train dqn --env Breakout --encoder examples.custom_encoder:Strided
    agents train dqn --env examples.custom_env:Catch --encoder examples.custom_encoder:Strided

Whatever it is named by is written down with the run, so that it is found again for `agents eval`,
`agents train --resume` and `load`.
"""

from __future__ import annotations

from torch import Tensor, nn

from vision import Encoder


class Strided(Encoder):
    """Three strided convolutions with GroupNorm, for images (C, H, W) of at least 8x8."""

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__(observation_shape, width)
        self.channels = (self.scaled(16), self.scaled(32), self.scaled(32))
        self.strides = (2, 4, 8)
        before = (observation_shape[0], *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before[i], count, 3, stride=2, padding=1),
                nn.GroupNorm(1, count),
                nn.ReLU(),
            )
            for i, count in enumerate(self.channels)
        )
        # halved, rounding up, by each
        rows, columns = (-(-size // self.strides[-1]) for size in observation_shape[1:])
        self.set_head("flatten", rows, columns)

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> one map (B, channels[i], H_i, W_i) for each stage."""
        maps = [self.prepare(observation)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]
