"""What ddpg learns on many tasks with one set of options: trains, then prints the table.

    python -m benchmarks.tasks --out runs/tasks                     every task, a seed each
    python -m benchmarks.tasks --out runs/tasks --seeds 1 2 3 --tasks Pendulum-v1 Reacher-v5
    python -m benchmarks.tasks --out runs/tasks --table             the table of what is there

Each run is `agents train ddpg --env TASK --steps N --seed S`, one after the other, in a folder of
its own under `out`; its result goes into results.json there. Run again, the command skips what is
in that file and resumes a run that was interrupted. Options after `--` go to every run, and belong
in another `out`.

Mean and interval are over the seeds' final evaluations: Student's t for two or more, else over the
one run's episodes, which says nothing of other seeds. A task is solved where the mean reaches its
mark; failures stay in the table.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from agents import checkpoint, config
from agents.evaluate import student_t
from agents.process import write_text


class Task(NamedTuple):
    """One line of the table."""

    env: str
    steps: int
    """Agent steps of a run."""
    solved: float
    """Mean return from which on it counts as solved."""
    known: str
    """Greatest return that is known, and whose."""


TD3 = "TD3 at 1M steps, Fujimoto et al. 2018"
MOST = "1,000, the most there is"
TASKS = (
    Task("Pendulum-v1", 20_000, -200, "about -150"),
    Task("MountainCarContinuous-v0", 50_000, 90, "below 100"),
    Task("InvertedPendulum-v5", 50_000, 950, MOST),
    Task("InvertedDoublePendulum-v5", 50_000, 9_100, f"9,337, {TD3}"),
    Task("Reacher-v5", 50_000, -6, f"-3.6, {TD3}"),
    Task("Pusher-v5", 100_000, -35, "about -22"),
    Task("Swimmer-v5", 200_000, 300, "about 360"),
    Task("HalfCheetah-v5", 300_000, 6_000, f"9,637, {TD3}"),
    Task("Hopper-v5", 300_000, 3_000, f"3,564, {TD3}"),
    Task("Walker2d-v5", 300_000, 4_000, f"4,683, {TD3}"),
    Task("dmc/cartpole-balance", 50_000, 900, MOST),
    Task("dmc/cartpole-swingup", 100_000, 800, MOST),
    Task("dmc/cartpole-swingup_sparse", 100_000, 700, MOST),
    Task("dmc/pendulum-swingup", 100_000, 700, MOST),
    Task("dmc/reacher-easy", 100_000, 900, MOST),
    Task("dmc/ball_in_cup-catch", 100_000, 900, MOST),
    Task("dmc/finger-spin", 100_000, 800, MOST),
    Task("dmc/point_mass-easy", 100_000, 800, MOST),
    Task("dmc/cheetah-run", 300_000, 700, MOST),
    Task("dmc/walker-stand", 100_000, 900, MOST),
    Task("dmc/walker-walk", 300_000, 800, MOST),
)
RESULTS = "results.json"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("runs/tasks"), help="folder of the runs")
    parser.add_argument("--tasks", nargs="+", default=[task.env for task in TASKS], metavar="ENV")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, help="agent steps of every run, not each task's own")
    parser.add_argument("--table", action="store_true", help="train nothing")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options, extra = parser.parse_args(words[:cut]), words[cut + 1 :]
    known = {task.env: task for task in TASKS}
    for env in options.tasks:
        if env not in known:
            parser.error(f"unknown task {env!r}; it must be one of {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    results = read(options.out)
    if not options.table:
        for seed in options.seeds:  # every task once before any a second time
            for env in options.tasks:
                steps = options.steps or known[env].steps
                if not any(key(line) == (env, steps, seed) for line in results):
                    results.append(train(options.out, env, steps, seed, extra))
                    write_text(options.out / RESULTS, json.dumps(results, indent=1) + "\n")
    Console().print(table([line for line in results if line["env"] in options.tasks]))


def read(out: Path) -> list[dict[str, Any]]:
    """The results that a folder holds already."""
    path = out / RESULTS
    return json.loads(path.read_text()) if path.is_file() else []


def key(line: dict[str, Any]) -> tuple[str, int, int]:
    """What no two results share."""
    return line["env"], line["steps"], line["seed"]


def train(out: Path, env: str, steps: int, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """Train a run to its end, anew or from its last checkpoint; returns its line of results.

    hours is the time of this call and of those that were interrupted before it.
    """
    folder = out / f"{env.replace('/', '-')}-{steps}-s{seed}"
    folder.mkdir(exist_ok=True)
    runs = [run for run in folder.iterdir() if (run / config.FILE).is_file()]
    begun = [run for run in runs if checkpoint.steps(run)]
    clock = folder / "seconds"
    before = float(clock.read_text()) if begun and clock.is_file() else 0.0
    command = [sys.executable, "-m", "agents", "train"]
    if begun:
        command += ["--resume", str(begun[0])]
    else:
        command += ["ddpg", "--env", env, "--steps", str(steps), "--seed", str(seed)]
        command += ["--out", str(folder), "--eval-episodes", "30", *extra]
    print(" ".join(command), flush=True)
    begin = time.time()
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # it saves, and says how to go on
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal told it, too
        code = process.wait()
    seconds = before + time.time() - begin
    write_text(clock, f"{seconds}\n")
    if code:  # it said itself what was wrong
        sys.exit(code)
    run = max((run for run in folder.iterdir() if (run / "result.json").is_file()), key=_age)
    result = json.loads((run / "result.json").read_text())
    return {
        "env": env,
        "steps": steps,
        "seed": seed,
        "hours": seconds / 3600,
        "mean": result["mean"],
        "scores": result["scores"],
        "run": str(run),
    }


def _age(run: Path) -> float:
    return (run / "result.json").stat().st_mtime


def table(results: Sequence[dict[str, Any]]) -> Table:
    """A line a task and number of steps."""
    told = "agents train ddpg --env TASK --steps STEPS --seed SEED --eval-episodes 30"
    shown = Table(title="ddpg, one set of options for all", caption=told)
    for column in ("task", "steps", "hours a run", "seeds", "mean return", "solved at", "known"):
        left = column in ("task", "known")
        shown.add_column(column, justify="left" if left else "right")
    for task in TASKS:
        for steps in sorted({line["steps"] for line in results if line["env"] == task.env}):
            lines = [line for line in results if (line["env"], line["steps"]) == (task.env, steps)]
            mean, half = interval([line["mean"] for line in lines])
            if len(lines) == 1:
                mean, half = interval(lines[0]["scores"])
            mark = "solved" if mean >= task.solved else f"{task.solved:,g} not reached"
            shown.add_row(
                task.env,
                f"{steps:,}",
                f"{fmean(line['hours'] for line in lines):.2f}",
                str(len(lines)),
                f"{mean:,.1f} ± {half:,.1f}",
                mark,
                task.known,
            )
    return shown


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of `values`, and half of its 95% interval (Student's t); NaN for a single one."""
    count = len(values)
    if count < 2:
        return values[0], math.nan
    return fmean(values), student_t(count - 1) * stdev(values) / math.sqrt(count)


if __name__ == "__main__":
    main()
