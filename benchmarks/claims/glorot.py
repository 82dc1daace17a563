"""Glorot & Bengio 2010: what flows through deep networks, by activation and initialisation.

    python -m benchmarks.claims.glorot [--steps N] [--seeds N] [--picture FILE.png] [--json FILE]

Dense networks of five hidden layers on Shapeset-3x2. At the start: the variance of each layer's
activations and of the gradients by its sums, for the standard initialisation (equation 1) and the
normalised one (equation 16). After training: the test error; and, of sigmoid networks, how far the
top hidden layer saturates on the way (section 3.1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.claims.shared import (
    CLASSES,
    TEST_IMAGES,
    Images,
    error,
    moments,
    panels,
    parse,
    row,
    save,
    shapeset,
    train,
    verdict,
)
from benchmarks.harness import report
from vision import initialise

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
}
INITIALISATIONS = ("standard", "normalised")
DEPTH, UNITS, SIZE = 5, 256, 32
BATCH = 32
RATES = {"tanh": 0.05, "softsign": 0.05, "sigmoid": 0.2}
"""Learning rates; the paper too chose them by network."""
LOOKS = 40
"""Times that a training run's top layer is looked at."""


class Dense(nn.Module):
    """Five hidden layers of one activation, and class scores."""

    def __init__(self, activation: str, initialisation: str) -> None:
        super().__init__()
        sizes = [SIZE * SIZE, *[UNITS] * DEPTH, len(CLASSES)]
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[activation]
        initialise(self, "xavier")
        if initialisation == "standard":
            for layer in layers:
                bound = layer.in_features**-0.5
                nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, SIZE, SIZE) -> (B, classes)."""
        return self.layers[-1](self.hidden(x)[1][-1])

    def hidden(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The hidden layers' sums and activations, (B, UNITS) each."""
        x, sums, outputs = x.flatten(1), [], []
        for layer in list(self.layers)[:-1]:
            sums.append(layer(x))
            x = self.activation(sums[-1])
            outputs.append(x)
        return sums, outputs


def flows(net: Dense, data: Images) -> tuple[list[float], list[float]]:
    """Variance of the activations, and of the cost's gradient by the sums, of each hidden layer."""
    sums, outputs = net.hidden(data.pixels)
    cost = F.cross_entropy(net.layers[-1](outputs[-1]), data.labels, reduction="sum")
    gradients = torch.autograd.grad(cost, sums)
    return [float(v.detach().var()) for v in outputs], [float(v.var()) for v in gradients]


def main() -> None:
    """Measure, train, print the table, save the picture."""
    options = parse(__doc__, steps=2_000, seeds=5, picture="glorot.png")
    test = shapeset(TEST_IMAGES, seed=10_000)
    activations: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    gradients: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    tops: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    looks = moments(options.steps, LOOKS)
    for seed in range(options.seeds):
        data = shapeset(min(20_000, BATCH * options.steps), seed)
        for activation in ACTIVATIONS:
            for initialisation in INITIALISATIONS:
                kind = activation, initialisation
                torch.manual_seed(seed)
                net = Dense(*kind)
                forward, backward = flows(net, Images(*(part[:300] for part in data)))
                activations[kind].append(forward)
                gradients[kind].append(backward)
                seen = []
                optimizer = torch.optim.SGD(net.parameters(), RATES[activation])
                for step in train(net, optimizer, data, options.steps, BATCH, seed):
                    if step in looks:
                        with torch.no_grad():
                            seen.append(float(net.hidden(test.pixels[:300])[1][-1].mean()))
                tops[kind].append(seen)
                errors[kind].append(error(net, test))
        print(f"seed {seed}: done", flush=True)

    rows = []
    for what, found in (("activations", activations), ("gradients", gradients)):
        for activation in ACTIVATIONS:
            for layer in range(DEPTH):
                for way in INITIALISATIONS:
                    values = [each[layer] for each in found[activation, way]]
                    case = f"{activation}: variance of {what}, layer {layer + 1}"
                    rows.append(row(case, way, values, ""))
    for activation in ACTIVATIONS:
        for way in INITIALISATIONS:
            case = f"{activation}: test error after {options.steps:,} steps"
            rows.append(row(case, way, errors[activation, way], "%"))
    lowest = {way: [min(seen) for seen in tops["sigmoid", way]] for way in INITIALISATIONS}
    for way in INITIALISATIONS:
        rows.append(row("sigmoid: lowest mean of the top layer", way, lowest[way], ""))
    report("glorot", rows, options.json)

    def kept(found: dict[tuple[str, str], list[list[float]]], way: str, a: int, b: int) -> list:
        """How far the variance of tanh layers departs from layer to layer, in decades."""
        return [abs(float(np.log10(each[a] / each[b]))) for each in found["tanh", way]]

    last = DEPTH - 1
    for line in (
        verdict(
            "normalised tanh layers keep their gradients' variance better (section 4.2)",
            kept(gradients, "normalised", 0, last),
            kept(gradients, "standard", 0, last),
        ),
        verdict(
            "and their activations' (section 4.2)",
            kept(activations, "normalised", last, 0),
            kept(activations, "standard", last, 0),
        ),
        verdict(
            "normalised tanh networks end with less error (table 1)",
            errors["tanh", "normalised"],
            errors["tanh", "standard"],
        ),
        verdict(
            "softsign gains little by it: less than tanh (table 1)",
            np.subtract(errors["softsign", "standard"], errors["softsign", "normalised"]).tolist(),
            np.subtract(errors["tanh", "standard"], errors["tanh", "normalised"]).tolist(),
        ),
        verdict(
            "sigmoid networks end worse than tanh ones (table 1)",
            errors["tanh", "standard"],
            errors["sigmoid", "standard"],
        ),
        verdict(
            "the top sigmoid layer saturates near 0: its mean falls below 0.1 (section 3.1)",
            lowest["standard"],
            [0.1] * options.seeds,
        ),
    ):
        print(line)

    figure, axes = panels(3)
    styles = dict(zip(INITIALISATIONS, ("--", "-"), strict=True))
    colours = dict(zip(ACTIVATIONS, ("C0", "C1", "C2"), strict=True))
    for axis, title, found in (
        (axes[0], "variance of activations", activations),
        (axes[1], "variance of gradients", gradients),
    ):
        for (activation, way), runs in found.items():
            axis.plot(
                range(1, DEPTH + 1),
                np.mean(runs, 0),
                styles[way],
                color=colours[activation],
                label=f"{activation}, {way}",
            )
        axis.set(xlabel="hidden layer", title=title, yscale="log", xticks=range(1, DEPTH + 1))
    axes[0].legend(fontsize=6)
    for way in INITIALISATIONS:
        axes[2].plot(looks, np.mean(tops["sigmoid", way], 0), styles[way], color="C2", label=way)
    axes[2].set(xlabel="steps", title="mean of sigmoid's top layer")
    axes[2].legend(fontsize=7)
    save(figure, options.picture)


if __name__ == "__main__":
    main()
