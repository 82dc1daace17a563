"""Encoders as features extractors of stable-baselines3.

policy_kwargs = dict(
    features_extractor_class=EncoderExtractor,
    features_extractor_kwargs=dict(name="resnet18", width=0.25, norm="group"),
)
model = PPO("CnnPolicy", env, policy_kwargs=policy_kwargs)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vision.encoder import build_encoder
from vision.train import freeze
from vision.weights import load_weights

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "stable_baselines3":
        raise
    raise ImportError("vision.sb3 needs stable-baselines3; pip install stable-baselines3") from None


class EncoderExtractor(BaseFeaturesExtractor):
    """Any registered encoder as SB3's features extractor, for images or vectors.

    name      of the encoder (`vision.names()`)
    width     scales its channels
    weights   pretrained weights, as `vision.load_weights` takes them
    frozen    hold the encoder as it is, statistics of BatchNorm included
    options   further arguments of that encoder: head, norm, normalize

    Images are channels-first, as SB3 hands them on; uint8 (normalize_images=False) or float in
    [0, 1]. Raises ValueError for a Dict observation, or a shape that the encoder can't digest.
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
        shape = getattr(observation_space, "shape", None)
        if not shape:
            raise ValueError(
                f"observations are {observation_space}; an encoder takes one Box of images or "
                "vectors"
            )
        encoder = build_encoder(name, tuple(shape), width, **options)
        if weights:
            load_weights(encoder, weights)
        super().__init__(observation_space, encoder.feature_dim)
        self.encoder = freeze(encoder) if frozen else encoder

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *shape) -> (B, features_dim)."""
        return self.encoder(observations)
