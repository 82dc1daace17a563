"""What the classifiers share, and the encoder made of one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vision.encoder import Encoder, check_width, image_size
from vision.registry import choose
from vision.train import Freezable

NORMS = ("batch", "group", "none")
# of the images that torchvision's files were trained on, as its recipes state them
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(Freezable):
    """Base of the classifiers; a subclass sets the attributes and defines the two methods.

    in_channels    channels of its images
    channels       of each feature map, from the shallowest
    strides        pixels of the image per pixel of each feature map
    least_size     least height and width, in pixels
    classifier_name  its classifier's name in the state dict
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    least_size: int
    classifier_name: str

    def stages(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> one (B, channels[i], H_i, W_i) per stage."""
        raise NotImplementedError

    def last_size(self, size: int) -> int:
        """Height or width of the last map, for one of the image."""
        raise NotImplementedError

    def check_images(self, x: Tensor, least: int | None = None) -> None:
        """ValueError, in one line, for what is no batch of float images for this network."""
        name, least = type(self).__name__, least or self.least_size
        if x.dim() != 4 or x.shape[1] != self.in_channels or not x.is_floating_point():
            raise ValueError(
                f"{name} takes normalised float images (B, {self.in_channels}, H, W), not "
                f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
            )
        image_size(tuple(x.shape[1:]), name, least)


class BackboneEncoder(Encoder):
    """An encoder of a classifier's convolutions, which it holds as `backbone`.

    normalize  "imagenet" subtracts ImageNet's mean and divides by its deviation, as torchvision's
               files expect: channel by channel where the channels are a multiple of 3, else by
               the average over the three; "none" leaves [0, 1]
    """

    mean: Tensor
    std: Tensor
    layout = torch.channels_last

    def __init__(
        self,
        backbone: Backbone,
        observation_shape: tuple[int, ...],
        width: float,
        head: str = "flatten",
        normalize: str = "none",
    ) -> None:
        super().__init__(observation_shape, width)
        self.backbone = backbone
        self.channels, self.strides = backbone.channels, backbone.strides
        self.set_head(head, *(backbone.last_size(s) for s in observation_shape[1:]))
        choose("no normalisation is called", normalize, ("imagenet", "none"))
        self.normalize = normalize == "imagenet"
        if self.normalize:
            count = observation_shape[0]
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
                value = torch.tensor(values)
                value = value.repeat(count // 3) if count % 3 == 0 else value.mean().repeat(count)
                self.register_buffer(name, value.view(1, -1, 1, 1), persistent=False)

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        return self.backbone.stages(self.prepare(observation))

    def prepare(self, observation: Tensor) -> Tensor:
        x = super().prepare(observation)
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype) if self.normalize else x


class GroupNorm(nn.GroupNorm):
    """torch's, but for bfloat16 maps that lie channels last on a CPU.

    For these torch's own kernel takes up to 17 times as long as for contiguous ones, far longer
    than to lay them out anew and back.
    """

    def forward(self, input: Tensor) -> Tensor:
        slow = input.dtype == torch.bfloat16 and input.device.type == "cpu"
        if slow and input.dim() == 4 and not input.is_contiguous():
            return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(input)


def norm_layer(kind: str, channels: int) -> nn.Module:
    """The normalisation that follows a convolution.

    kind  batch (Ioffe & Szegedy 2015), group (Wu & He 2018), none
    Groups are 32, as in that paper, or the greatest smaller power of two that divides the
    channels and leaves two or more to a group.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        groups = 32
        while groups > 1 and (channels % groups or channels // groups < 2):
            groups //= 2
        return GroupNorm(groups, channels)
    choose("no normalisation layer is called", kind, NORMS)
    return nn.Identity()


def check_classifier(num_classes: int, in_channels: int, width: float) -> None:
    """ValueError for classes, channels or a width that no network can have."""
    check_width(width)
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; it must be 0 (no classifier) or more")
    if in_channels < 1:
        raise ValueError(f"in_channels is {in_channels}; it must be at least 1")


def halved(size: int, times: int, up: bool) -> int:
    """A length after so many halvings, each rounded up or down."""
    return math.ceil(size / 2**times) if up else size // 2**times
