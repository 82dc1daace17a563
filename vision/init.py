"""Initialisers of the papers, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vision.registry import choose

Fill = Callable[[Tensor], object]


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _he_out(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _orthogonal_relu(weight: Tensor) -> None:
    nn.init.orthogonal_(weight, gain=2**0.5)


def _normal(sigma: float) -> Fill:
    return lambda weight: nn.init.normal_(weight, 0.0, sigma)


def _leave(weight: Tensor) -> None:
    """PyTorch's own."""


INITIALISERS: dict[str, tuple[Fill, Fill]] = {
    # for convolutions, for linear layers
    # Glorot & Bengio 2010, equation 16, gain 1
    "xavier": (nn.init.xavier_uniform_, nn.init.xavier_uniform_),
    # He et al. 2015 (Delving Deep into Rectifiers), equation 10, fan in
    "he": (_he, _he),
    # Saxe et al. 2014, gain sqrt(2) for ReLU
    "orthogonal": (_orthogonal_relu, _orthogonal_relu),
    # Simonyan & Zisserman 2014, section 3.1. The paper prints a variance of 10^-2, with which the
    # activations grow twentyfold a layer; He et al. 2015 (section 2.2) read it as a standard
    # deviation of 0.01, and so does this. `normal:0.1` is what is printed.
    "vgg": (_normal(0.01), _normal(0.01)),
    # He et al. 2016 (Deep Residual Learning), section 3.4, as its authors' code: fan out for
    # convolutions, PyTorch's own weights for the linear layer
    "resnet": (_he_out, _leave),
    # torchvision's VGG: what its files were trained from
    "torchvision-vgg": (_he_out, _normal(0.01)),
    # Yarats et al. 2021, as its authors' code: orthogonal, gain sqrt(2) before ReLU, else 1
    "drq": (_orthogonal_relu, nn.init.orthogonal_),
}


def initialise(module: nn.Module, name: str) -> None:
    """Initialise every convolution and linear layer of `module` in place; biases become 0.

    name  one of INITIALISERS; `normal:0.01` draws from N(0, 0.01^2); torch leaves everything as
          PyTorch made it, U(±1/sqrt(fan in)), which is what the DQN papers' code used too
    Raises ValueError for another name, or a standard deviation that is not above 0.
    """
    if name == "torch":
        return
    conv, linear = _find(name)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            (conv if isinstance(layer, nn.Conv2d) else linear)(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _find(name: str) -> tuple[Fill, Fill]:
    """The fills for convolutions and for linear layers; ValueError names the nearest."""
    kind, colon, value = name.partition(":")
    if kind == "normal" and colon:
        try:
            sigma = float(value)
        except ValueError:
            sigma = 0.0
        if not 0 < sigma < float("inf"):
            raise ValueError(
                f"the initialiser {name!r} needs a standard deviation above 0, as in normal:0.01"
            )
        return _normal(sigma), _normal(sigma)
    known = ["torch", *INITIALISERS, "normal:0.01"]
    return INITIALISERS[choose("no initialiser is called", name, known)]
