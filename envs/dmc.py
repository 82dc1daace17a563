"""dm_control's suite as Gymnasium environments: `dmc/cartpole-swingup`."""

from __future__ import annotations

import difflib
import importlib.util
import os
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import physics
from envs.args import require
from envs.find import failed, install
from envs.simulator import import_mujoco
from envs.vector import Diverged


class Task(gymnasium.Env[np.ndarray, np.ndarray]):
    """One task of dm_control's suite; its observations are put into one vector, in their order.

    An episode that reaches its time limit, 1,000 steps as a rule, is truncated. `args` are the
    task's own, such as time_limit; ValueError for one that it doesn't take.
    """

    def __init__(self, domain: str, task: str, args: dict[str, Any] | None = None) -> None:
        path, args, found = f"dmc/{domain}-{task}", args or {}, suite()
        require(path, getattr(found, domain).SUITE[task], args)
        try:
            self._env = found.load(domain, task, task_kwargs=args)
        except Exception as error:
            raise failed("environment", path, error) from error
        self._plain = physics.plain(self.model)
        self._drawn = domain == "lqr"  # each of its models is drawn anew, as no seed repeats
        spec = self._env.action_spec()
        self.action_space = spaces.Box(
            np.broadcast_to(spec.minimum, spec.shape).astype(np.float64),
            np.broadcast_to(spec.maximum, spec.shape).astype(np.float64),
            dtype=np.float64,
        )
        shapes = [part.shape for part in self._env.observation_spec().values()]
        size = sum(int(np.prod(shape)) for shape in shapes)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.metadata = {"render_fps": round(1 / self._env.control_timestep())}

    @property
    def model(self) -> Any:
        """MuJoCo's MjModel."""
        return self._env.physics.model.ptr

    @property
    def data(self) -> Any:
        """MuJoCo's MjData."""
        return self._env.physics.data.ptr

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:  # the suite's tasks draw from a RandomState of their own
            self._env.task._random = np.random.RandomState(seed)
        return _vector(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        from dm_control.rl.control import PhysicsError

        try:
            step = self._env.step(action)
        except PhysicsError as error:
            raise Diverged(" ".join(str(error).split())) from error
        over = step.last()
        # at the time limit the suite leaves the discount at 1
        terminated = over and step.discount == 0.0
        return (
            _vector(step.observation),
            float(step.reward or 0.0),
            terminated,
            over and not terminated,
            {},
        )

    def get_state(self) -> dict[str, Any] | None:
        """Simulation, task, and what the task has altered in the model; None for lqr's."""
        if self._drawn:
            return None
        random = self._env.task._random.get_state(legacy=False)
        key = random["state"]["key"].tolist()
        return {
            "physics": physics.pack(self.model, self.data, self._plain),
            "steps": self._env._step_count,
            "over": self._env._reset_next_step,
            "random": {**random, "state": {**random["state"], "key": key}},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` stood, after a reset."""
        physics.unpack(self.model, self.data, state["physics"])
        self._env._step_count, self._env._reset_next_step = state["steps"], state["over"]
        self._env.task._random.set_state(state["random"])

    def close(self) -> None:
        self._env.close()


def _vector(observation: Any) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float64)


def installed() -> bool:
    """Whether dm_control is there to be imported."""
    return importlib.util.find_spec("dm_control") is not None


def tasks() -> list[str]:
    """Names of all tasks, such as cartpole-swingup. Raises as `suite`."""
    return [f"{domain}-{task}" for domain, task in suite().ALL_TASKS]


def find(name: str) -> str:
    """A task's name as `tasks` has it; underscores will do for its hyphen.

    Raises ValueError, naming the nearest, for what is none.
    """
    known = {task.replace("-", "_").lower(): task for task in tasks()}
    plain = name.replace("-", "_").lower()
    if plain in known:
        return known[plain]
    near = difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
    hint = "the nearest: " + ", ".join(f"dmc/{known[match]}" for match in near)
    hint = hint if near else "expected a task such as dmc/cartpole-swingup: agents list envs"
    raise ValueError(f"unknown environment 'dmc/{name}'; {hint}")


def suite() -> Any:
    """dm_control's suite; ImportError, in one line, where it is missing or doesn't run."""
    if not installed():
        raise ImportError(f"environments dmc/... need dm_control: {install('dmc')}")
    import_mujoco()
    try:
        with warnings.catch_warnings():  # it looks for a screen, and says that there is none
            warnings.simplefilter("ignore")
            from dm_control import suite as found
    except Exception as error:
        from importlib.metadata import version

        hint = "mujoco 4 is known to break it: pip install 'mujoco<4'"
        if asked := os.environ.get("MUJOCO_GL"):
            hint = f"MUJOCO_GL is {asked!r}: unset it; {hint}"
        raise ImportError(
            f"dm_control {version('dm_control')} doesn't run with mujoco {version('mujoco')} "
            f"({type(error).__name__}: {error}); {hint}"
        ) from error
    return found
