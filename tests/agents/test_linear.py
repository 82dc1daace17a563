"""Linear layers in the type of their input: the same mathematics, float32 gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents.linear import Linear, linear, settle
from agents.polyak import Polyak


def test_float32_is_the_plain_layer() -> None:
    torch.manual_seed(0)
    layer, x = Linear(5, 3), torch.randn(4, 5)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_bf16_gives_float32_gradients_laid_out_like_the_parameters() -> None:
    torch.manual_seed(0)
    layer, x = Linear(40, 30), torch.randn(8, 40)
    low = x.bfloat16().requires_grad_()
    out = layer(low)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    found = (low.grad, layer.weight.grad, layer.bias.grad)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.is_contiguous()

    # the reference rounds where the layer does, and computes in float64
    wide = x.bfloat16().double().requires_grad_()
    weight = layer.weight.detach().bfloat16().double().requires_grad_()
    bias = layer.bias.detach().bfloat16().double().requires_grad_()
    F.linear(wide, weight, bias).square().sum().backward()
    for got, want in zip(found, (wide.grad, weight.grad, bias.grad), strict=True):
        assert got is not None and want is not None
        scale = float(want.abs().max())
        torch.testing.assert_close(got.double() / scale, want / scale, atol=0.02, rtol=0.02)


def test_a_bias_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RuntimeError):
        linear(torch.randn(2, 3).bfloat16(), torch.randn(4, 3), torch.randn(5))


def test_a_layer_follows_an_optimiser_that_leaves_no_sign() -> None:
    torch.manual_seed(0)
    layer, x = Linear(6, 4), torch.randn(3, 6).bfloat16()
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, fused=True)
    for _ in range(2):
        layer.requires_grad_(False)  # as critics are while the actor learns from them
        want = F.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16())
        assert torch.equal(layer(x), want)
        layer.requires_grad_(True)
        layer(x).float().sum().backward()
        optimizer.step()


def test_a_settled_layer_follows_what_is_copied_into_it() -> None:
    torch.manual_seed(0)
    layer = settle(nn.Sequential(Linear(6, 4)).requires_grad_(False))[0]
    x = torch.randn(3, 6).bfloat16()
    assert layer.settled
    for change in (
        lambda: None,
        lambda: layer.weight.mul_(2),
        lambda: layer.load_state_dict(Linear(6, 4).state_dict()),
        lambda: setattr(layer.weight, "data", torch.randn(4, 6)),
        lambda: layer.bias.add_(1),
        lambda: Polyak(layer, Linear(6, 4))(0.5),
    ):
        change()
        for _ in range(2):
            want = F.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16())
            assert torch.equal(layer(x), want)
    copied = copy.deepcopy(layer)
    copied.weight.zero_()
    assert torch.equal(copied(x), layer.bias.bfloat16().expand(3, 4))


def test_a_settled_layer_knows_another_weight_by_more_than_its_address() -> None:
    layer, x = settle(Linear(64, 64)).requires_grad_(False), torch.randn(4, 64).bfloat16()
    for value in range(50):
        layer.weight.data = torch.full((64, 64), float(value))
        assert torch.equal(layer.rounded(torch.bfloat16), layer.weight.bfloat16())
        layer.weight.data = torch.full((64, 64), -1.0)
    assert torch.equal(layer(x), F.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16()))
