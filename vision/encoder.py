"""The encoder contract: pixels or vectors in, one feature vector out.

An encoder is built for one observation shape and says what comes out of it:

    feature_dim   length of the feature vector
    channels      channels of each feature map, from the shallowest
    strides       pixels of the observation per pixel of each feature map

Images arrive as uint8 (B, C, H, W) and are cast and scaled to [0, 1] on their device, here and
nowhere else; float images must already lie in that range. Vectors arrive as (B, D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vision.registry import find


class Encoder(nn.Module):
    """Base of all encoders; a subclass sets the four attributes and defines `feature_maps`."""

    observation_shape: tuple[int, ...]
    feature_dim: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__()
        self.observation_shape = tuple(observation_shape)
        self.width = width
        self.register_buffer("scale", torch.tensor(1 / 255), persistent=False)
        self.scale: Tensor

    def forward(self, observation: Tensor) -> Tensor:
        """(B, *observation_shape) -> (B, feature_dim)."""
        return self.feature_maps(observation)[-1].flatten(1)

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> one (B, channels[i], H_i, W_i) per stage."""
        raise NotImplementedError

    def scaled(self, channels: int) -> int:
        """A layer's channels or units at this encoder's width, at least 1."""
        return max(1, round(channels * self.width))

    def prepare(self, observation: Tensor) -> Tensor:
        """Cast to the arithmetic in use and scale uint8 to [0, 1]; floats are only cast."""
        kind = observation.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        if observation.dtype == torch.uint8:
            return observation.to(dtype).mul_(self.scale.to(dtype))
        return observation.to(dtype)


class ConvEncoder(Encoder):
    """A stack of plain convolutions with ReLU, described by a table.

    `layers` lists (channels, kernel, stride). Raises ValueError, naming the least size, where the
    observation is too small for them.
    """

    layers: tuple[tuple[int, int, int], ...]

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__(observation_shape, width)
        rows, columns = image_size(observation_shape, type(self).__name__, self.least_size())
        before, stride = observation_shape[0], 1
        convs, channels, strides = [], [], []
        for out, kernel, step in self.layers:
            out = self.scaled(out)
            convs.append(nn.Conv2d(before, out, kernel, step))
            rows, columns = (rows - kernel) // step + 1, (columns - kernel) // step + 1
            before, stride = out, stride * step
            channels.append(out)
            strides.append(stride)
        self.convs = nn.ModuleList(convs)
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.feature_dim = before * rows * columns

    @classmethod
    def least_size(cls) -> int:
        """Least height and width, in pixels, that every layer can digest."""
        size = 1
        for _, kernel, step in reversed(cls.layers):
            size = (size - 1) * step + kernel
        return size

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        x = self.prepare(observation)
        maps = []
        for conv in self.convs:
            x = torch.relu(conv(x))
            maps.append(x)
        return maps


def image_size(shape: tuple[int, ...], encoder: str, least: int) -> tuple[int, int]:
    """(H, W) of a (C, H, W) shape; ValueError if it is no image or below `least` pixels."""
    if len(shape) != 3:
        raise ValueError(
            f"{encoder} takes images (channels, height, width), not observations of shape "
            f"{tuple(shape)}; for vectors use the encoder 'mlp'"
        )
    if min(shape[1:]) < least:
        raise ValueError(
            f"{encoder} needs images of at least {least}x{least} pixels, "
            f"these are {shape[1]}x{shape[2]}"
        )
    return shape[1], shape[2]


def build_encoder(name: str, observation_shape: tuple[int, ...], width: float = 1.0) -> Encoder:
    """The encoder called `name` for observations of one shape.

    observation_shape  (C, H, W) for images, stacked frames in C; (D,) for vectors
    width              scales every layer's channels or units; above 0
    Raises ValueError for an unknown name, a shape that it can't digest, or a width of 0 or less.
    """
    if not width > 0:
        raise ValueError(f"the encoder's width is {width}; it must be above 0")
    return find(name)(observation_shape, width=width)
