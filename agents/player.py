"""A trained agent, loaded from its run folder, that acts on an environment's raw observations."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import checkpoint, config
from agents.agent import Agent
from agents.build import build_agent, pick_device, restore
from agents.config import TrainConfig
from agents.kept import require_environment, require_options
from agents.loop import observation_field
from envs import make
from envs.actions import Actions
from envs.parts import by_name
from envs.vector import Coded, VectorEnv
from replay import Field, Observation
from replay.types import Spec, by_part, longest_stack

CONSOLE = ((210, 160), (250, 160))
"""Heights and widths of the console's own pictures, NTSC and PAL."""


class Player:
    """One agent on one environment: keeps the frames that an observation is stacked from.

    `reset()` before each episode; then `act(observation)`, once a step, with what the environment
    returned. Frames are stacked as in training: an episode's first frame stands for the missing.

    spec      what the agent was trained on: one newest frame, or one of each part by name
    actions   the environment's, from both sides
    atari     takes the console's own pictures, too
    discrete  the parts that the environment doesn't give as a Box; none by default
    """

    def __init__(
        self,
        agent: Agent,
        spec: Spec,
        actions: Actions,
        *,
        atari: bool = False,
        discrete: Mapping[str, Coded] | None = None,
    ) -> None:
        self.agent, self.spec, self.actions = agent, spec, actions
        self._fields = by_part(spec)
        self._atari, self._discrete = atari, discrete or {}
        self._frames: deque[dict[str, np.ndarray]] = deque(maxlen=longest_stack(spec))
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
        self._frames.clear()

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

    def values(self, observation: Any) -> np.ndarray:
        """Values float32 of a raw observation, as `act` takes it: (A,) of all discrete actions, or
        (1,) of what a policy of continuous ones does.

        Asking leaves the episode as it is, before `act` and after it: an observation equal to the
        one last acted on is taken for it, another for the one that follows.
        """
        frames, newest = deque(self._frames, self._frames.maxlen), self._frame(observation)
        if not (frames and all(np.array_equal(newest[n], frames[-1][n]) for n in newest)):
            frames.append(newest)
        return self.agent.values(self._stacked(frames))[0].cpu().numpy()

    def _observe(self, observation: Any) -> Observation:
        self._frames.append(self._frame(observation))
        return self._stacked(self._frames)

    def _stacked(self, frames: Sequence[dict[str, np.ndarray]]) -> Observation:
        """What the agent sees of an episode's newest frames, the first of it for the missing."""
        found = {}
        for name, field in self._fields.items():
            first = [frames[0][name]] * (field.stack - len(frames))
            newest = [frame[name] for frame in frames][-field.stack :]
            found[name] = torch.from_numpy(np.concatenate([*first, *newest])[None])
        return found[""] if isinstance(self.spec, Field) else found

    def _frame(self, observation: Any) -> dict[str, np.ndarray]:
        """An observation's frames (*shape) by part; the only one's name is empty."""
        only = isinstance(self.spec, Field)
        parts = {"": observation} if only else by_name(observation, list(self._fields))
        return {name: self._to_frame(parts[name], self._fields[name], name) for name in parts}

    def _to_frame(self, value: Any, field: Field, name: str) -> np.ndarray:
        if name in self._discrete:
            return self._discrete[name].read(value).astype(field.dtype, copy=False)
        array, part, shape = np.asarray(value), f"[{name!r}]" if name else "", field.shape
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
        frame = np.array(array, dtype=field.dtype, order="C")  # environments reuse theirs
        if not np.isfinite(frame).all():
            raise ValueError(f"the observation{part} holds NaN or infinity; it must be finite")
        return frame


def load(folder: str | Path, device: str = "auto", *, best: bool = False) -> Player:
    """The agent of a run folder, from its newest whole checkpoint, ready to act.

    best  takes the agent of the run's best evaluation so far instead

    Nothing is unpickled; a run on `package.module:Class` imports that module for its spaces, as
    training did. Raises FileNotFoundError for a folder that holds no run, or no best agent, and
    ValueError for a damaged, foreign or newer one, and where the run's config or the environment's
    spaces are not what it was trained with.
    """
    chosen = config.load(Path(folder))
    env = make(chosen.env, seed=0, num_envs=1)
    try:
        agent, _ = load_agent(Path(folder), chosen, env, device, best=best)
        return Player.of(agent, env)
    finally:
        env.close()


def load_agent(
    folder: Path,
    chosen: TrainConfig,
    env: Any,
    device: str = "auto",
    note: Callable[[str], None] = warnings.warn,
    *,
    best: bool = False,
) -> tuple[Agent, int]:
    """The agent of a run as its newest whole checkpoint holds it, and the steps it was trained for.

    note  is told of each checkpoint that is passed over because it is damaged
    best  takes the agent of the run's best evaluation instead
    """
    among = checkpoint.BEST if best else checkpoint.FOLDER
    found = checkpoint.latest(folder, note, without=("replay",), among=among)
    state = checkpoint.load_tree(found / "state")
    require_options(state, chosen, folder, play=True)
    require_environment(state, env, folder)
    agent = build_agent(chosen, env, chosen.run.seed, pick_device(device))
    restore(agent, state["agent"], found)
    return agent, state["step"]


def _atari_frame(picture: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A console picture as ALE's own preprocessing gives it: luminance, area averages."""
    import cv2

    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA))[None]
