"""What optimisers leave to do: gradients of bounded norm, and a state taken up again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def limit(parameters: Iterable[Tensor], most: float, *, ask: bool) -> None:
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
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = group["params"][0].is_cuda
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            if getattr(value, "shape", None) == parameter.shape:
                # laid out in memory like the parameter: fused steps walk through both as they lie
                own[name] = torch.empty_like(parameter).copy_(value)
