"""Observations of several parts: images and vectors by name, one feature vector out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vision.encoder import Encoder, build_encoder
from vision.gradcam import plain
from vision.train import Freezable

VECTORS = ("mlp", "flat")
"""Encoders that take vectors; any other leaves them to an mlp."""


def require_maps(encoder: str) -> None:
    """ValueError for an encoder, by its name, that has no maps to draw an explanation on."""
    if encoder in VECTORS:
        raise ValueError(
            f"the encoder {encoder!r} makes no maps of an image, which explanations are drawn on"
        )


def _cat(values: list[Tensor]) -> Tensor:
    """Their rows; on a CPU autocast takes no cached features, which are float16."""
    kind = values[0].device.type
    if not torch.is_autocast_enabled(kind):
        return torch.cat(values)
    with torch.autocast(kind, enabled=False):
        return torch.cat(values)


class JointEncoder(Freezable):
    """An encoder for each image, one MLP for all vectors together; their features side by side.

    name               of the images' encoder; `mlp` where every part is a vector
    observation_shape  of each part by name: (C, H, W) of an image, stacked frames in C, or (D,)
    width, options     as `build_encoder` takes them; `width` scales the vectors' MLP too
    share              let images of one shape, such as two cameras', have one encoder

    The parts are taken in the order of their names. In the state dict the encoder of the image
    `camera` is `image_camera`, and the MLP `vectors`; a dot in a name becomes a slash there, and
    an encoder that is shared has the name of its first image.
    Raises ValueError, naming the part, for a shape that its encoder can't digest.
    """

    def __init__(
        self,
        name: str,
        observation_shape: Mapping[str, tuple[int, ...]],
        width: float = 1.0,
        share: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.observation_shape = {p: tuple(s) for p, s in sorted(observation_shape.items())}
        if not self.observation_shape:
            raise ValueError("the observation has no parts; give the shape of at least one")
        self.images: dict[str, Encoder] = {}
        for part, shape in self.observation_shape.items():
            if len(shape) == 3:
                self.images[part] = self._build(part, name, shape, width, share, options)
            elif len(shape) != 1:
                raise ValueError(
                    f"{part!r} has shape {shape}; an image is (channels, height, width), a vector "
                    "(size,)"
                )
        if share and len(set(self.images.values())) == len(self.images):
            raise ValueError(
                "images of one shape are to share an encoder, and there are no two of one shape: "
                + ", ".join(f"{part} is {self.observation_shape[part]}" for part in self.images)
            )
        size = sum(self.observation_shape[part][0] for part in self._vector_parts)
        if not self.images and name not in VECTORS:
            raise ValueError(
                f"{name} takes images, and none of {', '.join(self.observation_shape)} is one; for "
                "vectors use the encoder 'mlp'"
            )
        own = {} if self.images else options
        joins = name if name in VECTORS else "mlp"
        self.vectors = build_encoder(joins, (size,), width, **own) if size else None
        self.feature_dim = sum(encoder.feature_dim for encoder in self.images.values())
        self.feature_dim += self.vectors.feature_dim if self.vectors is not None else 0

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """(B, *shape) of each part -> (B, feature_dim): images by name, then what vectors give.

        Raises ValueError for a part that is missing, unknown or of another shape.
        """
        self._check(observation)
        seen = self._see(observation)
        features = [seen[part] for part in self.images]
        if self.vectors is not None:
            vectors = [_as_float(observation[part]) for part in self._vector_parts]
            features.append(self.vectors(torch.cat(vectors, 1)))
        return torch.cat(features, 1)

    @property
    def _vector_parts(self) -> list[str]:
        return [part for part in self.observation_shape if part not in self.images]

    def _build(
        self,
        part: str,
        name: str,
        shape: tuple[int, ...],
        width: float,
        share: bool,
        options: dict[str, Any],
    ) -> Encoder:
        """The encoder of one image: new and registered, or another's that it shares."""
        for encoder in self.images.values() if share else ():
            if encoder.observation_shape == shape:
                return encoder
        called = f"image_{part.replace('.', '/')}"
        if called in self._modules:
            raise ValueError(f"two parts are called {part!r} where dots and slashes are one")
        try:
            encoder = build_encoder(name, shape, width, **options)
        except ValueError as error:
            raise ValueError(f"{part!r}: {error}") from None
        self.add_module(called, encoder)
        return encoder

    def _see(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of each image; one pass for those that share an encoder, or its BatchNorm
        would see them apart."""
        groups: dict[tuple[Encoder, int, torch.dtype], list[str]] = {}
        for part, encoder in self.images.items():
            value = observation[part]
            groups.setdefault((encoder, value.dim(), value.dtype), []).append(part)
        seen: dict[str, Tensor] = {}
        for (encoder, *_), parts in groups.items():
            values = [observation[part] for part in parts]
            together = encoder(values[0] if len(values) == 1 else _cat(values))
            seen.update(
                zip(parts, together.split([value.shape[0] for value in values]), strict=True)
            )
        return seen

    def _check(self, observation: Mapping[str, Tensor]) -> None:
        known = self.observation_shape
        if not isinstance(observation, Mapping) or observation.keys() != known.keys():
            given = ", ".join(observation) if isinstance(observation, Mapping) else "one tensor"
            raise ValueError(f"this encoder was built for {', '.join(known)}, and is given {given}")
        for part in self._vector_parts:
            if observation[part].shape[1:] != known[part]:
                raise ValueError(
                    f"{part!r} was to have shape {known[part]}, a batch of it is (B, ...); this is "
                    f"{tuple(observation[part].shape)}"
                )


class OnePart(nn.Module):
    """A module on observations of several parts as one on a single part, for Grad-CAM and its kin.

    observation  what the other parts hold, (B, ...) each; of an image that shares its encoder with
                 this part its features, if a layer there is to be explained
    """

    def __init__(self, module: nn.Module, observation: Mapping[str, Tensor], part: str) -> None:
        super().__init__()
        if part not in observation:
            raise ValueError(f"there is no part {part!r}; the parts are {', '.join(observation)}")
        self.module, self.part = module, part
        self._rest = {name: plain(value) for name, value in observation.items() if name != part}

    def forward(self, value: Tensor) -> Any:
        """What the module gives where the part is `value`."""
        return self.module({**self._rest, self.part: value})


def _as_float(vector: Tensor) -> Tensor:
    """As encoders take vectors: uint8 scaled to [0, 1], all else as it is."""
    return vector.float() / 255 if vector.dtype == torch.uint8 else vector.float()
