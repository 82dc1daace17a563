"""The contract of a vector environment: lanes stepped together, newest frames only.

Autoreset is NEXT_STEP. The step that ends an episode returns its true final frame; the next step
of that lane ignores its action and returns the first frame of a new episode, with reward 0. A
consumer follows one rule: the transition out of a frame that came with `terminated` or `truncated`
is never learned from. A life lost in Atari follows the same rule, though its game goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np

from envs.actions import Actions
from envs.protocol import Protocol as AtariProtocol

Frame = np.ndarray | dict[str, np.ndarray]
"""Newest frames (N, *shape) of one part, or of each part by name."""


_LONGEST = 200
"""Characters of what others say in an error, at most."""
_IN_THREADS = ("main thread", "in thread 'envs")
"""What libraries say that work in Python's first thread alone: signal, asyncio, Tk."""


def told(error: BaseException) -> str:
    """What went wrong in one printable line: the error's type, and what it says, cut where long."""
    plain = " ".join(str(error).split())
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)
    hint = any(text in plain for text in _IN_THREADS)
    if len(plain) > _LONGEST:
        plain = plain[: _LONGEST - 3].rstrip() + "..."
    plain += " (environments are made and stepped in a thread of their own)" * hint
    return f"{type(error).__name__}: {plain}" if plain else type(error).__name__


class EnvFault(RuntimeError):
    """An environment broke its promises while it ran; the message names lane, value, bounds."""


class Diverged(ValueError):
    """A simulation became unstable, or an observation or a reward is not finite."""


class Drop(NamedTuple):
    """An episode that was given up because its simulation diverged."""

    lane: int
    """Which environment played it, in [0, num_envs); it stands at a new episode's first frame."""
    reason: str
    """What was wrong, in one line."""


class Episode(NamedTuple):
    """A whole episode that ended: a true game, whatever learning takes for an episode."""

    lane: int
    """Which environment played it, in [0, num_envs)."""
    score: float
    """Sum of its rewards, neither clipped nor discounted."""
    length: int
    """Agent steps that it took."""


class Step(NamedTuple):
    """What one step of every lane returned."""

    frame: Frame
    """(num_envs, *frame_space.shape), by part where there are several: newest frames; the env's
    own, valid until the next recv."""
    reward: np.ndarray
    """(num_envs,) float32: what is learned from, clipped where the protocol clips."""
    terminated: np.ndarray
    """(num_envs,) bool: no value beyond this frame; in training, a lost life where so agreed."""
    truncated: np.ndarray
    """(num_envs,) bool: cut off by a limit; this is the true final frame, to bootstrap from."""
    episodes: tuple[Episode, ...]
    """Whole episodes that ended in this step."""
    dropped: tuple[Drop, ...] = ()
    """Episodes that were given up: nothing in this step of their lanes may be learned from."""


class Coded(NamedTuple):
    """A part of observations that isn't a Box, such as a Discrete, and becomes a vector."""

    space: gymnasium.Space[Any]
    """The environment's own."""
    read: Callable[[Any], np.ndarray]
    """From a value to its frame, (D,) float32; ValueError for one that the space doesn't hold."""


class VectorEnv(Protocol):
    """Several copies of one environment, stepped together while the caller does other work."""

    num_envs: int
    """Lanes."""
    frame_space: gymnasium.spaces.Box | gymnasium.spaces.Dict
    """One newest frame: images always (C, H, W), vectors (D,); a flat Dict of several parts."""
    stack: int | dict[str, int]
    """Frames that make an observation, by part of a Dict; stacking is the replay's work."""
    discrete: dict[str, Coded]
    """Each part that the environment doesn't give as a Box, by name; "" is the only part."""
    actions: Actions
    """One lane's, as agents see them and as the environment itself takes them."""
    protocol: AtariProtocol | None
    """The Atari protocol, None elsewhere."""
    frame_rate: float
    """Agent steps to a second of the environment's own time."""
    episode_limit: int
    """Agent steps after which episodes are cut off beyond the environment's rules; 0 never."""
    dropped: int
    """Episodes that were given up so far, in all lanes."""

    def reset(self) -> Frame:
        """Start every lane anew, from the seed given to `make`; returns the first frames."""
        ...

    def send(self, action: np.ndarray) -> None:
        """Start a step with (num_envs,) integers or (num_envs, *shape) floats; returns at once."""
        ...

    def recv(self) -> Step:
        """Wait for the step that was sent. Raises EnvFault where an environment misbehaved."""
        ...

    def render(self) -> np.ndarray:
        """Picture of lane 0 as it stands, (H, W, 3) uint8; only if made with `render=True`."""
        ...

    def get_state(self) -> dict[str, Any] | None:
        """Exact state, fit for JSON, between a recv and a send; None where an env has none."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` stood, in place of `reset`."""
        ...

    def close(self) -> None:
        """Free threads and memory; closing twice is no error."""
        ...


