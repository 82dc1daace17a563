"""Training mode for as long as something is learned from."""

from __future__ import annotations

from torch import nn


class Training:
    """`with Training(network):` has in training mode what `network.train()` puts there.

    Outside of it all is in eval mode. The modules are found once, for walking through them takes
    longer than a small network's arithmetic.
    """

    def __init__(self, network: nn.Module) -> None:
        self._woken = [module for module in network.train().modules() if module.training]
        network.eval()

    def __enter__(self) -> None:
        for module in self._woken:
            vars(module)["training"] = True  # a module's own way looks for parameters first

    def __exit__(self, *_: object) -> None:
        for module in self._woken:
            vars(module)["training"] = False
