"""Continuous control: agent steps and pictures a second, beside those who do the same.

    python -m benchmarks.control            ours alone
    python -m benchmarks.control --peers    beside stable-baselines3's DDPG (and sbx's, with jax)

Three tables in one. Agent steps a second on HalfCheetah with an update each step: networks of
400-300, batches of 256, one critic, no delay, uniform replay, one environment, as the peer ships
them; ours in bf16 where the processor has it, and in fp32. Pictures of HalfCheetah, 84x84, against
the same environment as Gymnasium draws it. Microseconds of an update by part.

All systems take turns, a few hundred steps a round; the figure is the median over rounds, and a
ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import OURS, Row, Run, interleave, report

SAME: dict[str, Any] = {
    "preset": "paper-state",
    "action_layer": 1,
    "batch_norm": False,
    "critic_l2": 0.0,
    "final_init": 0.0,
    "batch_size": 256,
    "tau": 0.005,
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "noise": "gaussian",
}
WARM, CAPACITY = 500, 20_000
PICTURES = 50


def run_of_ours(preset: str, folder: Path, threads: int, **options: Any) -> Run:
    """A run of ours on HalfCheetah that learns from the first steps on."""
    quick = {"learning_starts": WARM, "random_steps": WARM, "replay_capacity": CAPACITY}
    where = {"env": "HalfCheetah", "out": str(folder), "threads": threads}
    return Run("ddpg", preset, **{**options, **where, **quick})


class Peer:
    """DDPG of stable-baselines3, or of sbx, which has its arguments; advanced likewise."""

    def __init__(self, package: str) -> None:
        import gymnasium

        kind = importlib.import_module(package).DDPG
        self.model = kind(
            "MlpPolicy",
            gymnasium.make("HalfCheetah-v5"),
            learning_rate=1e-3,
            buffer_size=CAPACITY,
            learning_starts=WARM,
            batch_size=256,
            train_freq=1,
            gradient_steps=1,
            policy_kwargs={"net_arch": [400, 300]},
            seed=1,
            **({"device": "cpu"} if package == "stable_baselines3" else {}),
        )

    def advance(self, steps: int) -> float:
        """Agent steps a second over `steps` of them."""
        start, begin = self.model.num_timesteps, time.perf_counter()
        self.model.learn(steps, reset_num_timesteps=False, log_interval=10**9)
        return (self.model.num_timesteps - start) / (time.perf_counter() - begin)


def speeds(folder: Path, rounds: int, steps: int, peers: bool, threads: int) -> list[Row]:
    """Agent steps a second while learning, all systems in turns."""
    runs: dict[tuple[str, str], Callable[[int], float]] = {}
    for precision, system in (("auto", OURS), ("fp32", f"{OURS} fp32")):
        same = run_of_ours(folder=folder, threads=threads, precision=precision, **SAME)
        runs["same network and batch", system] = same.advance
    runs["default as shipped", OURS] = run_of_ours("default", folder, threads).advance
    if peers:
        for package in ("stable_baselines3", "sbx"):
            if importlib.util.find_spec(package):
                runs["same network and batch", package] = Peer(package).advance
    for advance in runs.values():  # past the start of learning, and every cache warm
        advance(2 * WARM)
    found: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    names = list(runs)
    for turn in range(rounds):
        for key in names[turn % len(names) :] + names[: turn % len(names)]:
            found[key].append(runs[key](steps))
    rows = [
        Row(f"HalfCheetah, {case}", system, median(values), "agent steps/s")
        for (case, system), values in found.items()
    ]
    theirs = [key for key in found if not key[1].startswith(OURS)]
    for key in theirs:
        for ours in (key for key in found if key[1].startswith(OURS)):
            ratios = [a / b for a, b in zip(found[ours], found[key], strict=True)]
            rows.append(Row(f"{ours[0]}: over {key[1]}", ours[1], median(ratios), "x"))
    return rows


def pictures(rounds: int) -> list[Row]:
    """Steps with a picture of 84x84 a second, against Gymnasium's own rendering."""
    import gymnasium
    import numpy as np

    from envs import EnvConfig, make

    os.environ.setdefault("MUJOCO_GL", "egl")
    still = np.zeros((1, 6), np.float32)
    cases: dict[str, Callable[[], object]] = {}
    env = make(EnvConfig(env="HalfCheetah", num_envs=1, pixels=True), seed=1)
    env.reset()

    def ours() -> None:
        env.send(still)
        env.recv()

    cases[OURS] = ours
    theirs = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array", width=84, height=84)
    theirs.reset(seed=1)

    def peer() -> None:
        if any(theirs.step(still[0])[2:4]):
            theirs.reset()
        theirs.render()

    cases["gymnasium"] = peer
    seconds = interleave(cases, rounds, PICTURES)
    case = "HalfCheetah 84x84, a picture a step"
    rows = [Row(case, name, 1 / median(times), "frames/s") for name, times in seconds.items()]
    ratios = [a / b for a, b in zip(seconds["gymnasium"], seconds[OURS], strict=True)]
    rows.append(Row("pictures: over gymnasium's", OURS, median(ratios), "x"))
    env.close()
    theirs.close()
    return rows


def parts(folder: Path, rounds: int, threads: int) -> list[Row]:
    """Microseconds of the default preset's update, by part."""
    run = run_of_ours("default", folder, threads)
    run.advance(2 * WARM)
    agent: Any = run.session.agent
    replay, size = run.session.replay, run.session.config.agent.batch_size
    batch = replay.sample(size, 1.0)
    observation: Any = batch.observation
    _, error = agent.update(batch)

    def policy() -> None:
        agent._update_actor(observation, agent.online.see(observation))

    cases: dict[str, Callable[[], object]] = {
        "sample": lambda: replay.sample(size, 1.0),
        "priorities": lambda: replay.update(batch.index, error),
        "target": lambda: agent._target(
            batch.next_observation, batch, agent._smoothing(batch.action)
        ),
        "actor, every second update": policy,
        "moving targets, every second update": lambda: agent._follow(0.005),
        "update, mean of both kinds": lambda: (agent.update(batch), agent.update(batch)),
        "act": lambda: agent.act(replay.latest()),
    }
    seconds = interleave(cases, rounds, 20)
    seconds["update, mean of both kinds"] = [s / 2 for s in seconds["update, mean of both kinds"]]
    return [
        Row(f"default: {part}", OURS, 1e6 * median(times), "µs") for part, times in seconds.items()
    ]


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers", action="store_true", help="measure the peers too")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--steps", type=int, default=400, help="agent steps a round and system")
    parser.add_argument("--threads", type=int, default=1, help="threads of everyone's arithmetic")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        out, rounds, threads = Path(folder), options.rounds, options.threads
        rows = speeds(out, rounds, options.steps, options.peers, threads)
        rows += pictures(rounds)
        rows += parts(out, rounds, threads)
        report("control", rows, options.json)


if __name__ == "__main__":
    main()
