"""Initialisers of the papers, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

INITIALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    # Glorot & Bengio 2010, equation 16, gain 1
    "xavier": nn.init.xavier_uniform_,
    # He et al. 2015 (Delving Deep into Rectifiers), equation 10, fan in
    "he": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    # Saxe et al. 2014, gain sqrt(2) for ReLU
    "orthogonal": lambda w: nn.init.orthogonal_(w, gain=2**0.5),
}


def initialise(module: nn.Module, name: str) -> None:
    """Initialise every convolution and linear layer of `module` in place; biases become 0.

    name  xavier, he or orthogonal; torch leaves PyTorch's own, U(±1/sqrt(fan in)), which is
          what the DQN papers' code used too
    """
    if name == "torch":
        return
    if name not in INITIALISERS:
        raise ValueError(
            f"no initialiser is called {name!r}; known: torch, {', '.join(INITIALISERS)}"
        )
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            INITIALISERS[name](layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
