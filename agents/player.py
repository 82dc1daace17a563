"""A trained agent, loaded from its run folder, that acts on an environment's raw observations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents import checkpoint, config
from agents.agent import Agent
from agents.build import build_agent, pick_device, restore
from agents.config import TrainConfig
from agents.loop import observation_field
from envs import make
from envs.actions import Actions
from envs.parts import by_name, one_hot
from envs.vector import VectorEnv
from replay import Field, Observation, PrioritizedReplay
from replay.types import Spec, longest_stack

CONSOLE = ((210, 160), (250, 160))
"""Heights and widths of the console's own pictures, NTSC and PAL."""


class Player:
    """One agent on one environment: keeps the frames that an observation is stacked from.

    `reset()` before each episode; then `act(observation)`, once a step, with what the environment
    returned. Frames are stacked as in training: an episode's first frame stands for the missing.

    spec      what the agent was trained on: one newest frame, or one of each part by name
    actions   the environment's, from both sides
    atari     takes the console's own pictures, too
    discrete  first value of each part that the environment gives as a Discrete; none by default
    """

    def __init__(
        self,
        agent: Agent,
        spec: Spec,
        actions: Actions,
        *,
        atari: bool = False,
        discrete: Mapping[str, int] | None = None,
    ) -> None:
        self.agent, self.spec, self.actions = agent, spec, actions
        self._atari, self._discrete = atari, discrete or {}
        self._memory = PrioritizedReplay(longest_stack(spec) + 2, spec, alpha=0.0)
        self._fresh = True
        self.seen: Observation
        """What the last action answers: (1, stack * C, H, W) or (1, D), of each part."""
        self.chosen: Any
        """That action as the agent has it: a number from 0, or (A,) floats in [-1, 1]."""

    @classmethod
    def of(cls, agent: Agent, env: VectorEnv) -> Player:
        """The player of an agent on what `env` shows and takes."""
        return cls(
            agent,
            observation_field(env),
            env.actions,
            discrete=env.discrete,
            atari=env.protocol is not None,
        )

    def reset(self) -> None:
        """Forget the frames of the episode that ended."""
        self._fresh = True

    def act(self, observation: Any, epsilon: float = 0.0) -> Any:
        """The action for a raw observation of the environment, greedy but for `epsilon`.

        As the environment takes it: a number, or an array within its bounds.

        Images may be (H, W), (H, W, C) or (C, H, W); a run on Atari takes the console's own
        picture too, (210, 160, 3) or (210, 160), though training sees the maximum of two of them.
        Where training saw parts by name, the observation is a dict of them, nested or by path.
        Raises ValueError, naming both shapes, for anything else.
        """
        if isinstance(observation, tuple) and isinstance(observation[-1], dict):
            raise ValueError(
                "the observation is all that reset() or step() returned; give the first of it alone"
            )
        self.seen = self._observe(observation)
        self.chosen = self.agent.act(self.seen, explore=False, epsilon=epsilon)[0]
        return self.actions.own(self.chosen)

    def _observe(self, observation: Any) -> Observation:
        frame = self._frame(observation)
        if self._fresh:
            self._memory.reset(frame)
            self._fresh = False
        else:
            self._memory.add(frame, [0], [0.0], [False], [False])
        return self._memory.latest()

    def _frame(self, observation: Any) -> Any:
        """What the memory takes for an observation: (1, *shape), of each part where it has any."""
        if isinstance(self.spec, Field):
            return self._to_frame(np.asarray(observation), self.spec)[None]
        found = {}
        for part, value in by_name(observation, list(self.spec)).items():
            field = self.spec[part]
            if part in self._discrete:
                called = f"observation[{part!r}]"
                found[part] = one_hot(value, self._discrete[part], field.shape[0], called)[None]
                continue
            found[part] = self._to_frame(np.asarray(value), field, f"[{part!r}]")[None]
        return found

    def _to_frame(self, array: np.ndarray, field: Field, part: str = "") -> np.ndarray:
        shape = field.shape
        if self._atari and array.shape != shape and array.shape[:2] in CONSOLE:
            array = _atari_frame(array, shape[1:])
        if array.shape != shape and len(shape) == 3:
            if array.shape == shape[1:] and shape[0] == 1:
                array = array[None]
            elif array.shape == (*shape[1:], shape[0]):
                array = array.transpose(2, 0, 1)
        if len(shape) == 1 and array.size == shape[0]:
            array = array.reshape(shape)
        if array.shape != shape:
            raise ValueError(
                f"the observation{part} has shape {array.shape}; this agent was trained on {shape}"
            )
        if field.dtype == "uint8" and array.dtype != np.uint8:
            raise ValueError(
                f"the observation{part} is {array.dtype}; this agent was trained on uint8"
            )
        frame = np.ascontiguousarray(array, dtype=field.dtype)
        if not np.isfinite(frame).all():
            raise ValueError(f"the observation{part} holds NaN or infinity; it must be finite")
        return frame


def load(folder: str | Path, device: str = "auto") -> Player:
    """The agent of a run folder, from its newest whole checkpoint, ready to act.

    Nothing is unpickled; a run on `package.module:Class` imports that module for its spaces, as
    training did. Raises FileNotFoundError for a folder that holds no run, and
    ValueError for a damaged, foreign or newer one.
    """
    chosen = config.load(Path(folder))
    env = make(chosen.env, seed=0, num_envs=1)
    try:
        agent, _ = load_agent(Path(folder), chosen, env, device)
        return Player.of(agent, env)
    finally:
        env.close()


def load_agent(
    folder: Path,
    chosen: TrainConfig,
    env: Any,
    device: str = "auto",
    note: Callable[[str], None] = warnings.warn,
) -> tuple[Agent, int]:
    """The agent of a run as its newest whole checkpoint holds it, and the steps it was trained for.

    `note` is told of each checkpoint that is passed over because it is damaged.
    """
    found = checkpoint.latest(folder, note, without=("replay",))
    agent = build_agent(chosen, env, chosen.run.seed, pick_device(device))
    state = checkpoint.load_tree(found / "state")
    restore(agent, state["agent"], found)
    return agent, state["step"]


def _atari_frame(picture: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A console picture as ALE's own preprocessing gives it: luminance, area averages."""
    import cv2

    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA))[None]
