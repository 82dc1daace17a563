"""Draw learning curves from run folders, and print their figures.

    python -m benchmarks.curve runs/dqn-Breakout-s1-... [more] --out curve.png [--json FILE]

A run's curve is the mean score of whole training games (unclipped, with the exploration of the
moment) in bins of agent steps, against steps and against hours of wall-clock.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from agents.log import METRICS, read
from benchmarks.harness import OURS, Row, report
from benchmarks.runs import worked


def curve(run: Path, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, hours, mean score) of a run, one of each per bin that holds a game."""
    steps, hours = worked(run)
    if len(steps) < 2:
        raise SystemExit(f"{run}: too few lines in {METRICS} to draw a curve from")
    games = [(line["step"], line["score"]) for line in read(run / METRICS) if "score" in line]
    edges = np.linspace(0, steps[-1], bins + 1)
    at = np.array([step for step, _ in games])
    scores = np.array([score for _, score in games])
    rows = []
    for low, high in pairwise(edges):
        inside = (at > low) & (at <= high)
        if inside.any():
            rows.append((high, float(np.interp(high, steps, hours)), scores[inside].mean()))
    table = np.array(rows)
    return table[:, 0], table[:, 1], table[:, 2]


def main() -> None:
    """Draw, print, write the JSON."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description="Draw learning curves from run folders.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--out", type=Path, default=Path("curve.png"), help="the picture")
    parser.add_argument("--bins", type=int, default=40, help="points of a curve")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    rows = []
    curves = {run: curve(run, options.bins) for run in options.runs}
    most = max(steps[-1] for steps, _, _ in curves.values())
    unit, named = (1e6, "million") if most >= 5e5 else (1e3, "thousand")
    for run, (steps, hours, scores) in curves.items():
        axes[0].plot(steps / unit, scores, label=run.name)
        axes[1].plot(hours, scores, label=run.name)
        for step, hour, score in list(zip(steps, hours, scores, strict=True))[3::4]:
            rows.append(Row(f"{run.name} at {step:,.0f} steps", OURS, score, "mean score"))
            rows.append(Row(f"{run.name} at {step:,.0f} steps, time", OURS, hour, "h"))
        result = run / "result.json"
        if result.is_file():
            final = json.loads(result.read_text())
            rows.append(Row(f"{run.name}, evaluation", OURS, final["mean"], "mean score"))
            print(f"{run.name}: {final['text']}")
    axes[0].set(xlabel=f"{named} agent steps", ylabel="score of training games")
    axes[1].set(xlabel="hours")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)
    report("curve", rows, options.json)


if __name__ == "__main__":
    main()
