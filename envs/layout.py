"""From an environment's own observation to one frame: (C, H, W) images, (D,) vectors.

The rule, from the shape of the Box alone:

- (H, W) is a grey image if it is uint8, or if both sides are at least 16; smaller float tables
  are refused, for they may be anything.
- (a, b, c) is an image whose channels are the first or the last axis, whichever is shorter. Where
  the two are equal, or both could be channels (4 or less), the layout is refused as ambiguous.
- One axis or none is a vector, and so is a MultiBinary.

uint8 images stay uint8; every other number becomes float32, its values as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.vector import Diverged

_LEAST_SIDE = 16  # of a float image without channels
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CHANNELS = 4  # the most that a picture of a camera has


class Layout(NamedTuple):
    """How one environment's observations become frames."""

    source: spaces.Box
    """The environment's own space."""
    frame: spaces.Box
    """Space of one frame, (C, H, W) or (D,), uint8 or float32."""
    convert: Callable[[np.ndarray], np.ndarray]
    """A view of an observation, of `source.shape`, in the frame's shape."""


def is_picture(array: np.ndarray) -> bool:
    """Whether it is what `render` returns: (H, W, 3) uint8."""
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def layout(space: gymnasium.Space[Any], name: str, part: str = "") -> Layout:
    """The layout of `space`; ValueError, in one line, where it is not an image or a vector.

    name  of the environment, and `part` of its observations, for the error
    """
    what = f"observations[{part!r}] of {name!r}" if part else f"observations of {name!r}"
    binary = isinstance(space, spaces.MultiBinary)
    if binary:
        space = spaces.Box(0, 1, space.shape, np.int8)
    if not isinstance(space, spaces.Box):
        expected = "a Box, Discrete, MultiBinary, MultiDiscrete, a Tuple of such vectors or a Dict"
        wrapper = "TransformObservation" if part else "FlattenObservation"  # which takes it all
        raise ValueError(
            f"{what} are {_short(space)}; expected {expected}: "
            f"wrap the environment in gymnasium.wrappers.{wrapper}, in a function of yours "
            "that --env names as module:function"
        )
    shape = space.shape
    if 0 in shape:
        raise ValueError(f"{what} have shape {shape}: an axis is empty")
    convert = _vector if binary or len(shape) < 2 else _image(shape, space.dtype == np.uint8, what)
    image = convert is not _vector
    if image and space.dtype != np.uint8:
        _require_unit(space, what)
    frame: spaces.Box
    if image and space.dtype == np.uint8:
        frame = spaces.Box(convert(space.low), convert(space.high), dtype=np.uint8)
    else:
        with np.errstate(over="ignore"):  # float64's greatest becomes inf, which says the same
            low = convert(space.low).astype(np.float32)
            high = convert(space.high).astype(np.float32)
        frame = spaces.Box(low, high, dtype=np.float32)
    return Layout(space, frame, convert)


def _require_unit(space: spaces.Box, what: str) -> None:
    """Float images are taken as they are, so bounds that are told must lie in [0, 1]."""
    bounds = np.array([space.low.min(), space.high.max()], np.float64)
    if (np.isfinite(bounds) & ((bounds < 0) | (bounds > 1))).any():
        raise ValueError(
            f"{what} are {space.dtype} images in [{bounds[0]:g}, {bounds[1]:g}]; "
            "expected uint8, or floats in [0, 1] (gymnasium.wrappers.RescaleObservation)"
        )


def _image(shape: tuple[int, ...], is_uint8: bool, what: str) -> Callable[[np.ndarray], np.ndarray]:
    if len(shape) == 2:
        if is_uint8 or min(shape) >= _LEAST_SIDE:
            return _grey
        raise ValueError(
            f"{what} have shape {shape}: too small for an image and no vector; "
            "flatten it in a wrapper, such as gymnasium.wrappers.FlattenObservation"
        )
    if len(shape) > 3:
        raise ValueError(
            f"{what} have shape {shape}: more axes than an image; where they are "
            "stacked frames, drop that wrapper, for frame_stack does it"
        )
    first, last = shape[0], shape[2]
    if first == last or max(first, last) <= _CHANNELS:
        raise ValueError(
            f"{what} have shape {shape}: (C, H, W) and (H, W, C) are both "
            "possible; give the environment's image unlike first and last axes"
        )
    return _channels_first if first < last else _channels_last


def _vector(observation: np.ndarray) -> np.ndarray:
    return observation.reshape(-1)


def _grey(observation: np.ndarray) -> np.ndarray:
    return observation[None]


def _channels_first(observation: np.ndarray) -> np.ndarray:
    return observation


def _channels_last(observation: np.ndarray) -> np.ndarray:
    return observation.transpose(2, 0, 1)


def _short(space: gymnasium.Space[Any]) -> str:
    text = str(space)
    return text if len(text) <= 60 else f"{type(space).__name__}(...)"


class Checker:
    """Holds observations and rewards to the space that the environment announced.

    Every check raises ValueError with what was wrong, of what is `called` so, and Diverged for what
    is not finite; the caller adds the lane.
    """

    def __init__(self, space: spaces.Box, called: str = "observation") -> None:
        self._called = called
        self._shape = space.shape
        self._dtype = space.dtype
        # The dtype alone keeps uint8 in [0, 255]; rounding in float32 is no fault.
        whole = space.dtype == np.uint8 and (space.low == 0).all() and (space.high == 255).all()
        self._bounds: tuple[np.ndarray, np.ndarray] | None = None
        if not whole:
            self._bounds = (space.low.astype(np.float64), space.high.astype(np.float64))
            self._slack = tuple(
                1e-5 * np.maximum(1.0, np.abs(np.where(np.isfinite(bound), bound, 0.0)))
                for bound in self._bounds
            )

    def observation(self, observation: Any) -> np.ndarray:
        """`observation` as an array of the announced shape, with finite values within bounds."""
        array = np.asarray(observation)
        if array.shape != self._shape:
            raise ValueError(f"{self._called} has shape {array.shape}; expected {self._shape}")
        if not np.can_cast(array.dtype, self._dtype, "same_kind"):
            raise ValueError(f"{self._called} is {array.dtype}; expected {self._dtype}")
        if self._bounds is None:
            return array
        low, high = self._bounds
        # NaN fails both comparisons; infinities pass where the bound is infinite.
        good = (array >= low - self._slack[0]) & (array <= high + self._slack[1])
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what overflows is not finite
                good &= np.isfinite(array.astype(np.float32, copy=False))
        if not good.all():
            at = tuple(int(i) for i in np.argwhere(~good)[0])
            is_finite = np.isfinite(array[at])
            is_huge = is_finite and low[at] <= array[at] <= high[at]
            expected = "finite float32" if is_huge else "finite value"
            raise (ValueError if is_finite else Diverged)(
                f"{self._called}{list(at) if at else ''} is {array[at]}; "
                f"expected a {expected} in [{low[at]:g}, {high[at]:g}]"
            )
        return array

    @staticmethod
    def reward(reward: Any) -> float:
        """`reward` as a finite float."""
        array = np.asarray(reward)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ValueError(f"reward is {reward!r}; expected one number")
        value = float(array.reshape(()))
        if not np.isfinite(value) or abs(value) > _FLOAT32_MAX:
            raise Diverged(f"reward is {value}; expected a finite float32")
        return value
