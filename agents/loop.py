"""The flow of data: environment -> replay -> learner -> whoever reads the ticks.

The loop knows no logger, no checkpoint and no algorithm: `train` is a generator, and what it
yields after each vector step is all there is to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from agents.agent import Agent
from agents.graph import Learner, spend
from envs.vector import Drop, Episode, Frame, Step, VectorEnv
from replay import Field, Observation, PrioritizedReplay
from replay.types import Spec, by_part, longest_stack


@dataclass
class Tick:
    """One vector step: where the run stands, and what happened in it.

    step      agent steps so far, over all environments
    updates   learner updates so far
    credit    updates that are due already, below 1 between vector steps
    episodes  whole episodes that ended in this step
    dropped   those that were given up in it, because the simulation diverged
    metrics   of the newest update, detached tensors; empty before the first
    schedule  what the agent's `anneal` set for this step, by name
    seconds   spent so far, by part: act, environment, replay, sample, update, priorities
    """

    step: int
    updates: int
    credit: float
    episodes: tuple[Episode, ...] = ()
    dropped: tuple[Drop, ...] = ()
    metrics: dict[str, Tensor] = field(default_factory=dict)
    schedule: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def observation_field(env: VectorEnv) -> Spec:
    """The replay's field for the newest frame of `env`, or the fields of its parts."""
    space, stack = env.frame_space, env.stack
    if isinstance(stack, int):
        return _field(space, stack)
    assert isinstance(space, spaces.Dict)
    return {part: _field(space[part], stack[part]) for part in space}


def shows_images(env: VectorEnv) -> bool:
    """Whether what `env` shows is an image, or has one among its parts."""
    return any(len(field.shape) == 3 for field in by_part(observation_field(env)).values())


def _field(space: spaces.Space[Any], stack: int = 1) -> Field:
    return Field(space.shape or (), str(space.dtype), stack)


def train(
    agent: Agent,
    env: VectorEnv,
    replay: PrioritizedReplay,
    *,
    steps: int,
    batch_size: int,
    update_every: float,
    learning_starts: int,
    step: int = 0,
    updates: int = 0,
    credit: float = 0.0,
) -> Iterator[Tick]:
    """Step `env` from agent step `step` to `steps`, learning beside it; a Tick a vector step.

    The replay must hold the newest frame of each lane (`replay.reset` or a restored one). The
    learner works while the environments step: an update due at a step sees what came before that
    step. It starts once the replay holds `learning_starts` frames, also after a resume without
    the replay. One update is due every `update_every` agent steps, over all environments. Raises
    FloatingPointError where the agent's actions are no numbers any more.
    """
    learner = Learner(agent, replay, batch_size)
    seconds = dict.fromkeys(("act", "environment", "replay"), 0.0)
    metrics: dict[str, Tensor] = {}
    learning_starts = max(learning_starts, batch_size)
    while step < steps:
        schedule = agent.anneal(step, steps)
        started = perf_counter()
        action = agent.act(replay.latest())
        started = spend(seconds, "act", started)
        if not np.isfinite(action).all():
            raise FloatingPointError(f"an action became NaN by step {step}")
        env.send(action)
        spend(seconds, "environment", started)
        if len(replay) >= learning_starts and replay.ready:
            credit += env.num_envs / update_every
        while credit >= 1:
            metrics = learner()
            updates += 1
            credit -= 1
        started = perf_counter()
        result = env.recv()
        started = spend(seconds, "environment", started)
        remember(replay, action, result)
        spend(seconds, "replay", started)
        step += env.num_envs
        spent = seconds | learner.seconds
        ended = result.episodes, result.dropped
        yield Tick(step, updates, credit, *ended, metrics, schedule, spent)


def remember(replay: PrioritizedReplay, action: np.ndarray, step: Step) -> None:
    """Put a step of all lanes into the replay; a lane whose episode was dropped begins anew."""
    if not step.dropped:
        replay.add(step.frame, action, step.reward, step.terminated, step.truncated)
        return
    gone = np.array([drop.lane for drop in step.dropped])
    kept = np.setdiff1d(np.arange(len(action)), gone)
    if kept.size:
        flags = step.terminated[kept], step.truncated[kept]
        replay.add(_of(step.frame, kept), action[kept], step.reward[kept], *flags, lanes=kept)
    replay.reset(_of(step.frame, gone), lanes=gone)


def _of(frame: Frame, lanes: np.ndarray) -> Frame:
    """The frames of some lanes."""
    if isinstance(frame, dict):
        return {name: part[lanes] for name, part in frame.items()}
    return frame[lanes]


def evaluate(
    agent: Agent, env: VectorEnv, episodes: int, epsilon: float = 0.0, seed: int = 0
) -> Iterator[list[Episode]]:
    """Play whole episodes without exploration or learning; yields those that count, step by step.

    Every lane plays the same number of episodes, ceil(episodes / lanes), so that short ones are
    not counted more often than long ones; those beyond `episodes` are left out. `epsilon` is the
    share of random actions that the protocol asks for, `seed` that of drawing them.
    """
    each = -(-episodes // env.num_envs)
    left = np.full(env.num_envs, each)
    left[np.arange(env.num_envs) >= episodes - (each - 1) * env.num_envs] -= 1
    for _, _, _, ended in rollout(agent, env, epsilon, seed):
        counted = [episode for episode in ended if left[episode.lane] > 0]
        for episode in counted:
            left[episode.lane] -= 1
        yield counted
        if not left.any():
            return


def rollout(
    agent: Agent, env: VectorEnv, epsilon: float = 0.0, seed: int = 0
) -> Iterator[tuple[Observation, np.ndarray, np.ndarray, tuple[Episode, ...]]]:
    """Step `env` for ever; yields (observation acted on, action, reward, episodes ended)."""
    # the same ring that training reads its stacks from, as short as it can be
    spec = observation_field(env)
    memory = PrioritizedReplay(
        env.num_envs * (longest_stack(spec) + 2),
        spec,
        action_field(env),
        lanes=env.num_envs,
        alpha=0.0,
    )
    memory.reset(env.reset())
    explorer = np.random.default_rng(seed)
    while True:
        observation = memory.latest()
        action = agent.act(observation, explore=False, epsilon=epsilon, explorer=explorer)
        env.send(action)
        result = env.recv()
        remember(memory, action, result)
        yield observation, action, result.reward, result.episodes


def action_field(env: VectorEnv) -> Field:
    """The replay's field for one action of `env`."""
    return _field(env.actions.space)
