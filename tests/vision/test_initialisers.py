"""Initialisers: the papers' variances, and clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vision


@pytest.mark.parametrize(
    ("name", "conv", "linear"),
    [
        # a convolution of 16 to 32 channels with 3x3, a linear layer of 64 to 32
        ("xavier", 2 / (9 * 16 + 9 * 32), 2 / (64 + 32)),
        ("he", 2 / (9 * 16), 2 / 64),
        ("orthogonal", 2 / (9 * 16), 2 / 64),
        ("vgg", 1e-4, 1e-4),
        ("resnet", 2 / (9 * 32), 1 / 3 / 64),
        ("torchvision-vgg", 2 / (9 * 32), 1e-4),
        ("drq", 2 / (9 * 16), 1 / 64),
        ("normal:0.03", 9e-4, 9e-4),
        ("torch", 1 / 3 / (9 * 16), 1 / 3 / 64),
    ],
)
def test_initialisers_have_their_variance(name: str, conv: float, linear: float) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(16, 32, 3), nn.Linear(64, 32)])
    vision.initialise(layers, name)
    assert layers[0].weight.var().item() == pytest.approx(conv, rel=0.15)
    assert layers[1].weight.var().item() == pytest.approx(linear, rel=0.15)
    assert (layers[1].bias.abs().max() == 0) == (name != "torch")
    assert abs(layers[0].weight.mean()) < 4 * (conv / layers[0].weight.numel()) ** 0.5


def test_xavier_is_uniform_and_orthogonal_is_orthogonal() -> None:
    layer = nn.Linear(64, 32)
    vision.initialise(layer, "xavier")
    assert layer.weight.abs().max() <= (6 / 96) ** 0.5
    vision.initialise(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, 2 * torch.eye(32))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("xavir", "no initialiser is called 'xavir'; did you mean 'xavier'? Known: torch, xavier"),
        ("normal:0", "'normal:0' needs a standard deviation above 0, as in normal:0.01"),
        ("normal:wide", "'normal:wide' needs a standard deviation"),
        ("normal", "did you mean 'normal:0.01'"),
    ],
)
def test_an_unknown_initialiser_is_told_the_nearest(name: str, says: str) -> None:
    with pytest.raises(ValueError) as error:
        vision.initialise(nn.Linear(2, 2), name)
    assert says in str(error.value)


def test_norm_layers_are_left_alone() -> None:
    net = vision.resnet18(2, width=0.1)
    vision.initialise(net, "normal:0.5")
    assert (net.bn1.weight == 1).all() and (net.bn1.bias == 0).all()
