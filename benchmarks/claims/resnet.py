"""He et al. 2016: deeper plain networks train worse, and shortcuts reverse it.

    python -m benchmarks.claims.resnet [--steps N] [--seeds N] [--picture FILE.png] [--json FILE]

The CIFAR networks of 20 and 56 layers, with and without shortcuts, at half their width on 3,000
images of Shapeset-3x2, 16x16 pixels each (section 4.2, figure 6). Errors are of these images: it is
training that suffers.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

import vision
from benchmarks.claims.shared import (
    CLASSES,
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

NETWORKS = ("plain20", "plain56", "resnet20", "resnet56")
RATE, WIDTH, BATCH = 0.02, 1 / 2, 64
IMAGES, SIZE = 3_000, 16
LOOKS = 10


def main() -> None:
    """Train all, print the table, save the picture."""
    options = parse(__doc__, steps=500, seeds=5, picture="resnet.png")
    looks = moments(options.steps, LOOKS)
    curves: dict[str, list[list[float]]] = defaultdict(list)
    for seed in range(options.seeds):
        data = shapeset(min(IMAGES, BATCH * options.steps), seed, SIZE)
        for name in NETWORKS:
            torch.manual_seed(seed)
            net = getattr(vision, name)(len(CLASSES), in_channels=1, width=WIDTH)
            # the paper's: momentum 0.9, weight decay 1e-4
            optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
            # the paper divides the rate by 10 twice: what is compared are networks that settled
            curves[name].append(curve(net, optimizer, data, data, looks, BATCH, seed, settles=True))
        print(f"seed {seed}: done", flush=True)

    ends = {name: [errors[-1] for errors in found] for name, found in curves.items()}
    rows = []
    for depth in ("20", "56"):
        for family in ("plain", "resnet"):
            case = f"{depth} layers: training error after {options.steps:,} steps"
            rows.append(row(case, family, ends[family + depth], "%"))
    report("resnet", rows, options.json)
    for claim, less, more in (
        ("plain-20 trains better than plain-56 (figure 6, left)", "plain20", "plain56"),
        ("resnet-56 trains better than resnet-20 (figure 6, middle)", "resnet56", "resnet20"),
        ("resnet-56 trains better than plain-56", "resnet56", "plain56"),
    ):
        print(verdict(claim, ends[less], ends[more]))

    figure, (axis,) = panels(1)
    for name, found in curves.items():
        style = "--" if name.startswith("plain") else "-"
        colour = "C0" if name.endswith("20") else "C1"
        axis.plot(looks, np.mean(found, 0), style, color=colour, label=name)
    axis.set(xlabel="steps", ylabel="training error, %", title="With and without shortcuts")
    axis.legend(fontsize=7)
    save(figure, options.picture)


if __name__ == "__main__":
    main()
