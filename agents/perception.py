"""An agent's eyes, as its options ask for them: built, filled with weights, held still."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from configs.encoder import EncoderConfig
from vision import build_encoder, find, freeze, initialise, load_weights, parameter_groups
from vision.encoder import Encoder


def perceive(
    config: EncoderConfig, observation_shape: tuple[int, ...], init: str, pretrained: bool = True
) -> tuple[Encoder, str]:
    """The encoder of a config for one observation shape, and what became of its weights' file.

    Weights are read after the initialisation by `init`, whose place they take, and only if
    `pretrained`: where a checkpoint follows, their file may be gone. Raises
    ValueError, in one line, for an option that this encoder doesn't have, and for a file that
    doesn't fit it; FileNotFoundError where there is none.
    """
    known = inspect.signature(find(config.encoder)).parameters
    options: dict[str, Any] = {}
    for name in ("head", "norm", "normalize"):
        value = getattr(config, f"encoder_{name}")
        if value != "auto":
            options[name] = value
        elif name == "normalize" and config.encoder_weights and name in known:
            options[name] = "imagenet"
    encoder = build_encoder(config.encoder, observation_shape, config.encoder_width, **options)
    initialise(encoder, init)
    report = ""
    if config.encoder_weights and pretrained:
        try:
            report = str(load_weights(encoder, config.encoder_weights))
        except ValueError as error:
            if config.encoder_width == 1:
                raise
            raise ValueError(
                f"{error}; encoder_width is {config.encoder_width:g} here, and a file of the whole "
                "network wants 1"
            ) from None
    return freeze(encoder) if config.encoder_freeze else encoder, report


def learnable(config: EncoderConfig, encoder: nn.Module, network: nn.Module) -> list[Any]:
    """What an optimiser of `network`, which contains `encoder`, gets: parameters, or groups."""
    if config.encoder_learning_rate:
        return parameter_groups(encoder, network, config.encoder_learning_rate)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
