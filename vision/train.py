"""Fine-tuning: freeze a network, or give its encoder a learning rate of its own."""

from __future__ import annotations

from typing import Any, Self, TypeVar

from torch import nn


class Freezable(nn.Module):
    """A module that can be frozen: its parameters get no gradient and it stays in eval mode.

    Staying in eval mode is what keeps BatchNorm's statistics where they are, although whoever
    trains the network around it calls `train()` on the whole.
    """

    frozen: bool = False

    def train(self, mode: bool = True) -> Self:
        """As in torch, except that what is frozen remains in eval mode."""
        return super().train(mode and not self.frozen)


F = TypeVar("F", bound=Freezable)


def freeze(module: F) -> F:
    """Hold `module` as it is: parameters, and BatchNorm's statistics. Returns it.

    Raises TypeError for a module of another's, which whoever trains around it would wake.
    """
    if not isinstance(module, Freezable):
        raise TypeError(
            f"{type(module).__name__} is no Freezable module, as encoders and networks of vision "
            "are: train() of what is around it would set its BatchNorm moving again"
        )
    module.frozen = True
    module.requires_grad_(False)
    module.eval()
    return module


def unfreeze(module: F) -> F:
    """Let all of `module` learn again; its mode stays eval until someone calls `train()`."""
    module.frozen = False
    module.requires_grad_(True)
    return module


def parameter_groups(
    encoder: nn.Module, head: nn.Module, encoder_lr: float | None = None
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: the encoder's parameters, then the head's.

    encoder     its trainable parameters make the first group; frozen, it has none and no group
    head        may contain the encoder: parameters are listed once
    encoder_lr  the encoder's learning rate; None leaves the optimiser's
    Raises ValueError for a learning rate that is not above 0, and if nothing can learn.
    """
    if encoder_lr is not None and not encoder_lr > 0:
        raise ValueError(
            f"the encoder's learning rate is {encoder_lr}; it must be above 0 "
            "(freeze(encoder) holds the encoder still)"
        )
    own = {id(p) for p in encoder.parameters()}
    first: dict[str, Any] = {"params": [p for p in encoder.parameters() if p.requires_grad]}
    if encoder_lr is not None:
        first["lr"] = encoder_lr
    rest = [p for p in head.parameters() if p.requires_grad and id(p) not in own]
    groups = [group for group in (first, {"params": rest}) if group["params"]]
    if not groups:
        raise ValueError("neither the encoder nor the head has a parameter that can learn")
    return groups
