"""Scores with their protocol, and films of a trained agent's play."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import config
from agents.agent import Agent
from agents.config import TrainConfig
from agents.film import Film, numbered
from agents.loop import evaluate, rollout
from agents.player import load_agent
from agents.precision import threads_for
from envs import make
from envs.config import EnvConfig
from envs.make import resolve
from envs.vector import Episode, VectorEnv

ATARI_LANES = 30
"""Atari games that an evaluation steps together, at most; they cost little each."""
LANES = 8
"""Other environments that are known by name, at most, unless training steps more."""


def summary(episodes: Sequence[Episode], env: VectorEnv, epsilon: float) -> dict[str, Any]:
    """Mean score with its 95% interval, and the protocol that it was played under.

    The interval is Student's t over episodes: mean ± t * s / sqrt(n). Seeds of training vary
    beyond it. Episodes that `env` dropped have no score, and are counted.
    """
    scores = np.array([episode.score for episode in episodes])
    count = len(scores)
    half = math.nan
    if count > 1:
        half = student_t(count - 1) * float(scores.std(ddof=1)) / math.sqrt(count)
    protocol = env.protocol.describe() if env.protocol else "the environment's own rules"
    cut = sum(episode.length == env.episode_limit for episode in episodes)
    if cut:
        protocol += f", {cut} cut off after {env.episode_limit:,} steps"
    if env.dropped:
        protocol += f", {env.dropped} more dropped"
    mean = float(scores.mean())
    return {
        "mean": mean,
        "interval": [mean - half, mean + half] if math.isfinite(half) else None,
        "median": float(np.median(scores)),
        "best": float(scores.max()),
        "episodes": count,
        "dropped": env.dropped,
        "scores": scores.tolist(),
        "lengths": [episode.length for episode in episodes],
        "epsilon": epsilon,
        "protocol": protocol,
        "text": f"score {plain(mean)}"
        + (f" ± {plain(half)} (95%)" if math.isfinite(half) else "")
        + f", median {plain(np.median(scores))}, best {plain(scores.max())} over "
        f"{counted(count, 'episode')}, epsilon {epsilon:g}, {protocol}",
    }


def plain(value: float) -> str:
    """A score as text: with one decimal, or by powers of ten where it is beyond reading."""
    return f"{value:.1f}" if abs(value) < 1e7 else f"{value:.3g}"


def counted(number: int, thing: str) -> str:
    """1 episode, 2 episodes."""
    return f"{number} {thing}{'s' * (number != 1)}"


def student_t(freedom: int) -> float:
    """The 97.5% quantile of Student's t, to 1%.

    The expansion around the normal quantile (Abramowitz & Stegun 1964, 26.7.5), which needs three
    degrees of freedom; the first two are known in closed form.
    """
    if freedom <= 2:
        return (12.7062, 4.3027)[freedom - 1]
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


@dataclass
class Stage:
    """A run's agent in its environment, before an audience."""

    config: TrainConfig
    env: VectorEnv
    agent: Agent
    step: int
    """Agent steps that it was trained for."""
    epsilon: float
    """Share of random actions: the protocol's, 0 outside Atari."""
    tell: Callable[[Sequence[Episode]], None] | None
    played: list[Episode] = field(default_factory=list)

    def add(self, ended: Sequence[Episode]) -> None:
        """Take down episodes that ended."""
        self.played += ended
        if ended and self.tell is not None:
            self.tell(self.played)

    def summary(self, **more: Any) -> dict[str, Any]:
        """What was played, summed up."""
        found = summary(self.played, self.env, self.epsilon)
        found["text"] += f", trained for {self.step:,} steps"
        return {"env": self.config.env.env, "step": self.step, **more, **found}


@contextmanager
def staged(
    folder: Path,
    seed: int,
    episodes: int = 1,
    *,
    render: bool = False,
    device: str = "auto",
    threads: int | None = None,
    best: bool = False,
    tell: Callable[[Sequence[Episode]], None] | None = None,
    note: Callable[[str], None] = warnings.warn,
) -> Iterator[Stage]:
    """The agent of a run folder, in as many environments as `episodes` keep busy.

    render   lets the one environment be drawn
    threads  for arithmetic; None takes the run's
    best     takes the agent of the run's best evaluation, not the newest
    tell     is called with the episodes so far, whenever some ended
    note     is told of each checkpoint that is passed over because it is damaged
    """
    chosen = config.load(folder)
    torch.set_num_threads(threads_for(threads or chosen.run.threads))
    many = 1 if render else lanes(chosen.env, episodes)
    env = make(chosen.env, seed=seed, num_envs=many, evaluation=True, render=render)
    try:
        agent, step = load_agent(folder, chosen, env, device, note, best=best)
        yield Stage(chosen, env, agent, step, evaluation_epsilon(env), tell)
    finally:
        env.close()


def evaluate_run(
    folder: Path, episodes: int = 30, epsilon: float | None = None, seed: int = 0, **where: Any
) -> dict[str, Any]:
    """Play whole episodes with the agent of a run folder and sum them up.

    epsilon  share of random actions; None takes the protocol's, 0 outside Atari
    where    options of `staged`
    """
    with staged(folder, seed, episodes, **where) as stage:
        if epsilon is not None:
            stage.epsilon = epsilon
        for ended in evaluate(stage.agent, stage.env, episodes, stage.epsilon, seed):
            stage.add(ended)
        return stage.summary()


def play(
    folder: Path, video: Path | None = None, episodes: int = 1, seed: int = 0, **where: Any
) -> dict[str, Any]:
    """Film whole episodes in full size and colour; returns their summary and the film's path.

    The film is H.264 and shows one picture an agent step, at the game's own pace. Without `video`
    it goes into the run folder, under videos/. `where` are options of `staged`.
    """
    with staged(folder, seed, render=True, **where) as stage:
        video = video or numbered(folder / "videos", ".mp4")
        with Film(video, stage.env.frame_rate) as film:
            for _, _, _, ended in rollout(stage.agent, stage.env, stage.epsilon, seed):
                film.add(stage.env.render())
                stage.add(ended)
                if len(stage.played) >= episodes:
                    break
        return stage.summary(video=str(video))


def lanes(env: EnvConfig, episodes: int) -> int:
    """Environments to step in an evaluation: of one's own kind no more than in training."""
    kind = resolve(env.env).kind
    most = {"atari": ATARI_LANES, "class": env.num_envs}.get(kind, max(env.num_envs, LANES))
    return min(episodes, most)


def evaluation_epsilon(env: VectorEnv) -> float:
    """The share of random actions that the env's protocol evaluates with; 0 without one."""
    return env.protocol.evaluation_epsilon if env.protocol else 0.0
