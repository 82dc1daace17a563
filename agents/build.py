"""From a config to what a run is put together of: the agent and the replay, on their devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import torch

from agents.agent import Agent
from agents.config import ALGORITHMS, TrainConfig, lookup
from agents.errors import CheckpointError
from agents.loop import action_field, observation_field, shows_images
from envs.vector import VectorEnv
from replay import FeatureReplay, PrioritizedReplay
from replay.device import reason
from replay.types import stacked_shape


def build_agent(
    chosen: TrainConfig,
    env: VectorEnv,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    pretrained: bool = False,
) -> Agent:
    """The agent of a config for what `env` shows and takes; ValueError where it can't learn it.

    Its encoder's weights are read from their file if `pretrained`: an agent that a checkpoint
    follows needs none.
    """
    space: Any = env.actions.space
    continuous = not isinstance(space, gymnasium.spaces.Discrete)
    require_actions(chosen.algorithm, chosen.env.env, continuous, space)
    size = int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else int(space.shape[0])
    shape = stacked_shape(observation_field(env))
    module, _, name = lookup(chosen.algorithm).agent.partition(":")
    build = getattr(import_module(module), name)
    try:
        agent: Agent = build(
            chosen.agent,
            shape,
            size,
            device=device,
            seed=seed,
            pretrained=pretrained,
            graphs=chosen.run.graphs,
        )
        return agent
    except RuntimeError as error:  # torch's out-of-memory errors; the CPU's has no type of its own
        if "memory" not in str(error):
            raise
        raise MemoryError(
            f"the networks don't fit in the memory of {device}: hidden is {chosen.agent.hidden}, "
            f"encoder_width {chosen.agent.encoder_width:g}, observations are {shape}"
        ) from None


def require_actions(algorithm: str, env: str, continuous: bool, taken: object) -> None:
    """ValueError, naming the algorithm to use, where the env's actions are of the other kind."""
    wanted = lookup(algorithm).continuous
    if continuous == wanted:
        return
    others = [name for name, other in ALGORITHMS.items() if other.continuous == continuous]
    raise ValueError(
        f"{algorithm} needs {'continuous' if wanted else 'discrete'} actions and {env} takes "
        f"{taken}; use {' or '.join(others)}: agents train {others[0]} --env {env}"
    )


def build_replay(
    chosen: TrainConfig, env: VectorEnv, agent: Agent, seed: int, notes: list[str]
) -> PrioritizedReplay:
    """The replay on the device asked for; `notes` tells where `auto` had to turn to the CPU.

    Raises ValueError for a device that isn't there, MemoryError where the capacity doesn't fit.
    """
    kind: Callable[..., PrioritizedReplay] = PrioritizedReplay
    if chosen.agent.encoder_cache:
        if not shows_images(env):
            raise ValueError(
                f"encoder_cache keeps features of images, and {chosen.env.env!r} shows vectors"
            )
        kind = partial(FeatureReplay, encode=agent.encode)
    build = partial(
        kind,
        chosen.agent.replay_capacity,
        observation_field(env),
        action_field(env),
        lanes=env.num_envs,
        n_step=chosen.agent.n_step,
        gamma=chosen.agent.gamma,
        alpha=chosen.agent.priority_alpha,
        prioritization=chosen.agent.prioritization,
        weights=chosen.agent.priority_weights,
        seed=seed,
    )
    where = chosen.run.replay_device
    if where != "auto":
        device = pick_device(where, "replay_device")
        if device.type == "cuda" and agent.device.type != "cuda":
            raise ValueError(
                f"replay_device is cuda, and the networks live on the {agent.device}; use auto"
            )
        return build(device=device)
    try:
        return build(device=agent.device)
    except MemoryError as error:
        if agent.device.type == "cpu":
            raise
        notes.append(f"the replay lives in the CPU's memory: {error}")
        return build(device="cpu")


def compile_agent(agent: Agent) -> None:
    """Have torch compile the agent's updates; ValueError where it can't compile here."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2, device=agent.device))
    except Exception as error:  # noqa: BLE001 (compilers fail in ways of their own)
        raise ValueError(
            f"compile is on, and torch can't compile for the {agent.device} here "
            f"({reason(error)}): install a C++ compiler (g++), or turn it off by --no-compile"
        ) from None
    agent.compile()


def pick_device(name: str, option: str = "device") -> torch.device:
    """auto, or a device of torch's; ValueError for what is none, and for cuda that isn't there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option} is cuda, and torch sees no CUDA GPU here; use cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"{option} is {name!r}; it must be auto, cpu or cuda") from None


def restore(agent: Agent, state: dict[str, Any], source: Path) -> None:
    """Load an agent's state; CheckpointError where it belongs to another network."""
    here, there = agent.state_dict()["online"], state["online"]
    for name in [*here, *there]:
        shapes = [tuple(x[name].shape) if name in x else "absent" for x in (there, here)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{source} does not fit this environment and config: {name} is {shapes[0]} in it "
                f"and {shapes[1]} here"
            )
    agent.load_state_dict(state)
