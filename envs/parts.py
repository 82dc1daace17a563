"""Observations of one part, or of several by name: checked, and turned into frames.

The parts of a `spaces.Dict` are taken in the order of their names, and those of a Dict within it
are called by their path: {"arm": {"camera": ...}} has the part "arm/camera". Each part is an image
or a vector by the rules of `envs.layout`. Discrete and MultiDiscrete parts become vectors, one-hot,
and a Tuple of vectors becomes one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.layout import Checker, layout
from envs.vector import Coded, Frame

_WIDEST = 2**16  # of a one-hot vector
_LONE = ""  # what the only part of an observation without names is called here


class _Reader(Protocol):
    """One part of an observation."""

    frame: spaces.Box

    def read(self, value: Any) -> np.ndarray:
        """A frame of a value; ValueError for one that the space doesn't hold."""


class _Array:
    """A Box or a MultiBinary, as `envs.layout` shows it."""

    def __init__(self, space: gymnasium.Space[Any], name: str, part: str) -> None:
        self._layout = layout(space, name, part)
        self.frame: spaces.Box = self._layout.frame
        self._check = Checker(self._layout.source, _called(part))

    def read(self, value: Any) -> np.ndarray:
        return self._layout.convert(self._check.observation(value))


class _OneHot:
    """A Discrete or MultiDiscrete: for each number a stretch, 1 at its value and 0 elsewhere."""

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete, name: str, part: str) -> None:
        counts = space.n if isinstance(space, spaces.Discrete) else space.nvec
        self._counts = np.ravel(counts).astype(np.int64)
        if self._counts.sum() > _WIDEST:
            raise ValueError(
                f"observations{f'[{part!r}]' if part else ''} of {name!r} are {space}; one-hot, a "
                f"vector of at most {_WIDEST:,} is expected: wrap the environment in "
                "gymnasium.wrappers.TransformObservation"
            )
        self._first = np.ravel(space.start).astype(np.int64)
        self._begin = np.cumsum(self._counts) - self._counts
        self._called = _called(part)
        self.frame: spaces.Box = spaces.Box(0, 1, (int(self._counts.sum()),), np.float32)

    def read(self, value: Any) -> np.ndarray:
        array, many = np.asarray(value), len(self._first)
        if array.size != many or array.dtype.kind not in "iu":
            low, high = self._first[0], self._first[0] + self._counts[0] - 1
            expected = f"{many} whole numbers" if many > 1 else f"a whole number in [{low}, {high}]"
            raise ValueError(f"{self._called} is {value!r}; expected {expected}")
        index = array.ravel().astype(np.int64) - self._first
        for at in np.flatnonzero((index < 0) | (index >= self._counts)):
            low, high = self._first[at], self._first[at] + self._counts[at] - 1
            which = f"[{at}]" if many > 1 else ""
            raise ValueError(
                f"{self._called}{which} is {array.flat[at]}; expected a whole number in "
                f"[{low}, {high}]"
            )
        vector = np.zeros(self.frame.shape, np.float32)
        vector[self._begin + index] = 1
        return vector


class _Joined:
    """A Tuple of what becomes vectors, as one."""

    def __init__(self, space: spaces.Tuple, name: str, part: str) -> None:
        path = f"{part}/" if part else ""
        self._readers = [_reader(own, name, f"{path}{i}") for i, own in enumerate(space.spaces)]
        self._called = _called(part)
        frames = [reader.frame for reader in self._readers]
        if not frames or any(len(frame.shape) != 1 for frame in frames):
            layout(space, name, part)  # says no
        low, high = (np.concatenate([getattr(f, end) for f in frames]) for end in ("low", "high"))
        self.frame: spaces.Box = spaces.Box(low, high, dtype=np.float32)

    def read(self, value: Any) -> np.ndarray:
        count = len(self._readers)
        if not isinstance(value, tuple | list | np.ndarray) or len(value) != count:
            raise ValueError(f"{self._called} is {value!r}; expected a tuple of {count}")
        return np.concatenate([r.read(v) for r, v in zip(self._readers, value, strict=True)])


def _reader(space: gymnasium.Space[Any], name: str, part: str) -> _Reader:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return _OneHot(space, name, part)
    if isinstance(space, spaces.Tuple):
        return _Joined(space, name, part)
    return _Array(space, name, part)


class Parts:
    """How one environment's observations become frames.

    name      the environment's
    space     of one frame: a Box, or a Dict of them in the order of their names
    discrete  each part that isn't a Box, by name; "" is the only part
    Raises ValueError, in one line, for a space that holds anything but images, vectors, and what
    becomes vectors.
    """

    def __init__(self, space: gymnasium.Space[Any], name: str) -> None:
        self.name = name
        self._readers: dict[str, _Reader] = {}
        self.discrete: dict[str, Coded] = {}
        self.space: spaces.Box | spaces.Dict
        found = [(_LONE, space)]
        if isinstance(space, spaces.Dict):
            found = sorted(leaves(space, name), key=itemgetter(0))
        for part, own in found:
            if part in self._readers:
                raise ValueError(f"observations of {name!r} have two parts called {part!r}")
            self._readers[part] = _reader(own, name, part)
            if not isinstance(own, spaces.Box):
                self.discrete[part] = Coded(own, self._readers[part].read)
        if not isinstance(space, spaces.Dict):
            self.space = self._readers[_LONE].frame
            return
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
