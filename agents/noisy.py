"""Noisy linear layers, by which a network explores on its own."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from agents.linear import linear


class NoisyLinear(nn.Module):
    """A linear layer whose weights carry learned, factorised Gaussian noise.

    Fortunato et al. 2018, section 3, equations 9 to 11; sigma_0 is 0.5, as there. The noise stays
    as it is until `resample` or `silence` is called, so that a whole batch shares one draw.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        sigma = 0.5 * bound
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full_like(self.weight, sigma))
        self.bias_sigma = nn.Parameter(torch.full_like(self.bias, sigma))
        self.register_buffer("noise_in", torch.zeros(in_features), persistent=False)
        self.register_buffer("noise_out", torch.zeros(out_features), persistent=False)
        self.noise_in: Tensor
        self.noise_out: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features).

        The noise is a rank-one matrix, so it is applied to the input and the output rather than
        to a second weight matrix in memory.
        """
        before, after = self.noise_in.to(x.dtype), self.noise_out.to(x.dtype)
        noisy = linear(x * before, self.weight_sigma, self.bias_sigma) * after
        return linear(x, self.weight, self.bias) + noisy


def resample(network: nn.Module, generator: Generator) -> None:
    """Draw new noise in every noisy layer: f(x) = sign(x) sqrt(|x|) of a unit Gaussian."""
    layers = [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]
    noises = [noise for layer in layers for noise in (layer.noise_in, layer.noise_out)]
    if noises:
        sizes = [len(noise) for noise in noises]  # all at once, for each draw is a launch
        drawn = noises[0].new_empty(sum(sizes)).normal_(generator=generator)
        drawn = drawn.sign() * drawn.abs().sqrt()
        torch._foreach_copy_(noises, drawn.split(sizes))


def silence(network: nn.Module) -> None:
    """Set the noise of every noisy layer to 0: the mean network."""
    for layer in network.modules():
        if isinstance(layer, NoisyLinear):
            layer.noise_in.zero_()
            layer.noise_out.zero_()
