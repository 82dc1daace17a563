"""Does an explanation depend on what the network learned? Randomise it layer by layer and see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Similarity(NamedTuple):
    """How much of the explanation is left after a layer's weights became random."""

    layer: str
    """The layer's name; all after it are random too."""
    rank: float
    """Mean over samples of Spearman's rank correlation with the original, in [-1, 1]."""
    share: float = 1.0
    """Samples that had ranks to compare, of all."""


def randomisation_test(
    module: nn.Module, explain: Callable[[nn.Module], Tensor], *, seed: int = 0
) -> list[Similarity]:
    """Compare an explanation with those of the same network, made random from the output down.

    explain  from a network like `module` to maps (B, ...): it must look up the layer that it
             explains in its argument, e.g. by `get_submodule`
    seed     of the random weights; torch's generators are as before afterwards

    Adebayo et al. 2018, section 3.1. Weights are drawn anew as each layer's `reset_parameters`
    does, else from a normal distribution of their own mean and deviation. An explanation that stays
    similar doesn't depend on what those layers learned. `module` itself is not altered. Samples
    with a constant map have no ranks and are left out; NaN if all have one.
    """
    original = explain(module).detach()
    layers = [
        name
        for name, layer in module.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
    ]
    results = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random = copy.deepcopy(module)
        for name in reversed(layers):
            randomise(random.get_submodule(name))
            found = explain(random).detach()
            ranks = rank_correlation(original, found)
            share = float(ranks.isfinite().double().mean())
            results.append(Similarity(name, float(ranks.nanmean()), share))
    return results


@torch.no_grad()
def randomise(layer: nn.Module) -> None:
    """Draw one layer's own parameters anew, in place."""
    reset = getattr(layer, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in layer.parameters(recurse=False):
        deviation = float(parameter.std()) if parameter.numel() > 1 else 0.0
        parameter.normal_(float(parameter.mean()), deviation or 1.0)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of each sample of two (B, ...); (B,) float64, ties averaged."""
    if a.shape != b.shape:
        raise ValueError(f"explanations of shapes {tuple(a.shape)} and {tuple(b.shape)}")
    x, y = (torch.stack([_ranks(row) for row in v.flatten(1)]) for v in (a, b))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of (N,), float64; equal values share their mean."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts + 1) / 2)[inverse]
