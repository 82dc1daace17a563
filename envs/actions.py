"""Actions: the numbers that an agent chooses from, and what the environment takes for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

_WRAP = (
    "wrap the environment in gymnasium.wrappers.TransformAction, in a function of yours that --env "
    "names as module:function"
)


class Actions(NamedTuple):
    """One environment's actions, from both sides."""

    space: gymnasium.Space[Any]
    """The agent's: Discrete(n) from 0, or a Box of shape (A,) within [-1, 1]."""
    names: tuple[str, ...]
    """What the actions of a Discrete space are called, from 0; empty for a Box."""
    own: Callable[[Any], Any]
    """From one action of the agent's to the environment's own: a number or an array."""
    agent: Callable[[Any], Any]
    """The way back; ValueError for an array of another size."""

    @property
    def bounds(self) -> tuple[Any, Any]:
        """The least and the greatest action, as the environment takes them: numbers, or arrays."""
        if self.names:
            return self.own(0), self.own(len(self.names) - 1)
        ones = np.ones(self.space.shape or ())
        return self.own(-ones), self.own(ones)


def actions(space: gymnasium.Space[Any], name: str) -> Actions:
    """How an agent acts on the environment `name`, whose own actions are `space`.

    A Box is scaled: -1 is its least value, 1 its greatest, and what lies beyond is clipped.
    Raises ValueError, in one line, for other spaces and for a Box without finite bounds.
    """
    if isinstance(space, spaces.Discrete):
        start, count = int(space.start), int(space.n)
        names = tuple(str(start + i) for i in range(count))
        ours: gymnasium.Space[Any] = spaces.Discrete(count)
        shifted = _Shifted(start)
        return Actions(ours, names, shifted.own, shifted.agent)
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        if not space.shape or 0 in space.shape:
            raise ValueError(
                f"actions of {name!r} have shape {space.shape}; expected one axis or more, none "
                f"of them empty, such as (1,): {_WRAP}"
            )
        _require_bounds(space, name)
        ours = spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32)
        scaled = _Scaled(space)
        return Actions(ours, (), scaled.own, scaled.agent)
    raise ValueError(f"actions of {name!r} are {space}; expected Discrete or a float Box: {_WRAP}")


class _Shifted:
    """Numbers from 0, and a Discrete's own, from its first."""

    def __init__(self, first: int) -> None:
        self.first = first

    def own(self, action: Any) -> int:
        return int(action) + self.first

    def agent(self, own: Any) -> Any:
        return own - self.first


class _Scaled:
    """Floats within [-1, 1] (A,), and a Box's own."""

    def __init__(self, space: spaces.Box) -> None:
        self.space = space
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.middle = self.low / 2 + self.high / 2  # the sum may overflow
        self.half = self.high / 2 - self.low / 2

    def own(self, action: Any) -> np.ndarray:
        space = self.space
        wide = self.middle + self.half * np.asarray(action, np.float64).reshape(space.shape)
        # rounding in the space's own type may step over a bound
        bounded = np.clip(wide, self.low, self.high).astype(space.dtype)
        return np.clip(bounded, space.low, space.high)

    def agent(self, own: Any) -> np.ndarray:
        given, space = np.asarray(own, np.float64), self.space
        if given.size != self.half.size:
            raise ValueError(f"the action has shape {given.shape}; expected {space.shape}")
        width = np.where(self.half == 0, 1, self.half)  # where there is nothing to choose
        return (((given.reshape(space.shape) - self.middle) / width).clip(-1, 1)).ravel()


def _require_bounds(space: spaces.Box, name: str) -> None:
    wrong = ~(np.isfinite(space.low) & np.isfinite(space.high))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"action{list(at)} of {name!r} lies in [{space.low[at]:g}, {space.high[at]:g}]; agents "
            f"need finite bounds: {_WRAP}"
        )
