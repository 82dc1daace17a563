"""The encoder contract: pixels or vectors in, one feature vector out.

An encoder is built for one observation shape and says what comes out of it:

    feature_dim   length of the feature vector
    channels      channels of each feature map, from the shallowest
    strides       pixels of the observation per pixel of each feature map

Images arrive as uint8 (B, C, H, W); the encoder casts and scales them to [0, 1] on their device, by
`prepare` or, as bytes, in its first convolution (`vision.blocks.ByteConv`). Float images must
already lie in that range. Vectors arrive as (B, D), of which uint8 is scaled too.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self, overload

import torch
from torch import Tensor, nn

from vision.blocks import ByteConv, arithmetic
from vision.heads import build_head
from vision.registry import choose, find
from vision.train import Freezable

if TYPE_CHECKING:
    from vision.joint import JointEncoder


class Encoder(Freezable):
    """Base of all encoders; a subclass sets `channels` and `strides`, and defines `feature_maps`.

    It sets `feature_dim` too, or calls `set_head`, which does. `head` makes the feature vector of
    the last map; it flattens unless `set_head` puts another.
    """

    observation_shape: tuple[int, ...]
    feature_dim: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    layout = torch.contiguous_format
    """What `lay_out` chooses for this network."""

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__()
        self.observation_shape = tuple(observation_shape)
        self.width = width
        self.register_buffer("scale", torch.tensor(1 / 255), persistent=False)
        self.scale: Tensor
        self.head: nn.Module = nn.Flatten()
        self._batches = 0  # of images that are no bytes
        self._layout = torch.contiguous_format

    def lay_out(self) -> Self:
        """Have weights, and images from now on, lie in memory as is fastest; returns itself.

        On a CPU small kernels compute faster on channels-last maps, the DQN papers' large ones
        don't. Weights that lie so can't be viewed as if they were contiguous, which torch's
        orthogonal initialiser tries: initialise first.
        """
        self._layout = self.layout
        return self.to(memory_format=self.layout)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        """(B, *observation_shape) -> (B, feature_dim).

        In an image's place its features (B, feature_dim) may come, as a cache holds them: they
        are cast and handed on.
        """
        if len(self.observation_shape) == 3 and observation.shape[1:] == (self.feature_dim,):
            return observation.to(arithmetic(observation))
        return self.head(self.feature_maps(observation)[-1])

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> one (B, channels[i], H_i, W_i) per stage."""
        raise NotImplementedError

    def set_head(self, name: str, rows: int, columns: int) -> None:
        """Put the head `name` on a last map of (channels[-1], rows, columns); sets feature_dim."""
        self.head, self.feature_dim = build_head(name, self.channels[-1], rows, columns)

    def scaled(self, channels: int) -> int:
        """A layer's channels or units at this encoder's width, at least 1."""
        return scale_channels(channels, self.width)

    def prepare(self, observation: Tensor) -> Tensor:
        """Cast to the arithmetic in use and scale uint8 to [0, 1]; floats are only cast.

        Raises ValueError for another shape than the encoder was built for, and for images of
        another type than uint8 outside [0, 1]; not every batch of these is read.
        """
        self.check_shape(observation)
        dtype = arithmetic(observation)
        if self._layout != torch.contiguous_format:
            observation = observation.contiguous(memory_format=self._layout)
        if observation.dtype == torch.uint8:
            return observation.to(dtype).mul_(self.scale.to(dtype))
        if len(self.observation_shape) == 3:
            self._check_range(observation)
        return observation if observation.dtype == dtype else observation.to(dtype)

    def check_shape(self, observation: Tensor) -> None:
        """ValueError for what is no batch of the shape that the encoder was built for."""
        if not isinstance(observation, Tensor):
            raise ValueError(
                f"{type(self).__name__} takes tensors (B, ...), not {type(observation).__name__}"
            )
        if observation.shape[1:] != self.observation_shape:
            raise ValueError(
                f"{type(self).__name__} was built for observations of shape "
                f"{self.observation_shape}, a batch of them is (B, ...); this is "
                f"{tuple(observation.shape)}"
            )

    def _check_range(self, image: Tensor) -> None:
        """On the CPU of the first 16 batches and every 64th; elsewhere, where reading its values
        would synchronise, of the first. Reading all would cost a tenth of a small network's pass.
        """
        if torch.compiler.is_compiling() or image.device.type == "meta" or image.numel() == 0:
            return
        turn = self._batches
        self.__dict__["_batches"] = turn + 1  # Module's own way costs as much as all the rest
        if turn > 0 and (image.device.type != "cpu" or (turn >= 16 and turn % 64)):
            return
        low, high = (float(v) for v in image.detach().aminmax())
        # a rounding error beyond, as resizing leaves it, is no sign of another scale
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            self._batches = turn  # still unknown: the next is read too
            raise ValueError(
                f"images of type {str(image.dtype).removeprefix('torch.')} must lie in [0, 1]; "
                f"these lie in [{low:g}, {high:g}] (uint8 images are scaled by the encoder)"
            )


