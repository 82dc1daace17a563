"""Peak memory of a Breakout run whose replay of a million transitions is full.

    python -m benchmarks.memory [--capacity 1000000] [--json FILE]

The default preset with a larger replay. To spare the hours of play, the ring is filled by adding
each real step of the environments many times over; then the run learns on, takes a checkpoint of
everything, and the greatest resident size that the process ever had is read from the system.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import OURS, Row, report

TIMES = 50
LEARN = 2_000


def main() -> None:
    """Fill, learn, save, print."""
    parser = argparse.ArgumentParser(description="Peak memory of a run with a full replay.")
    parser.add_argument("--capacity", type=int, default=1_000_000, help="transitions")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    from agents import start

    with tempfile.TemporaryDirectory() as folder:
        chosen = {
            "env": "Breakout",
            "out": folder,
            "replay_capacity": options.capacity,
            "steps": 10**9,
            "learning_starts": options.capacity,
        }
        run = start.create("dqn", "default", chosen)
        replay, env = run.replay, run.env
        while len(replay) < options.capacity:
            action = run.agent.act(replay.latest())
            env.send(action)
            step = env.recv()
            for _ in range(TIMES):
                replay.add(step.frame, action, step.reward, step.terminated, step.truncated)
        for tick in run.ticks():
            if tick.step >= LEARN:
                break
        saved = run.save()
        disk = sum(f.stat().st_size for f in saved.rglob("*") if f.is_file())
        unit = 1024 if sys.platform != "darwin" else 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        rows = [
            Row("transitions held", OURS, len(replay), "transitions"),
            Row("bytes per transition", OURS, replay.bytes_per_transition, "bytes"),
            Row("peak resident size, checkpoint included", OURS, peak / 1e9, "GB"),
            Row("checkpoint on disk", OURS, disk / 1e9, "GB"),
        ]
        run.close()
    report("memory", rows, options.json)


if __name__ == "__main__":
    main()
