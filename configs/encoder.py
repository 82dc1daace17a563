"""The options of an agent's perception encoder, shared by every algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.ranges import above_zero, at_least


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, of what size, from which weights, and whether it learns."""

    encoder: str = "nature"
    """Perception encoder, by its registered name (`agents list encoders`), or package.module:Class
    for a vision.Encoder of your own."""
    encoder_width: float = 1.0
    """Scale of the encoder's channels; below 1 trades capacity for speed."""
    encoder_head: Literal["auto", "flatten", "pool", "softmax"] = "auto"
    """What makes a vector of its last map: all of it, its mean, or where each channel is active
    (spatial softmax); auto is the encoder's own."""
    encoder_norm: Literal["auto", "batch", "group", "none"] = "auto"
    """Normalisation in VGG and ResNet; auto is the encoder's own."""
    encoder_normalize: Literal["auto", "none", "imagenet"] = "auto"
    """Shift and scale of VGG's and ResNet's pixels; auto is imagenet with pretrained weights."""
    encoder_weights: str = ""
    """Pretrained weights: a .safetensors or .pth file, torchvision:NAME or timm:NAME."""
    encoder_weights_sha256: str = ""
    """SHA-256 that the file must have, in hexadecimal, or its first 8 digits or more; torchvision's
    files carry 8 in their names."""
    encoder_freeze: bool = False
    """Hold the encoder as it is, statistics of BatchNorm included."""
    encoder_share: bool = False
    """Let images of one shape, such as two cameras' in a Dict observation, share an encoder."""
    encoder_cache: bool = False
    """Keep a frozen encoder's features in the replay instead of frames, in float16: each is made
    once, when acting needs it, and the learner never runs the encoder. encoder_head pool makes
    them small."""
    encoder_learning_rate: float = 0.0
    """Learning rate of the encoder alone; 0 takes that of the network it is part of."""


def check(config: EncoderConfig) -> None:
    """Raise ValueError, in one line, for a value out of its range."""
    above_zero(config, "encoder_width")
    at_least(config, 0, "encoder_learning_rate")
    if config.encoder_weights_sha256 and not config.encoder_weights:
        raise ValueError("encoder_weights_sha256 is given, and encoder_weights names no file")
    if config.encoder_cache and not config.encoder_freeze:
        raise ValueError(
            "encoder_cache is on, and encoder_freeze is off: features of an encoder that learns "
            "grow old in the replay"
        )
    if config.encoder_freeze and config.encoder_learning_rate:
        raise ValueError(
            f"encoder_learning_rate is {config.encoder_learning_rate}, and encoder_freeze is on: "
            "a frozen encoder learns nothing"
        )
