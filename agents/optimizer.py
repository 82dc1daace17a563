"""Adam for small networks, gradients of bounded norm, and saved states taken up again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replay.generators import seed_of


class Adam(torch.optim.Adam):
    """torch's fused Adam (Kingma & Ba 2015) without what surrounds its step.

    On a CPU grouping, checking and profiling take longer than the arithmetic of a small network. On
    a GPU nothing in a step waits, so graphs can capture it.
    """

    def __init__(self, params: Any, lr: float, **more: Any) -> None:
        super().__init__(params, lr, fused=True, **more)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] or self._begin(p) for p in moved]
            steps = [state["step"] for state in states]
            if moved:
                torch._foreach_add_(steps, 1)
                torch._fused_adam_(
                    moved,
                    [p.grad for p in moved],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    [],
                    steps,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                )

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it for its profiler

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(parameter)
        return state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; they are set to None always."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def clip_grad_norm(parameters: Iterable[Tensor], most: float, *, ask: bool) -> None:
    """Scale all gradients together where their norm exceeds `most` (Pascanu et al. 2013).

    As torch's `clip_grad_norm_`, which multiplies even where there is nothing to do; `ask` spares
    that, and waits for the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    share = most / (nn.utils.get_total_norm(gradients) + 1e-6)
    if not ask or share < 1:
        torch._foreach_mul_(gradients, share.clamp(max=1.0))


def take_up(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict, which may come from a file or from a device of another kind.

    Raises ValueError where it belongs to other parameters.
    """
    # it would share these tensors with whoever gave the state
    optimizer.load_state_dict(copy.deepcopy(state))
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            if getattr(value, "shape", None) == parameter.shape:
                # laid out in memory like the parameter: fused steps walk through both as they lie
                own[name] = torch.empty_like(parameter).copy_(value)


def take_up_generator(generator: torch.Generator, state: Tensor) -> None:
    """Set a generator to a state that may come from a device of another kind, whose numbers are
    others: then that state seeds it, so that the same state always goes on in the same way."""
    state = state.cpu()
    if state.numel() == generator.get_state().numel():
        generator.set_state(state)
    else:
        generator.manual_seed(seed_of(state.numpy().tobytes()))
