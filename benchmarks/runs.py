"""Runs of `agents train`, one after the other, each in a process of its own; and what they gave.

A folder `out` holds a folder for each run, and the results of those that are done in results.json:
started again, a benchmark skips these and resumes a run that was interrupted. Several of them may
fill one `out` at a time, with different runs.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agents import checkpoint, config
from agents.log import METRICS
from agents.log import read as read_metrics
from agents.process import write_text
from benchmarks.harness import half_interval, positive

GAP = 600.0
"""Seconds without a line after which a run is taken to have been stopped and resumed."""
RESULTS = "results.json"


class Asked(NamedTuple):
    """A run: no two results share this."""

    env: str
    steps: int
    """Agent steps."""
    seed: int


@dataclass(frozen=True)
class Result:
    """What a run gave."""

    env: str
    steps: int
    seed: int
    hours: float
    """Of training and evaluation, without those between a stop and what resumed it."""
    mean: float
    scores: list[float]
    """Of the final evaluation's episodes."""
    run: str
    """Its folder."""


def worked(run: Path) -> tuple[list[int], NDArray[np.float64]]:
    """Agent step and hours worked by each line of a run's metrics; a stop is no work."""
    lines = [line for line in read_metrics(run / METRICS) if "time" in line]
    times = [line["time"] for line in lines]
    spent = [0.0] + [b - a if b - a < GAP else 0.0 for a, b in pairwise(times)]
    return [line["step"] for line in lines], np.cumsum(spent) / 3600


def results(out: Path) -> list[Result]:
    """Those that a folder holds."""
    path = out / RESULTS
    return [Result(**line) for line in json.loads(path.read_text())] if path.is_file() else []


def train(out: Path, algorithm: str, asked: Asked, extra: Sequence[str]) -> Result:
    """Train a run to its end, anew or from its last checkpoint, and keep its result.

    `extra` are options of `agents train`. Where it fails it says why, and this process ends.
    """
    env, steps, seed = asked
    folder = out / f"{env.replace('/', '-')}-{steps}-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (done := _done(folder)):
        begun = [run for run in folder.iterdir() if (run / config.FILE).is_file()]
        begun = [run for run in begun if checkpoint.steps(run)]
        command = [sys.executable, "-m", "agents", "train"]
        if begun:
            command += ["--resume", str(begun[0])]
        else:
            command += [algorithm, "--env", env, "--steps", str(steps), "--seed", str(seed)]
            command += ["--out", str(folder), "--eval-episodes", "30", *extra]
        print(" ".join(command), flush=True)
        process = subprocess.Popen(command)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # it saves, and says so
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal told it, too
            code = process.wait()
        if code:  # it said itself what was wrong
            sys.exit(code)
        done = _done(folder)
    final = json.loads((done[0] / "result.json").read_text())
    hours = float(worked(done[0])[1][-1])
    made = Result(env, steps, seed, hours, final["mean"], final["scores"], str(done[0]))
    lines = [asdict(result) for result in [*results(out), made]]
    write_text(out / RESULTS, json.dumps(lines, indent=1) + "\n")
    return made


def _done(folder: Path) -> list[Path]:
    """Its runs that have come to their end."""
    return [run for run in folder.iterdir() if (run / "result.json").is_file()]


def interval(found: Sequence[Result]) -> tuple[float, float]:
    """Mean of a task's results and half of its 95% interval, by Student's t.

    Over seeds; of one seed over its episodes, which says nothing of others. NaN for one episode.
    """
    values = [result.mean for result in found] if len(found) > 1 else found[0].scores
    half = half_interval(values)
    return fmean(values), float("nan") if half is None else half


def grouped(found: Sequence[Result], env: str) -> Iterator[tuple[int, list[Result], list[str]]]:
    """An environment's results by number of steps, with the cells hours, seeds and mean of each."""
    for steps in sorted({result.steps for result in found if result.env == env}):
        lines = [result for result in found if (result.env, result.steps) == (env, steps)]
        mean, half = interval(lines)
        hours = f"{fmean(line.hours for line in lines):.2f}"
        yield steps, lines, [hours, str(len(lines)), f"{mean:,.1f} ± {half:,.1f}"]


def command_line(
    about: str | None,
    algorithm: str,
    steps: dict[str, int],
    out: str,
    table: Callable[[list[Result]], Table],
) -> None:
    """A benchmark's command: train what is missing, then print the table.

    steps  agent steps of each environment that there is
    Options after `--` go to `agents train`.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs")
    parser.add_argument("--names", nargs="+", default=list(steps), metavar="ENV")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--steps", type=positive, help="agent steps of every run, not each one's own"
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options, extra = parser.parse_args(words[:cut]), words[cut + 1 :]
    for env in options.names:
        if env not in steps:
            parser.error(f"unknown name {env!r}; it must be one of {', '.join(steps)}")
    if not options.table:
        for seed in options.seeds:  # every one once before any a second time
            for env in options.names:
                asked = Asked(env, options.steps or steps[env], seed)
                if not any((r.env, r.steps, r.seed) == asked for r in results(options.out)):
                    train(options.out, algorithm, asked, extra)
    found = [result for result in results(options.out) if result.env in options.names]
    if not found:
        parser.exit(1, f"{parser.prog}: no finished run of these in {options.out}\n")
    Console().print(table(found))
