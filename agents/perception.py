"""An agent's eyes, as its options ask for them: built, filled with weights, held still."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from configs.encoder import EncoderConfig
from envs.find import failed, find_callable
from replay.types import Observation, Shape
from vision import (
    build_encoder,
    freeze,
    initialise,
    load_weights,
    names,
    parameter_groups,
    register,
)  # fmt: skip
from vision.encoder import Encoder, options_for_weights
from vision.joint import JointEncoder

Eyes = Encoder | JointEncoder
"""What makes features of an observation, of one part or of several."""


def perceive(
    config: EncoderConfig, observation_shape: Shape, init: str, pretrained: bool = True
) -> tuple[Eyes, str]:
    """The encoder of a config for one observation shape, and what became of its weights' file.

    Of an observation of several parts each image has an encoder of its own, which the options
    concern: weights, freezing and a learning rate leave alone what joins vectors to them.

    Weights are read after the initialisation by `init`, whose place they take, and only if
    `pretrained`: where a checkpoint follows, their file may be gone. Raises
    ValueError, in one line, for an option that this encoder doesn't have, and for a file that
    doesn't fit it; FileNotFoundError where there is none.
    """
    foreign = ":" in config.encoder
    if foreign and config.encoder not in names():
        build = find_callable(config.encoder, "encoder", "vision.Encoder")
        if isinstance(build, type) and not issubclass(build, Encoder):
            raise ValueError(f"encoder {config.encoder!r} must be a vision.Encoder, and is none")
        register(config.encoder)(build)
    options: dict[str, Any] = {}
    for name in ("head", "norm", "normalize"):
        value = getattr(config, f"encoder_{name}")
        if value != "auto":
            options[name] = value
    options = options_for_weights(config.encoder, config.encoder_weights, options)
    if config.encoder_share:
        if not isinstance(observation_shape, dict):
            raise ValueError("encoder_share is on, and observations have one part alone")
        options["share"] = True
    try:
        encoder = build_encoder(config.encoder, observation_shape, config.encoder_width, **options)
        initialise(encoder, init)
        if foreign:
            for own in images(encoder).values():
                _try(config.encoder, own)
    except Exception as error:
        if isinstance(error, ValueError) or not foreign:
            raise
        raise failed("encoder", config.encoder, error) from error
    reports = []
    # by encoder, for several images may share one
    for own, part in {own: part for part, own in images(encoder).items()}.items():
        if config.encoder_weights and pretrained:
            report = _load(config, own)
            reports.append(f"{part}: {report}" if part else report)
        if config.encoder_freeze:
            freeze(own)
        own.lay_out()
    return encoder, "\n".join(reports)


def images(encoder: Eyes) -> dict[str, Encoder]:
    """The encoder of each image part; of an observation without parts, all there is, as ''."""
    return encoder.images if isinstance(encoder, JointEncoder) else {"": encoder}


def features(encoder: Eyes, observation: Observation) -> dict[str, Tensor]:
    """Features (B, F) of each image by name, which the encoder takes in the image's place."""
    parts = observation if isinstance(observation, dict) else {"": observation}
    return {part: own(parts[part]) for part, own in images(encoder).items()}


def see(encoder: Eyes, observation: Observation, bf16: bool) -> Tensor:
    """Features (B, feature_dim) of observations, computed in bfloat16 or float32."""
    with arithmetic(encoder, bf16):
        feature: Tensor = encoder(observation)
    return feature


def arithmetic(encoder: Eyes, bf16: bool) -> AbstractContextManager[Any]:
    """A context in which the encoder computes as it is to."""
    if not bf16:
        return nullcontext()
    return torch.autocast(next(encoder.buffers()).device.type, torch.bfloat16)


def _try(name: str, encoder: Encoder) -> None:
    """ValueError where an encoder doesn't give what it says, of one observation of zeros."""
    learns = encoder.training
    with torch.no_grad():
        zeros = torch.zeros((1, *encoder.observation_shape), dtype=torch.uint8)
        maps, feature = encoder.eval().feature_maps(zeros), encoder(zeros)
    encoder.train(learns)
    if not isinstance(maps, list | tuple):
        raise ValueError(f"encoder {name!r}: feature_maps gives a {type(maps).__name__}, no list")
    for given, said in (
        ([map.shape[1] for map in maps], list(encoder.channels)),
        (tuple(feature.shape), (1, encoder.feature_dim)),
    ):
        if given != said:
            what = "channels" if isinstance(said, list) else "features"
            raise ValueError(f"encoder {name!r} gives {what} {given}, and says {said}")


def _load(config: EncoderConfig, encoder: Encoder) -> str:
    try:
        return str(
            load_weights(encoder, config.encoder_weights, config.encoder_weights_sha256 or None)
        )
    except ValueError as error:
        if config.encoder_width == 1 or "mis-shaped" not in str(error):
            raise
        raise ValueError(
            f"{error}; encoder_width is {config.encoder_width:g} here, and a file of the whole "
            "network wants 1"
        ) from None


def learnable(config: EncoderConfig, encoder: Eyes, network: nn.Module) -> list[Any]:
    """What an optimiser of `network`, which contains `encoder`, gets: parameters, or groups."""
    if config.encoder_learning_rate:
        seen = nn.ModuleList(images(encoder).values())
        return parameter_groups(seen, network, config.encoder_learning_rate)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
