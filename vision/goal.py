"""A reward from a picture of the goal: how near the camera's picture is in a network's features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from vision.encoder import build_encoder, options_for_weights
from vision.weights import load_weights


class GoalReward:
    """Called with (picture, action), returns -d in [-2, 0]: 0 where the picture is the goal's.

    goal      (H, W, 3) or (H, W) uint8, as the agent sees it; or the path of an image file
    encoder   a name of `agents list encoders`; its last map is averaged over `cells` x `cells`
              parts of the picture, so that it matters where something is
    weights   a file of weights for it, or torchvision:NAME; None keeps it as drawn from `seed`: a
              random network tells pictures apart, too, though not what is in them
    scale     what the reward is multiplied by
    Raises ValueError for a picture of another kind, and for a goal whose features are all zero.
    d is the cosine distance between the two feature vectors, 1 - cos.
    """

    def __init__(
        self,
        goal: np.ndarray | str | Path,
        encoder: str = "resnet18",
        *,
        weights: str | None = None,
        cells: int = 4,
        scale: float = 1.0,
        width: float = 1.0,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if cells < 1:
            raise ValueError(f"cells is {cells}; it must be at least 1")
        picture = _read(goal) if isinstance(goal, str | Path) else np.asarray(goal)
        self._shape, self._cells, self._scale = picture.shape, cells, scale
        image = self._image(picture)
        options = options_for_weights(encoder, weights, {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._encoder = build_encoder(encoder, tuple(image.shape[1:]), width, **options)
        if weights is not None:
            load_weights(self._encoder, weights)
        self._encoder.lay_out().eval().requires_grad_(False).to(device)
        self._device = device
        self._goal = self._features(image)
        if not self._goal.any():
            raise ValueError(
                f"the goal's features in {encoder!r} are all zero, so that no picture is nearer "
                "than another; take another goal, encoder or seed"
            )

    def __call__(self, picture: np.ndarray, action: Any = None) -> float:
        """The reward of a picture; ValueError for one of another shape than the goal's."""
        if picture.shape != self._shape:
            raise ValueError(
                f"the picture has shape {picture.shape}; the goal's has {self._shape}: take it "
                "through the same view"
            )
        near = float((self._features(self._image(picture)) * self._goal).sum())
        return self._scale * (min(near, 1.0) - 1.0)

    def distance(self, picture: np.ndarray) -> float:
        """1 - cos of a picture's features and the goal's, in [0, 2]; to end an episode by."""
        return -self(picture) / self._scale

    @torch.no_grad()
    def _features(self, image: Tensor) -> Tensor:
        maps = self._encoder.feature_maps(image.to(self._device))[-1].float()
        rows, columns = (min(self._cells, side) for side in maps.shape[2:])
        return normalize(adaptive_avg_pool2d(maps, (rows, columns)).flatten(1))

    @staticmethod
    def _image(picture: np.ndarray) -> Tensor:
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise ValueError(
                f"a picture is {picture.dtype} of shape {picture.shape}; expected uint8 (H, W, 3) "
                "or (H, W)"
            )
        channels_last = picture if picture.ndim == 3 else picture[:, :, None]
        return torch.from_numpy(np.ascontiguousarray(channels_last.transpose(2, 0, 1)))[None]


def _read(path: str | Path) -> np.ndarray:
    import cv2

    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise ValueError(f"{path} is no image that OpenCV can decode")
    return np.asarray(image)
