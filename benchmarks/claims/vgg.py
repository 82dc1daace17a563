"""Simonyan & Zisserman 2014: depth helps, local response normalisation doesn't.

    python -m benchmarks.claims.vgg [--steps N] [--seeds N] [--picture FILE.png] [--json FILE]

Configurations A, A-LRN, B, D and E at an eighth of their width on Shapeset-3x2, with BatchNorm and
He's initialisation, so that none needs a shallower one's weights to start from (section 3.1).
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

NETWORKS = {
    "A": "vgg11_bn",
    "A-LRN": "vgg11_lrn_bn",
    "B": "vgg13_bn",
    "D": "vgg16_bn",
    "E": "vgg19_bn",
}
RATE, WIDTH, BATCH = 0.003, 1 / 8, 32
LOOKS = 10


def main() -> None:
    """Train all, print the table, save the picture."""
    options = parse(__doc__, steps=1_000, seeds=5, picture="vgg.png")
    test = shapeset(TEST_IMAGES, seed=10_000)
    looks = moments(options.steps, LOOKS)
    curves: dict[str, list[list[float]]] = defaultdict(list)
    for seed in range(options.seeds):
        data = shapeset(min(20_000, BATCH * options.steps), seed)
        for letter, name in NETWORKS.items():
            torch.manual_seed(seed)
            build = getattr(vision, name)
            net = build(len(CLASSES), in_channels=1, width=WIDTH, dropout=0.0, init="he")
            optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9)
            # gently at the end, as every published figure is of a network that has settled
            curves[letter].append(
                curve(net, optimizer, data, test, looks, BATCH, seed, settles=True)
            )
        print(f"seed {seed}: done", flush=True)

    ends = {letter: [errors[-1] for errors in found] for letter, found in curves.items()}
    case = f"test error after {options.steps:,} steps"
    report("vgg", [row(case, letter, values, "%") for letter, values in ends.items()], options.json)
    for deeper, shallower in (("B", "A"), ("D", "B"), ("E", "D"), ("E", "A")):
        claim = f"{deeper} errs less than {shallower}, which is shallower (table 3)"
        print(verdict(claim, ends[deeper], ends[shallower]))
    print(
        verdict(
            "A errs less than A-LRN: normalisation doesn't help (table 3)", ends["A"], ends["A-LRN"]
        )
    )

    figure, (axis,) = panels(1)
    for letter, found in curves.items():
        style = "--" if letter == "A-LRN" else "-"
        axis.plot(looks, np.mean(found, 0), style, label=letter)
    axis.set(xlabel="steps", ylabel="test error, %", title="VGG by depth")
    axis.legend(fontsize=7)
    save(figure, options.picture)


if __name__ == "__main__":
    main()
