"""VGG: Simonyan & Zisserman 2014, Very Deep Convolutional Networks.

Names and shapes in the state dict are torchvision's, so its files load. That is why convolutions
have a bias even where BatchNorm follows: its files have one.
"""

from __future__ import annotations

from typing import Protocol

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

CHANNELS = (64, 128, 256, 512, 512)
# table 1: the kernel of each convolution in the five blocks
CONFIGURATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg11": ((3,), (3,), (3, 3), (3, 3), (3, 3)),  # A
    "vgg11_lrn": ((3,), (3,), (3, 3), (3, 3), (3, 3)),  # A-LRN
    "vgg13": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),  # B
    "vgg16c": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),  # C
    "vgg16": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),  # D
    "vgg19": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),  # E
}
LETTERS = dict(zip(CONFIGURATIONS, ("A", "A-LRN", "B", "C", "D", "E"), strict=True))
POOLED = 7  # height and width of the last map of a 224x224 image, and of the classifier's input
HIDDEN = 4096


class VGG(Backbone):
    """One configuration of table 1, with its fully connected classifier.

    blocks       kernels of each block's convolutions
    lrn          local response normalisation after the first ReLU
    norm         batch, group or none, before each ReLU
    num_classes  0 leaves the classifier out; forward then gives its input
    width        scales the channels, and the classifier's hidden units
    Raises ValueError for a norm that is unknown and for numbers out of range.
    """

    least_size = 32
    classifier_name = "classifier"

    def __init__(
        self,
        blocks: tuple[tuple[int, ...], ...],
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        norm: str = "none",
        lrn: bool = False,
        dropout: float = 0.5,
        init: str = "torchvision-vgg",
    ) -> None:
        super().__init__()
        check_classifier(num_classes, in_channels, width)
        self.in_channels = in_channels
        self.channels = tuple(scale_channels(c, width) for c in CHANNELS)
        self.strides = (2, 4, 8, 16, 32)
        layers: list[nn.Module] = []
        before = in_channels
        for kernels, channels in zip(blocks, self.channels, strict=True):
            for kernel in kernels:
                layers.append(nn.Conv2d(before, channels, kernel, padding=kernel // 2))
                if norm != "none":
                    layers.append(norm_layer(norm, channels))
                layers.append(nn.ReLU(inplace=True))
                if lrn and len(layers) <= 3:
                    # Krizhevsky et al. 2012, section 3.3; torch divides alpha by the size
                    layers.append(nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
                before = channels
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((POOLED, POOLED))
        self.classifier: nn.Sequential | None = None
        if num_classes:
            hidden = scale_channels(HIDDEN, width)
            self.classifier = nn.Sequential(
                nn.Linear(before * POOLED * POOLED, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, num_classes),
            )
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W), normalised -> class scores (B, num_classes).

        As in torchvision, the last map is averaged to 7x7, which leaves that of a 224x224 image
        as it is. Raises ValueError for images below 32x32.
        """
        self.check_images(x)
        x = self.avgpool(self.features(x)).flatten(1)
        return x if self.classifier is None else self.classifier(x)

    def dense(self, x: Tensor) -> Tensor:
        """Class scores of the fully convolutional network, averaged over positions (section 3.2).

        (B, in_channels, H, W) of 224x224 or more -> (B, num_classes). The first fully connected
        layer is a 7x7 convolution, the others 1x1; at 224x224 it is `forward`, in eval mode.
        """
        return self.dense_scores(x).mean((2, 3))

    def dense_scores(self, x: Tensor) -> Tensor:
        """The class score map, (B, num_classes, H // 32 - 6, W // 32 - 6); no dropout.

        Raises ValueError for images below 224x224 and where there is no classifier.
        """
        if self.classifier is None:
            raise ValueError("dense evaluation needs a classifier, and num_classes is 0")
        self.check_images(x, least=32 * POOLED)
        first, *rest = (layer for layer in self.classifier if isinstance(layer, nn.Linear))
        kernel = first.weight.view(first.out_features, -1, POOLED, POOLED)
        x = F.conv2d(self.features(x), kernel, first.bias)
        for layer in rest:
            x = F.conv2d(x.relu(), layer.weight[:, :, None, None], layer.bias)
        return x

    def stages(self, x: Tensor) -> list[Tensor]:
        """The five pooled maps."""
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return maps

    def last_size(self, size: int) -> int:
        return halved(size, 5, up=False)


class Build(Protocol):
    """Makes one VGG for plain torch."""

    def __call__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        norm: str | None = None,
        dropout: float = 0.5,
        init: str = "torchvision-vgg",
    ) -> VGG: ...


def _define(name: str) -> Build:
    """Register the encoder `name`, and give the function that makes the classifier."""
    configuration = name.removesuffix("_bn")
    default = "batch" if name.endswith("_bn") else "none"

    def build(
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        norm: str | None = None,
        dropout: float = 0.5,
        init: str = "torchvision-vgg",
    ) -> VGG:
        return VGG(
            CONFIGURATIONS[configuration],
            num_classes,
            in_channels=in_channels,
            width=width,
            norm=default if norm is None else norm,
            lrn=configuration.endswith("_lrn"),
            dropout=dropout,
            init=init,
        )

    def encoder(
        observation_shape: tuple[int, ...],
        width: float = 1.0,
        norm: str = default,
        head: str = "flatten",
        normalize: str = "none",
    ) -> Encoder:
        image_size(observation_shape, name, VGG.least_size)
        net = build(0, in_channels=observation_shape[0], width=width, norm=norm)
        return BackboneEncoder(net, observation_shape, width, head, normalize)

    build.__name__ = encoder.__name__ = name
    letter = LETTERS[configuration] + (" with BatchNorm" if default == "batch" else "")
    encoder.__doc__ = f"Simonyan & Zisserman 2014, table 1: configuration {letter}."
    build.__doc__ = f"The classifier {name}, as `VGG`; norm is {default} unless given."
    register(name)(encoder)
    return build


BUILDERS: dict[str, Build] = {
    name + suffix: _define(name + suffix) for name in CONFIGURATIONS for suffix in ("", "_bn")
}
