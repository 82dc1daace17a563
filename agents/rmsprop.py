"""The optimiser of the DQN papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class CentredRMSprop(torch.optim.Optimizer):
    """RMSProp with a running mean of the gradient taken from its running square.

    Graves 2013, equations 38 to 41, as the Nature paper uses it: Extended Data Table 1's "gradient
    momentum" and "squared gradient momentum" are both `decay`, its "min squared gradient" is `eps`
    and stands under the root, where torch.optim.RMSprop would add it outside.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, decay: float = 0.95, eps: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in moved]
            means = [self._running(p, "mean") for p in moved]
            squares = [self._running(p, "square") for p in moved]
            torch._foreach_lerp_(means, grads, 1 - group["decay"])
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, grads, grads, value=1 - group["decay"])
            root = torch._foreach_addcmul(squares, means, means, value=-1.0)
            torch._foreach_add_(root, group["eps"])
            torch._foreach_sqrt_(root)
            torch._foreach_addcdiv_(moved, grads, root, value=-group["lr"])

    def _running(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]