class Scores:
    """Sums rewards and steps of each lane's true episodes."""

    def __init__(self, num_envs: int) -> None:
        self.score = np.zeros(num_envs, np.float64)
        self.length = np.zeros(num_envs, np.int64)
        self.over = np.zeros(num_envs, bool)
        """(num_envs,): the last step ended the episode, so the next one only resets."""

    def reset(self) -> None:
        """Forget everything."""
        self.score[:] = 0
        self.length[:] = 0
        self.over[:] = False

    def add(self, reward: np.ndarray, over: np.ndarray) -> tuple[Episode, ...]:
        """Add a step of every lane; returns the episodes that `over` ends."""
        self.score += reward
        self.length += ~self.over
        ended = tuple(
            Episode(int(lane), float(self.score[lane]), int(self.length[lane]))
            for lane in np.flatnonzero(over)
        )
        self.score[over] = 0
        self.length[over] = 0
        self.over = over
        return ended

    def drop(self, lane: int) -> None:
        """Forget a lane's episode; it stands at a new one's first frame."""
        self.score[lane], self.length[lane], self.over[lane] = 0, 0, False


class Turns:
    """Keeps reset, send and recv in order, so that a slip is an error and not a deadlock."""

    def __init__(self) -> None:
        self._ready = False
        self._sent = False
        self.closed = False

    def reset(self) -> None:
        """Before a reset or a set_state."""
        self._open()
        if self._sent:
            raise RuntimeError("reset() before recv(): a step is under way; receive it first")
        self._ready = True

    def send(self) -> None:
        """Before a send."""
        self._open()
        if not self._ready:
            raise RuntimeError("send() before reset(): the environments have not started")
        if self._sent:
            raise RuntimeError("send() twice: a step is under way; receive it first")
        self._sent = True

    def recv(self) -> None:
        """Before a recv."""
        self._open()
        if not self._sent:
            raise RuntimeError("recv() without send(): no step is under way")
        self._sent = False

    def rest(self) -> None:
        """Before anything that needs a lane that stands still: render, get_state."""
        self._open()
        if not self._ready:
            raise RuntimeError("reset() the environments first")
        if self._sent:
            raise RuntimeError("a step is under way; receive it first")

    def close(self) -> bool:
        """Whether a step is still under way; nothing but another close may follow."""
        under_way, self._sent, self.closed = self._sent, False, True
        return under_way

    def _open(self) -> None:
        if self.closed:
            raise RuntimeError("these environments were closed")


def lane_seeds(seed: int, num_envs: int) -> list[int]:
    """Distinct seeds in [0, 2^31), one a lane; a lane's seed does not depend on their number."""
    drawn = np.random.SeedSequence(seed).generate_state(2 * num_envs + 8, np.uint32) >> 1
    return list(dict.fromkeys(drawn.tolist()))[:num_envs]


def check_action(action: np.ndarray, space: gymnasium.Space[Any], num_envs: int) -> np.ndarray:
    """`action` as int64 (num_envs,) or float32 (num_envs, *shape); ValueError if it does not fit.

    Floats beyond [-1, 1] are clipped where they are scaled to the environment's; NaN is an error.
    """
    action = np.asarray(action)
    if isinstance(space, gymnasium.spaces.Discrete):
        if action.shape != (num_envs,) or action.dtype.kind not in "iu":
            raise ValueError(
                f"actions are {action.dtype} of shape {action.shape}; "
                f"expected integers of shape ({num_envs},)"
            )
        wrong = (action < 0) | (action >= space.n)
        if wrong.any():
            lane = int(wrong.argmax())
            raise ValueError(f"action {action[lane]} of lane {lane} is outside [0, {space.n - 1}]")
        return action.astype(np.int64)
    shape = (num_envs, *(space.shape or ()))
    if action.shape != shape or action.dtype.kind not in "iuf":
        raise ValueError(
            f"actions are {action.dtype} of shape {action.shape}; expected floats of shape {shape}"
        )
    wrong = ~np.isfinite(action)
    if wrong.any():
        lane = int(np.argwhere(wrong)[0][0])
        raise ValueError(f"the action of lane {lane} holds a value that is not finite")
    return action.astype(np.float32)
