"""Ioffe & Szegedy 2015: fewer steps to the same accuracy, and higher learning rates.

    python -m benchmarks.claims.batchnorm [--steps N] [--seeds N] [--picture FILE.png] [--json FILE]

VGG-A of an eighth of its width on Shapeset-3x2, with and without BatchNorm, at a learning rate and
at 5 and 30 times of it, as in section 4.2.1. Steps are counted to the least test error that the
network without BatchNorm reaches at the first rate.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

import vision
from benchmarks.claims.shared import (
    CLASSES,
    TEST_IMAGES,
    curve,
    moments,
    panels,
    parse,
    row,
    save,
    shapeset,
    verdict,
)
from benchmarks.harness import report

NETWORKS = {"without": "vgg11", "with BatchNorm": "vgg11_bn"}
RATE, TIMES = 0.002, (1, 5, 30)
WIDTH, BATCH = 1 / 8, 32
LOOKS = 20


def main() -> None:
    """Train all, print the table, save the picture."""
    options = parse(__doc__, steps=800, seeds=5, picture="batchnorm.png")
    test = shapeset(TEST_IMAGES, seed=10_000)
    looks = moments(options.steps, LOOKS)
    curves: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for seed in range(options.seeds):
        data = shapeset(min(20_000, BATCH * options.steps), seed)
        for system, name in NETWORKS.items():
            for times in TIMES:
                torch.manual_seed(seed)
                build = getattr(vision, name)
                net = build(len(CLASSES), in_channels=1, width=WIDTH, dropout=0.0, init="he")
                optimizer = torch.optim.SGD(net.parameters(), times * RATE, momentum=0.9)
                curves[system, times].append(curve(net, optimizer, data, test, looks, BATCH, seed))
        print(f"seed {seed}: done", flush=True)

    goals = [min(errors) for errors in curves["without", 1]]
    least = {kind: [min(errors) for errors in found] for kind, found in curves.items()}
    needed = {
        kind: [
            next((step for step, e in zip(looks, errors, strict=True) if e <= goal), np.nan)
            for errors, goal in zip(found, goals, strict=True)
        ]
        for kind, found in curves.items()
    }
    rows = []
    for times in TIMES:
        for system in NETWORKS:
            kind, rate = (system, times), f"learning rate {times * RATE:g}"
            rows.append(row(f"{rate}: least test error", system, least[kind], "%"))
            reached = [step for step in needed[kind] if np.isfinite(step)]
            rows.append(row(f"{rate}: seeds that reach the goal", system, [len(reached)], ""))
            if len(reached) == options.seeds:
                rows.append(row(f"{rate}: steps to the goal", system, reached, "steps"))
    report("batchnorm", rows, options.json)

    late = 2 * options.steps  # what a network that never gets there counts as
    plain = [float(np.nan_to_num(step, nan=late)) for step in needed["without", 1]]
    for times in TIMES:
        normalised = [float(np.nan_to_num(s, nan=late)) for s in needed["with BatchNorm", times]]
        claim = f"with BatchNorm at {times}x the rate, fewer steps to the goal than without at 1x"
        print(verdict(claim + " (figure 2)", normalised, plain))
    print(
        verdict(
            f"at {TIMES[-1]}x the rate the network without BatchNorm ends worse than at 1x",
            goals,
            least["without", TIMES[-1]],
        )
    )
    print(
        verdict(
            f"and the one with BatchNorm ends better at {TIMES[-1]}x than at 1x (figure 3)",
            least["with BatchNorm", TIMES[-1]],
            least["with BatchNorm", 1],
        )
    )

    figure, (axis,) = panels(1)
    for (system, times), found in curves.items():
        style, colour = ("--", "-")[system != "without"], f"C{TIMES.index(times)}"
        label = f"{system}, {times * RATE:g}"
        axis.plot(looks, np.mean(found, 0), style, color=colour, label=label)
    axis.set(xlabel="steps", ylabel="test error, %", title="VGG-A with and without BatchNorm")
    axis.legend(fontsize=6)
    save(figure, options.picture)


if __name__ == "__main__":
    main()
