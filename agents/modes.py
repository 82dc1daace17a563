"""Training mode for as long as something is learned from."""

from __future__ import annotations

from torch import nn

from vision.train import Freezable


class Training:
    """`with Training(network):` has those modules in training mode that `network.train()` puts so.

    Outside of it all are in eval mode. The modules are looked for when this is made, and again when
    something was frozen or unfrozen: walking through them takes longer than a small network's
    arithmetic.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._look()

    def _look(self) -> None:
        modules = list(self._network.train().modules())
        self._woken = [module for module in modules if module.training]
        self._network.eval()
        freezable = [module for module in modules if isinstance(module, Freezable)]
        self._frozen = [(module, module.frozen) for module in freezable]

    def __enter__(self) -> None:
        if any(module.frozen != before for module, before in self._frozen):
            self._look()
        for module in self._woken:
            vars(module)["training"] = True  # a module's own way looks for parameters first

    def __exit__(self, *_: object) -> None:
        for module in self._woken:
            vars(module)["training"] = False
