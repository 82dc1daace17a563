"""Hours to a score on Atari: our default preset beside stable-baselines3's DQN, at the same time.

    python -m benchmarks.score --env Breakout --score 10 --hours 1 --out runs

Both train at once, a process each with one thread, so that whatever else the machine does meets
both. A score is reached when the mean of the last 100 whole training games (unclipped, with the
exploration of the moment) is at least that. The peer has its zoo's settings, but explores for
100,000 steps instead of 1,000,000 and starts to learn after 20,000 instead of 100,000, both of
which favour it in runs this short.

Ours is an ordinary run: stopped at the end as by Ctrl-C, it can be resumed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.log import METRICS, read
from benchmarks.harness import OURS, Row, report

GAMES = 100
PEER = "sb3"
POLL = 10.0
EXPLORES, STARTS, STEPS = 100_000, 20_000, 10_000_000


@dataclass(frozen=True)
class Standing:
    """How far a run is: hours to each score reached, its best mean of games, its steps."""

    hours: dict[float, float]
    best: float
    steps: int


def standing(run: Path, scores: list[float], begin: float) -> Standing:
    """Where the run in a folder stands, one that began at the Unix time `begin`."""
    lines = [line for line in read(run / METRICS) if "score" in line]
    steps = int(lines[-1]["step"]) if lines else 0
    if len(lines) < GAMES:
        return Standing({}, float("nan"), steps)
    games = np.array([line["score"] for line in lines])
    means = np.convolve(games, np.ones(GAMES) / GAMES, "valid")
    hours = {}
    for score in scores:
        over = np.flatnonzero(means >= score)
        if len(over):
            hours[score] = (lines[over[0] + GAMES - 1]["time"] - begin) / 3600
    return Standing(hours, float(means.max()), steps)


def peer(env: str, folder: Path) -> None:
    """Train stable-baselines3's DQN for ever, writing each game as our runs do."""
    import json

    import ale_py
    import gymnasium
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    class Games(BaseCallback):
        """Writes the games that ended in a step."""

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    line = {"step": self.num_timesteps, "score": float(info["episode"]["r"])}
                    file.write(json.dumps(line | {"time": time.time()}) + "\n")
                    file.flush()
            return True

    torch.set_num_threads(1)
    gymnasium.register_envs(ale_py)
    envs = VecFrameStack(make_atari_env(f"{env}NoFrameskip-v4", n_envs=1, seed=1), 4)
    model = DQN(
        "CnnPolicy",
        envs,
        buffer_size=100_000,
        learning_rate=1e-4,
        batch_size=32,
        learning_starts=STARTS,
        target_update_interval=1_000,
        train_freq=4,
        gradient_steps=1,
        exploration_fraction=EXPLORES / STEPS,
        exploration_final_eps=0.01,
        optimize_memory_usage=False,
        seed=1,
        device="cpu",
    )
    with (folder / METRICS).open("w") as file:
        model.learn(STEPS, Games())


def main() -> None:
    """Train both, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--env", default="Breakout", help="an Atari game, as ale-py spells it")
    parser.add_argument("--score", type=float, nargs="+", default=[10.0], help="scores to reach")
    parser.add_argument("--hours", type=float, default=1.0, help="give up after so many")
    parser.add_argument("--steps", type=int, default=3_000_000, help="agent steps of our run")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of both runs")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.env, options.peer)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    before = set(options.out.iterdir())
    theirs = options.out / f"sb3-{options.env}-{time.strftime('%Y%m%d-%H%M%S')}"
    theirs.mkdir()
    begin = time.time()
    train = f"train dqn --env {options.env} --threads 1 --steps {options.steps}".split()
    program = [sys.executable, "-m", "agents", *train, "--out", str(options.out)]
    beside = [sys.executable, "-m", "benchmarks.score", "--env", options.env, "--peer", str(theirs)]
    with (theirs / "log").open("w") as log:
        running = {
            OURS: subprocess.Popen(program),
            PEER: subprocess.Popen(beside, stdout=log, stderr=subprocess.STDOUT),
        }
    found: dict[str, Standing] = {}
    try:
        while time.time() - begin < 3600 * options.hours:
            time.sleep(POLL)
            ours = sorted(set(options.out.glob("dqn-*")) - before)
            for system, run in ((OURS, ours[0] if ours else None), (PEER, theirs)):
                if running[system].poll() not in (None, 0):
                    raise SystemExit(f"{system} ended with {running[system].returncode}")
                if run and (run / METRICS).is_file():
                    found[system] = standing(run, options.score, begin)
            wanted = set(options.score)
            if len(found) == 2 and all(set(f.hours) == wanted for f in found.values()):
                break
    finally:
        running[PEER].kill()
        running[OURS].send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()
    rows = [
        Row(f"{options.env}, to a mean of {score:g}", system, at.hours[score], "h")
        for score in options.score
        for system, at in found.items()
        if score in at.hours
    ]
    for system, at in found.items():
        rows.append(Row("best mean of 100 games", system, at.best, "score"))
        rows.append(Row("agent steps", system, at.steps, "steps"))
    rows.append(Row("time of both", OURS, (time.time() - begin) / 3600, "h"))
    report("score", rows, options.json)


if __name__ == "__main__":
    main()
