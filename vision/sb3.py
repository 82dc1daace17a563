"""Encoders as features extractors of stable-baselines3.

policy_kwargs = dict(
    features_extractor_class=EncoderExtractor,
    features_extractor_kwargs=dict(name="resnet18", width=0.25, norm="group"),
)
model = PPO("CnnPolicy", env, policy_kwargs=policy_kwargs)  # MultiInputPolicy for Dict spaces
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from vision.encoder import build_encoder, options_for_weights
from vision.joint import JointEncoder
from vision.train import freeze
from vision.weights import load_weights

try:
    from stable_baselines3.common.preprocessing import get_flattened_obs_dim
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "stable_baselines3":
        raise
    raise ImportError("vision.sb3 needs stable-baselines3; pip install stable-baselines3") from None


class EncoderExtractor(BaseFeaturesExtractor):
    """Any registered encoder as SB3's features extractor, for images, vectors or a Dict of them.

    name      of the encoder (`vision.names()`)
    width     scales its channels
    weights   pretrained weights, as `vision.load_weights` takes them; images are then normalised as
              ImageNet's, if `normalize` doesn't say otherwise
    frozen    hold the encoder as it is, statistics of BatchNorm included
    options   further arguments of that encoder: head, norm, normalize

    Images are channels-first, as SB3 hands them on, floats in [0, 1] to which it scales uint8:
    leave its normalize_images on. Of a Dict each image has an encoder of its own, which weights and
    freezing concern, and the rest goes through an MLP together, Discrete parts one-hot
    (`vision.joint`). What is pretrained or frozen keeps its weights where SB3's actor-critic
    policies draw all others anew (ortho_init).
    Raises ValueError for another space, or a shape that the encoder can't digest.
    """

    def __init__(
        self,
        observation_space: Any,
        name: str = "nature",
        width: float = 1.0,
        weights: str = "",
        frozen: bool = False,
        **options: Any,
    ) -> None:
        options = options_for_weights(name, weights, options)
        encoder = build_encoder(name, _shape(observation_space), width, **options)
        joint = isinstance(encoder, JointEncoder)
        for own in set(encoder.images.values()) if joint else (encoder,):
            if weights:
                load_weights(own, weights)
            if frozen:
                freeze(own)
        super().__init__(observation_space, encoder.feature_dim)
        self.encoder = encoder
        self._kept = bool(weights) or frozen

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """As in torch, except that what is pretrained or frozen is left alone: see above."""
        return self if self._kept else super().apply(fn)

    def forward(self, observations: Any) -> Tensor:
        """(B, *shape), by name of a Dict's parts -> (B, features_dim)."""
        if isinstance(self.encoder, JointEncoder):
            # what is no image comes as SB3 encodes it, of whatever shape
            shapes = self.encoder.observation_shape
            observations = {n: o.view(-1, *shapes[n]) for n, o in observations.items()}
        return self.encoder(observations)


def _shape(space: Any) -> Any:
    """What `build_encoder` is to know of a space; ValueError where it holds no observation."""
    if isinstance(getattr(space, "spaces", None), dict):
        return {
            name: own.shape if len(own.shape or ()) == 3 else (get_flattened_obs_dim(own),)
            for name, own in space.spaces.items()
        }
    shape = getattr(space, "shape", None)
    if shape and len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4:
        raise ValueError(
            f"observations have shape {shape}, which reads as channels last; SB3 transposes uint8 "
            "images itself, others need gymnasium.wrappers.TransformObservation"
        )
    if not shape:
        raise ValueError(
            f"observations are {space}; an encoder takes a Box of images or vectors, or a Dict of "
            "such"
        )
    return tuple(shape)
