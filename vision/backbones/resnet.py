"""Residual networks: He et al. 2016, Deep Residual Learning for Image Recognition.

Names and shapes in the state dict are torchvision's for the ImageNet family, and those of
pytorch_resnet_cifar10 for the CIFAR family, so that their files load.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from vision.backbones.backbone import (
    Backbone,
    BackboneEncoder,
    check_classifier,
    halved,
    norm_layer,
)
from vision.encoder import Encoder, image_size, scale_channels
from vision.init import initialise
from vision.registry import register


class Configuration(NamedTuple):
    """One column of table 1, or one depth of section 4.2."""

    blocks: tuple[int, ...]
    """Blocks of each stage; four stages for ImageNet, three for CIFAR."""
    bottleneck: bool = False
    """Blocks of three convolutions with 1x1 around the 3x3 (figure 5), else two of 3x3."""
    plain: bool = False
    """Without shortcuts."""

    @property
    def cifar(self) -> bool:
        """Whether it is of section 4.2."""
        return len(self.blocks) == 3


IMAGENET = {
    "18": Configuration((2, 2, 2, 2)),
    "34": Configuration((3, 4, 6, 3)),
    "50": Configuration((3, 4, 6, 3), bottleneck=True),
    "101": Configuration((3, 4, 23, 3), bottleneck=True),
    "152": Configuration((3, 8, 36, 3), bottleneck=True),
}
# 6n + 2 layers
CIFAR = {str(6 * n + 2): Configuration((n, n, n)) for n in (3, 5, 7, 9, 18, 200)}
CONFIGURATIONS: dict[str, Configuration] = {
    family + depth: configuration._replace(plain=family == "plain")
    for family in ("resnet", "plain")
    for depth, configuration in (IMAGENET | CIFAR).items()
}
EXPANSION = 4  # of a bottleneck block's output over its 3x3 convolution


class Subsample(nn.Module):
    """The shortcut without parameters, option A: every other pixel, zeros for new channels.

    The zeros stand on both sides of the channels, as in pytorch_resnet_cifar10.
    """

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.left = (channels - before) // 2
        self.right = channels - before - self.left

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.left, self.right))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 2)."""

    def __init__(
        self, before: int, channels: int, stride: int, norm: str, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(before, channels, 3, stride, padding=1, bias=bias)
        self.bn1 = norm_layer(norm, channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn2 = norm_layer(norm, channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            out += self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right).

    The stride is that of the 3x3 convolution, as in torchvision; in the paper it is the first
    1x1's, which costs accuracy.
    """

    def __init__(
        self, before: int, channels: int, stride: int, norm: str, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        bias = norm == "none"
        inner = channels // EXPANSION
        self.conv1 = nn.Conv2d(before, inner, 1, bias=bias)
        self.bn1 = norm_layer(norm, inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=bias)
        self.bn2 = norm_layer(norm, inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=bias)
        self.bn3 = norm_layer(norm, channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            out += self.downsample(x)
        return self.relu(out)


class ResNet(Backbone):
    """A residual network, or its plain twin, with its linear classifier.

    norm         batch, group or none, after each convolution
    num_classes  0 leaves the classifier out; forward then gives its input
    width        scales the channels
    Raises ValueError for a norm that is unknown and for numbers out of range.
    """

    least_size = 1

    def __init__(
        self,
        configuration: Configuration,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        norm: str = "batch",
        init: str = "resnet",
    ) -> None:
        super().__init__()
        check_classifier(num_classes, in_channels, width)
        self.in_channels, self.norm, self.configuration = in_channels, norm, configuration
        cifar = configuration.cifar
        stem, *sizes = (
            scale_channels(c, width)
            for c in ((16, 16, 32, 64) if cifar else (64, 64, 128, 256, 512))
        )
        expansion = EXPANSION if configuration.bottleneck else 1
        sizes = [size * expansion for size in sizes]
        kernel, stride = (3, 1) if cifar else (7, 2)
        self.conv1 = nn.Conv2d(
            in_channels, stem, kernel, stride, padding=kernel // 2, bias=norm == "none"
        )
        self.bn1 = norm_layer(norm, stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, padding=1)
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(sizes)))
        before = stem
        for name, size, blocks in zip(self.stage_names, sizes, configuration.blocks, strict=True):
            stride = 1 if name == "layer1" else 2
            self.add_module(name, self._stage(before, size, blocks, stride))
            before = size
        self.channels = (stem, *sizes)
        self.strides = (1, 1, 2, 4) if cifar else (2, 4, 8, 16, 32)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier_name = "linear" if cifar else "fc"
        self.add_module(
            self.classifier_name, nn.Linear(before, num_classes) if num_classes else None
        )
        initialise(self, init)

    def _stage(self, before: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        """Blocks of one size of map; the first has the stride and the wider shortcut."""
        kind = Bottleneck if self.configuration.bottleneck else BasicBlock
        layers = [
            kind(before, channels, stride, self.norm, self._shortcut(before, channels, stride))
        ]
        for _ in range(1, blocks):
            layers.append(
                kind(channels, channels, 1, self.norm, self._shortcut(channels, channels))
            )
        return nn.Sequential(*layers)

    def _shortcut(self, before: int, channels: int, stride: int = 1) -> nn.Module | None:
        """Nothing for plain networks, option A for CIFAR, else option B (section 3.3)."""
        if self.configuration.plain:
            return None
        if stride == 1 and before == channels:
            return nn.Identity()
        if self.configuration.cifar:
            return Subsample(before, channels, stride)
        conv = nn.Conv2d(before, channels, 1, stride, bias=self.norm == "none")
        return nn.Sequential(conv, norm_layer(self.norm, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W), normalised -> class scores (B, num_classes)."""
        self.check_images(x)
        x = self.avgpool(self.stages(x)[-1]).flatten(1)
        classifier = getattr(self, self.classifier_name)
        return x if classifier is None else classifier(x)

    def stages(self, x: Tensor) -> list[Tensor]:
        """The first convolution's map, before pooling, then each stage's."""
        x = self.relu(self.bn1(self.conv1(x)))
        maps = [x]
        x = self.maxpool(x)
        for name in self.stage_names:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps

    def last_size(self, size: int) -> int:
        return halved(size, 2 if self.configuration.cifar else 5, up=True)


class Build(Protocol):
    """Makes one ResNet for plain torch."""

    def __call__(
        self,
        num_classes: int = ...,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        norm: str = "batch",
        init: str = "resnet",
    ) -> ResNet: ...


def _define(name: str, configuration: Configuration) -> Build:
    """Register the encoder `name`, and give the function that makes the classifier."""
    classes = 10 if configuration.cifar else 1000

    def build(
        num_classes: int = classes,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        norm: str = "batch",
        init: str = "resnet",
    ) -> ResNet:
        return ResNet(
            configuration, num_classes, in_channels=in_channels, width=width, norm=norm, init=init
        )

    def encoder(
        observation_shape: tuple[int, ...],
        width: float = 1.0,
        norm: str = "batch",
        head: str = "flatten",
        normalize: str = "none",
    ) -> Encoder:
        image_size(observation_shape, name, ResNet.least_size)
        net = build(0, in_channels=observation_shape[0], width=width, norm=norm)
        return BackboneEncoder(net, observation_shape, width, head, normalize)

    build.__name__ = encoder.__name__ = name
    layers = name.removeprefix("resnet").removeprefix("plain") + " layers"
    layers += " without shortcuts" if configuration.plain else ""
    layers += ", for images of 32x32 (section 4.2)" if configuration.cifar else ""
    encoder.__doc__ = f"He et al. 2016: {layers}."
    build.__doc__ = f"The classifier {name}, as `ResNet`, of {classes} classes unless given."
    register(name)(encoder)
    return build


BUILDERS: dict[str, Build] = {name: _define(name, c) for name, c in CONFIGURATIONS.items()}