class ConvEncoder(Encoder):
    """A stack of plain convolutions with ReLU, described by a table.

    `layers` lists (channels, kernel, stride). Raises ValueError, naming the least size, where the
    observation is too small for them.
    """

    layers: tuple[tuple[int, int, int], ...]

    def __init__(
        self, observation_shape: tuple[int, ...], width: float = 1.0, head: str = "flatten"
    ) -> None:
        super().__init__(observation_shape, width)
        rows, columns = image_size(
            observation_shape, type(self).__name__.lower(), self.least_size()
        )
        before, stride = observation_shape[0], 1
        convs: list[nn.Conv2d] = []
        channels, strides = [], []
        for out, kernel, step in self.layers:
            out = self.scaled(out)
            conv = nn.Conv2d if convs else ByteConv
            convs.append(conv(before, out, kernel, step))
            rows, columns = (rows - kernel) // step + 1, (columns - kernel) // step + 1
            before, stride = out, stride * step
            channels.append(out)
            strides.append(stride)
        self.convs = nn.ModuleList(convs)
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.set_head(head, rows, columns)

    @classmethod
    def least_size(cls) -> int:
        """Least height and width, in pixels, that every layer can digest."""
        size = 1
        for _, kernel, step in reversed(cls.layers):
            size = (size - 1) * step + kernel
        return size

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        self.check_shape(observation)
        first = self.convs[0]
        as_bytes = isinstance(first, ByteConv) and first.fits(observation)
        x = observation if as_bytes else self.prepare(observation)
        maps = []
        for conv in self.convs:
            x = conv(x).relu_()
            maps.append(x)
        return maps


def scale_channels(channels: int, width: float) -> int:
    """A layer's channels at a width, at least 1."""
    return max(1, round(channels * width))


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
    if shape[0] < 1:
        raise ValueError(f"{encoder} needs images of at least 1 channel, these have {shape[0]}")
    return shape[1], shape[2]


@overload
def build_encoder(
    name: str, observation_shape: tuple[int, ...], width: float = ..., **options: Any
) -> Encoder: ...


@overload
def build_encoder(
    name: str, observation_shape: dict[str, tuple[int, ...]], width: float = ..., **options: Any
) -> JointEncoder: ...


def build_encoder(
    name: str,
    observation_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
    width: float = 1.0,
    **options: Any,
) -> Encoder | JointEncoder:
    """The encoder called `name` for observations of one shape, or of several parts by name.

    observation_shape  (C, H, W) for images, stacked frames in C; (D,) for vectors; a dict of such
                       shapes makes a `vision.joint.JointEncoder`
    width              scales every layer's channels or units; above 0
    options            further arguments of that encoder, such as head or norm
    Raises ValueError for an unknown name or option, a shape that it can't digest, an option's
    value that it doesn't know, or a width of 0 or less.
    """
    check_width(width)
    if isinstance(observation_shape, dict):
        from vision.joint import JointEncoder

        return JointEncoder(name, observation_shape, width, **options)
    known, any_other = _options(name)
    if "width" in known or any_other:
        options = {"width": width, **options}
    elif width != 1:
        raise ValueError(
            f"the encoder {name!r} has one width alone, and width is {width:g}: give 1, or let it "
            "take `width`"
        )
    for option in () if any_other else options:
        choose(f"the encoder {name!r} has no option", option, known)
    return _fulfilled(name, find(name)(observation_shape, **options))


def _fulfilled(name: str, made: object) -> Encoder:
    """What was built, once it is seen to keep the contract; ValueError says what it lacks."""
    if not isinstance(made, Encoder):
        raise ValueError(
            f"the encoder {name!r} is a {type(made).__name__}; it must be a vision.Encoder"
        )
    lacks = [one for one in ("feature_dim", "channels", "strides") if not hasattr(made, one)]
    if lacks:
        raise ValueError(
            f"the encoder {name!r} sets no {' and no '.join(lacks)} when it is made; see "
            "vision.Encoder"
        )
    return made


def options_for_weights(name: str, weights: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """`options` for `build_encoder`, completed for an encoder that `weights` go into, if any.

    The files' networks learned from images normalised by ImageNet's statistics, so these are too
    where the encoder called `name` can do so and `options` don't say.
    """
    if weights and "normalize" in _options(name)[0]:
        return {"normalize": "imagenet"} | options
    return options


def _options(name: str) -> tuple[list[str], bool]:
    """An encoder's arguments by name, but for the observation's shape; and if it takes others."""
    taken = list(inspect.signature(find(name)).parameters.values())
    named = [p.name for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    others = any(p.kind == p.VAR_KEYWORD for p in taken)
    return [option for option in named if option != "observation_shape"], others


def check_width(width: float) -> None:
    """ValueError for a width that is not above 0 or not finite."""
    if not 0 < width < float("inf"):
        raise ValueError(f"the encoder's width is {width}; it must be above 0")
