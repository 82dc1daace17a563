"""What a checkpoint keeps beside the agent: its run's options, and what its environment was.

A run that goes on, or an agent that plays, under other ones would not be what was trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from agents import checkpoint
from agents.config import TrainConfig, lookup
from agents.errors import CheckpointError
from agents.loop import observation_field
from configs.loader import to_dict
from configs.run import RunConfig
from envs.config import EnvConfig
from envs.vector import VectorEnv
from replay.types import by_part

FREE = {*to_dict(RunConfig())} - {"seed"} | {"env_threads"}
"""Options that may differ when a run goes on: where it computes, and what it writes down."""
FREE_TO_PLAY = FREE | {"seed", "num_envs"}
"""Options that may differ when its agent plays."""


def kept(chosen: TrainConfig, env: VectorEnv) -> dict[str, Any]:
    """What `require_options` and `require_environment` hold a run to, fit for JSON."""
    options = {"algorithm": chosen.algorithm, **chosen.flat()}
    return {"options": options, "environment": described(env)}


def described(env: VectorEnv) -> dict[str, str]:
    """What an environment shows and takes, in words by name: shapes, types, bounds, first values.

    Of a Box each action has its bounds, a Discrete its first number and names.
    """
    found: dict[str, str] = {}
    for part, field in by_part(observation_field(env)).items():
        text = f"{field.dtype} {field.shape}, stack {field.stack}"
        if part in env.discrete:
            text += f", of {_told(env.discrete[part].space)}"
        found[f"observation[{part!r}]" if part else "the observation"] = text
    low, high = env.actions.bounds
    if names := env.actions.names:
        return {**found, "the action": f"{len(names)} choices from {low}: {', '.join(names)}"}
    found["the action"] = f"{low.dtype} {low.shape}"
    bounds = zip(low.ravel(), high.ravel(), strict=True)
    return found | {f"action[{i}]": f"within [{a:g}, {b:g}]" for i, (a, b) in enumerate(bounds)}


def _told(space: spaces.Space[Any]) -> str:
    """A space that is no Box of its own, by its kind, sizes and first values."""
    if isinstance(space, spaces.Tuple):
        return f"Tuple of {', '.join(map(_told, space.spaces))}"
    if isinstance(space, spaces.Box):
        return f"Box {space.shape}"
    sizes = [name for name in ("n", "nvec", "start") if hasattr(space, name)]
    told = [f"{name} {np.asarray(getattr(space, name)).tolist()}" for name in sizes]
    return " ".join([type(space).__name__, *told])


def require_options(
    state: Mapping[str, Any], chosen: TrainConfig, folder: Path, *, play: bool = False
) -> None:
    """CheckpointError where the config in `folder` isn't what its checkpoint was trained with.

    With `play` nothing is learned. A checkpoint of an older version keeps no options, and passes.
    """
    if "options" not in state:
        return
    agent = lookup(chosen.algorithm).config()
    # an option that came since was as its default is
    was = to_dict(EnvConfig()) | to_dict(agent) | state["options"]
    now = {"algorithm": chosen.algorithm, **chosen.flat()}
    for name in [name for name in now if name not in (FREE_TO_PLAY if play else FREE)]:
        if was.get(name) != now[name]:
            raise CheckpointError(
                f"{folder} was trained with {name} {was.get(name)!r}, and its config.yaml says "
                f"{now[name]!r}: set it back, or start a new run"
            )


def require_environment(state: Mapping[str, Any], env: VectorEnv, folder: Path) -> None:
    """CheckpointError where `env` shows or takes something else than what was trained on."""
    now = described(env)
    was = state.get("environment", now)  # a checkpoint of an older version keeps none
    for name in {**was, **now}:
        if was.get(name) != now.get(name):
            raise CheckpointError(
                f"the environment has changed since {folder} was trained: {name} was "
                f"{was.get(name, 'not there')}, and is {now.get(name, 'not there')} now; set it "
                "back, or start a new run"
            )


def save_best(run_dir: Path, state: Mapping[str, Any]) -> None:
    """Make an agent's state the run's best, in place of the one before; raises as a checkpoint's
    save does."""

    def write(folder: Path) -> None:
        checkpoint.save_tree(folder / "state", state)

    checkpoint.save(run_dir, state["step"], write, keep=1, among=checkpoint.BEST)


def best_score(run_dir: Path) -> float:
    """The score of the run's best agent; -inf where there is none that is whole."""
    try:
        found = checkpoint.latest(run_dir, among=checkpoint.BEST)
        return float(checkpoint.load_tree(found / "state")["score"])
    except (FileNotFoundError, CheckpointError):
        return -math.inf
