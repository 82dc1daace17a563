"""The residual network of IMPALA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.encoder import Encoder, image_size
from vision.registry import register


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), both 3x3 and of the same width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class Stage(nn.Module):
    """A 3x3 convolution, a max pooling that halves the map, two residual blocks."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, 3, padding=1)
        self.blocks = nn.Sequential(Residual(channels), Residual(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, channels, ceil(H / 2), ceil(W / 2))."""
        return self.blocks(F.max_pool2d(self.conv(x), 3, stride=2, padding=1))


@register("impala")
class Impala(Encoder):
    """Espeholt et al. 2018, figure 3, right: stages of 16, 32 and 32 channels."""

    layout = torch.channels_last

    def __init__(
        self, observation_shape: tuple[int, ...], width: float = 1.0, head: str = "flatten"
    ) -> None:
        super().__init__(observation_shape, width)
        size = image_size(observation_shape, "Impala", 1)
        self.channels = tuple(self.scaled(c) for c in (16, 32, 32))
        self.strides = (2, 4, 8)
        before = (observation_shape[0], *self.channels[:-1])
        self.stages = nn.ModuleList(Stage(b, c) for b, c in zip(before, self.channels, strict=True))
        self.set_head(head, *(-(-s // 8) for s in size))

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        x = self.prepare(observation)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(torch.relu(x))
        return maps
