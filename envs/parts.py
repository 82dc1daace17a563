"""Observations of one part, or of several by name: checked, and turned into frames.

The parts of a `spaces.Dict` are taken in the order of their names, and those of a Dict within it
are called by their path: {"arm": {"camera": ...}} has the part "arm/camera". Each part is an image
or a vector by the rules of `envs.layout`; a Discrete part becomes a vector, one-hot.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.layout import Checker, layout
from envs.vector import Frame

_LONE = ""  # what the only part of an observation without names is called here


class _Reader(Protocol):
    """One part of an observation."""

    frame: spaces.Box

    def read(self, value: Any) -> np.ndarray:
        """A frame of a value; ValueError for one that the space doesn't hold."""


class _Array:
    """A Box, as `envs.layout` shows it."""

    def __init__(self, space: gymnasium.Space[Any], name: str, part: str) -> None:
        self._layout = layout(space, name, part)
        self.frame: spaces.Box = self._layout.frame
        self._check = Checker(self._layout.source, _called(part))

    def read(self, value: Any) -> np.ndarray:
        return self._layout.convert(self._check.observation(value))


class _OneHot:
    """A Discrete, as a vector that is 1 at its value and 0 elsewhere."""

    def __init__(self, space: spaces.Discrete, part: str) -> None:
        self.first, self._count = int(space.start), int(space.n)
        self._part = part
        self.frame: spaces.Box = spaces.Box(0, 1, (self._count,), np.float32)

    def read(self, value: Any) -> np.ndarray:
        return one_hot(value, self.first, self._count, _called(self._part))


class Parts:
    """How one environment's observations become frames.

    space     of one frame: a Box, or a Dict of them in the order of their names
    discrete  first value of each part that is a Discrete, by name
    Raises ValueError, in one line, for a space that holds anything but images, vectors and, in a
    Dict, Discrete parts.
    """

    def __init__(self, space: gymnasium.Space[Any], name: str) -> None:
        self._readers: dict[str, _Reader] = {}
        self.discrete: dict[str, int] = {}
        self.space: spaces.Box | spaces.Dict
        if not isinstance(space, spaces.Dict):
            self._readers[_LONE] = lone = _Array(space, name, _LONE)
            self.space = lone.frame
            return
        for part, own in sorted(leaves(space, name), key=lambda leaf: leaf[0]):
            if part in self._readers:
                raise ValueError(f"observations of {name!r} have two parts called {part!r}")
            if isinstance(own, spaces.Discrete):
                reader = _OneHot(own, part)
                self._readers[part], self.discrete[part] = reader, reader.first
            else:
                self._readers[part] = _Array(own, name, part)
        if not self._readers:
            raise ValueError(f"observations of {name!r} are a Dict without parts")
        self.space = spaces.Dict({part: reader.frame for part, reader in self._readers.items()})

    def stack(self, asked: int) -> int | dict[str, int]:
        """Frames to an observation, of each part: as asked, or for 0, 4 of images, 1 of vectors."""
        found = {
            part: asked or (4 if len(reader.frame.shape) == 3 else 1)
            for part, reader in self._readers.items()
        }
        return found.get(_LONE, found)

    def blank(self, count: int) -> dict[str, np.ndarray]:
        """Room for `count` frames of each part, for `write`."""
        return {
            part: np.zeros((count, *reader.frame.shape), reader.frame.dtype)
            for part, reader in self._readers.items()
        }

    def write(self, observation: Any, room: dict[str, np.ndarray], at: int) -> None:
        """Put an observation's frames into `room`; ValueError names what doesn't fit its space."""
        for part, value in self._values(observation).items():
            room[part][at] = self._readers[part].read(value)

    def read(self, observation: Any) -> Frame:
        """One observation's frame, each part in the announced shape; ValueError as in `write`."""
        values = self._values(observation)
        return self.plain({part: self._readers[part].read(v) for part, v in values.items()})

    def plain(self, frames: dict[str, np.ndarray]) -> Frame:
        """Frames as others see them: what has no name goes without."""
        return frames[_LONE] if _LONE in self._readers else frames

    def _values(self, observation: Any) -> dict[str, Any]:
        if _LONE in self._readers:
            return {_LONE: observation}
        return by_name(observation, list(self._readers))


def by_name(observation: Any, names: list[str]) -> dict[str, Any]:
    """The parts of a (nested) dict, by path; ValueError where they are not exactly `names`."""
    if not isinstance(observation, Mapping):
        raise ValueError(
            f"observation is {type(observation).__name__}; expected a dict of {', '.join(names)}"
        )
    found = dict(_flat(observation))
    for part in found:
        if part not in names:
            near = difflib.get_close_matches(part, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(names)}"
            raise ValueError(f"observation holds {part!r}, which its space doesn't; {hint}")
    for part in names:
        if part not in found:
            raise ValueError(f"observation lacks {part!r}; expected {', '.join(names)}")
    return {part: found[part] for part in names}


def one_hot(value: Any, first: int, count: int, called: str = "observation") -> np.ndarray:
    """(count,) float32, 1 at an integer in [first, first + count); ValueError for another value."""
    array = np.asarray(value)
    whole = array.size == 1 and array.dtype.kind in "iu"
    index = int(array.reshape(())) - first if whole else -1
    if not 0 <= index < count:
        raise ValueError(
            f"{called} is {value!r}; expected a whole number in [{first}, {first + count - 1}]"
        )
    vector = np.zeros(count, np.float32)
    vector[index] = 1
    return vector


def _called(part: str) -> str:
    return f"observation[{part!r}]" if part else "observation"


def leaves(
    space: spaces.Dict, name: str, path: str = ""
) -> Iterator[tuple[str, gymnasium.Space[Any]]]:
    """Path and space of each part of a Dict; ValueError for a name that isn't text."""
    for key, own in space.spaces.items():
        if not isinstance(key, str) or not key:
            raise ValueError(
                f"observations of {name!r} have a part called {key!r}; name it in text"
            )
        if isinstance(own, spaces.Dict):
            yield from leaves(own, name, f"{path}{key}/")
        else:
            yield path + key, own


def _flat(observation: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in observation.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value
