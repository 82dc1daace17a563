"""Agent steps per second while learning on Breakout, ours beside stable-baselines3's DQN.

    python -m benchmarks.train            ours alone, with the floor and the profile
    python -m benchmarks.train --peers    both, taking turns in one process

Two cases. "same": the Nature network, batch 32, uniform replay, one update every 4 agent steps,
fp32 or bf16 as each system ships. "default": our default preset as shipped against the peer's
zoo settings (the same as in "same"). Every system learns throughout; a round is a few hundred
steps of each, and the figure is the median over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import OURS, Row, Run, report

SAME: dict[str, Any] = {
    "preset": "nature",
    "num_envs": 16,
    "precision": "auto",
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "optimizer_eps": 1e-8,
}
WARM = 1_000
CAPACITY = 20_000


def run_of_ours(preset: str, folder: Path, **options: Any) -> Run:
    """A run of ours on Breakout that learns from the first steps on."""
    quick = {"learning_starts": WARM, "replay_capacity": CAPACITY, "epsilon_steps": 1}
    return Run("dqn", preset, **{"env": "Breakout", "out": str(folder), **quick, **options})


class Peer:
    """stable-baselines3's DQN with the settings of its zoo, advanced likewise."""

    def __init__(self, envs: int, device: str = "cpu") -> None:
        import ale_py
        import gymnasium
        from stable_baselines3 import DQN
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.vec_env import VecFrameStack

        gymnasium.register_envs(ale_py)
        env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=envs, seed=1), 4)
        self.model = DQN(
            "CnnPolicy",
            env,
            buffer_size=CAPACITY,
            learning_rate=1e-4,
            batch_size=32,
            learning_starts=WARM,
            target_update_interval=1_000,
            # one gradient step every 4 agent steps, whatever the number of environments
            train_freq=max(1, 4 // envs),
            gradient_steps=max(1, envs // 4),
            exploration_fraction=1e-6,
            exploration_final_eps=0.01,
            device=device,
        )

    def advance(self, steps: int) -> float:
        """Agent steps per second over `steps` of them."""
        start, begin = self.model.num_timesteps, time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            self.model.learn(steps, reset_num_timesteps=False, log_interval=10**9)
        return (self.model.num_timesteps - start) / (time.perf_counter() - begin)


def floor(network: Any) -> tuple[float, float, float]:
    """(GFLOP of one update at batch 32, this machine's bf16 GFLOP/s, milliseconds they take)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    agent, batch = network
    with FlopCounterMode(display=False) as counter:
        agent.update(batch)
    gflop = counter.get_total_flops() / 1e9
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    rate = 2 * 2048**3 / median(times[2:]) / 1e9
    return gflop, rate, gflop / rate * 1e3


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers", action="store_true", help="measure stable-baselines3 too")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--steps", type=int, default=800, help="agent steps a round and system")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[tuple[str, str], Callable[[int], float]] = {}
        same = run_of_ours(folder=Path(folder), **SAME)
        default = run_of_ours("default", Path(folder))
        runs["same", OURS] = same.advance
        runs["default", OURS] = default.advance
        if options.peers:
            runs["same", "sb3, 1 env"] = Peer(1).advance
            runs["same", "sb3, 8 envs"] = Peer(8).advance
        speeds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for (case, system), advance in runs.items():  # past the start of learning, caches warm
            print(f"warming up: {case}, {system}", file=sys.stderr)
            advance(2 * WARM)
        before = dict(default.tick.seconds)
        updates = default.tick.updates
        names = list(runs)
        for turn in range(options.rounds):
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
            for key in names[turn % len(names) :] + names[: turn % len(names)]:
                speeds[key].append(runs[key](options.steps))
        rows = [
            Row(f"Breakout, {case}", system, median(values), "agent steps/s")
            for (case, system), values in speeds.items()
        ]
        for system in ("sb3, 1 env", "sb3, 8 envs"):
            if ("same", system) in speeds:
                for case in ("same", "default"):
                    ratios = [
                        a / b
                        for a, b in zip(speeds[case, OURS], speeds["same", system], strict=True)
                    ]
                    rows.append(Row(f"{case}: ours over {system}", OURS, median(ratios), "x"))
        rows += _profile(default, before, updates)
        report("train", rows, options.json)


def _profile(run: Run, before: dict[str, float], updates: int) -> list[Row]:
    """Where the default preset's time went, and the floor of its update."""
    spent = {part: value - before[part] for part, value in run.tick.seconds.items()}
    whole = sum(spent.values())
    rows = [
        Row(f"default: share of {part}", OURS, 100 * value / whole, "%")
        for part, value in spent.items()
    ]
    done = max(1, run.tick.updates - updates)
    rows.append(Row("default: one update", OURS, 1e3 * spent["update"] / done, "ms"))
    batch = run.session.replay.sample(32, 1.0)
    gflop, rate, milliseconds = floor((run.session.agent, batch))
    rows.append(Row("default: one update's operations", OURS, gflop, "GFLOP"))
    rows.append(Row("this machine, 2048^3 product in bf16", OURS, rate, "GFLOP/s"))
    rows.append(Row("default: floor of one update", OURS, milliseconds, "ms"))
    return rows


if __name__ == "__main__":
    main()
