"""Encoders on one game at equal steps: nature, impala and resnet18, score and speed.

    python -m benchmarks.backbones --env Breakout --steps 1_000_000 --out runs [--seeds 1]

Each trains by the `default` preset with one thread, one run after the other; further options are
those of `agents train`, and go to all; see `benchmarks.runs`. nature has the preset's width, impala
half of its paper's, resnet18 a quarter with GroupNorm. The runs are ordinary ones: `python -m
benchmarks.curve` draws them, and `agents explain` films what each looks at.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from math import isfinite
from pathlib import Path
from statistics import mean

from agents.log import METRICS, read
from benchmarks.harness import Row, half_interval, report
from benchmarks.runs import Asked, train
from benchmarks.score import standing

ENCODERS = {
    "nature": "--encoder nature --encoder-width 0.5",
    "impala": "--encoder impala --encoder-width 0.5",
    "resnet18": "--encoder resnet18 --encoder-width 0.25 --encoder-norm group",
}


def figures(run: Path) -> dict[str, float]:
    """A finished run's figures.

    score    mean of the final evaluation
    best     greatest mean of 100 training games in a row; NaN with fewer games
    speed    agent steps a second once it learns, by the clock
    """
    lines = [line for line in read(run / METRICS) if line.get("updates", 0) > 0]
    if len(lines) < 2:
        raise SystemExit(f"{run}: too few lines with updates in {METRICS} to tell its speed")
    first, last = lines[0], lines[-1]
    return {
        "score": json.loads((run / "result.json").read_text())["mean"],
        "best": standing(run, [], 0.0).best,
        "speed": (last["step"] - first["step"]) / (last["time"] - first["time"]),
    }


def rows(env: str, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    """A row a figure and encoder: the mean over its seeds with the 95% interval, if several."""
    cases = {
        "score": ("final evaluation", "score"),
        "best": ("best mean of 100 training games", "score"),
        "speed": ("speed while learning", "steps/s"),
    }
    made = []
    for figure, (case, unit) in cases.items():
        for encoder, each in found.items():
            values = [run[figure] for run in each]
            if all(map(isfinite, values)):
                interval = half_interval(values)
                made.append(Row(f"{env}, {case}", encoder, mean(values), unit, interval))
    return made


def main() -> None:
    """Train all, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="Breakout", help="an environment of agents train")
    parser.add_argument("--steps", type=int, default=1_000_000, help="agent steps of each run")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each encoder")
    parser.add_argument("--names", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    options, further = parser.parse_known_args()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in range(1, options.seeds + 1):
        for name in options.names:
            asked = Asked(options.env, options.steps, seed)
            words = ["--threads", "1", *ENCODERS[name].split(), *further]
            run = train(options.out / name, "dqn", asked, words).run
            found[name].append(figures(Path(run)))
            print(f"{name}, seed {seed}: {run}", flush=True)
    report("backbones", rows(options.env, found), options.json)


if __name__ == "__main__":
    main()
