"""An optimiser's state, taken up again."""

from __future__ import annotations

import copy
from typing import Any

import torch


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
