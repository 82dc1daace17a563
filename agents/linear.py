"""Linear layers whose parameters are float32 and whose arithmetic is that of their input."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear of x (B, I), weight (O, I) and bias (O,), in the type of x.

    A bfloat16 x has the float32 parameters rounded to it, and their gradients come back in
    float32, laid out like the parameters. Plain casts leave a transposed gradient behind, whose
    conversion takes longer than the product.
    """
    if x.dtype == weight.dtype:
        return F.linear(x, weight, bias)
    out: Tensor = _Rounded.apply(x, weight, bias)
    return out


class Linear(nn.Linear):
    """nn.Linear that computes in the type of its input."""

    settled = False
    """Whether weights are rounded when they change, rather than at every call; see `settle`."""
    _rounded: tuple[object, Tensor, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features), of the same type."""
        weight, bias = self.weight, self.bias
        kept = self.settled and weight.device.type == "cpu" and not torch.compiler.is_compiling()
        if input.dtype == weight.dtype or not kept:
            return linear(input, weight, bias)
        return F.linear(input, self.rounded(input.dtype), bias.to(input.dtype))

    def rounded(self, dtype: torch.dtype) -> Tensor:
        """The weight in that type, without a gradient; a settled layer keeps it."""
        weight = self.weight.detach()
        if dtype == weight.dtype:
            return weight
        if not self.settled:
            return weight.to(dtype)
        version = dtype, weight.data_ptr(), weight._version
        if self._rounded is None or self._rounded[0] != version:
            # the weight too, or another could come to lie at its address
            self._rounded = version, weight.to(dtype), weight
        return self._rounded[1]


def settle(network: N) -> N:
    """Have a target network round its weights once a change, on the CPU; returns it.

    Only for what copies change: torch's fused optimisers leave no sign of their steps, and no
    gradient reaches a settled layer's weights.
    """
    for layer in network.modules():
        if isinstance(layer, Linear):
            layer.settled = True
    return network


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rounded = weight.to(x.dtype)
        ctx.save_for_backward(x, rounded)
        return torch.addmm(bias.to(x.dtype), x, rounded.t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,), (x, rounded) = gradients, ctx.saved_tensors
        return gradient @ rounded, (gradient.t() @ x).float(), gradient.float().sum(0)
