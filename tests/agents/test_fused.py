"""Layers in one node of autograd: the numbers of the modules, one after the other."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agents import fused
from agents.heads import Layers
from configs.ddpg import DDPGConfig

CONFIG = DDPGConfig(hidden=40, hidden_second=24, final_init=0.0, init="torch")


def layers(normal: bool = False, action: int = 0, bf16: bool = False, **more: object) -> Layers:
    torch.manual_seed(0)
    made = Layers(replace(CONFIG, layer_norm=normal, **more), 7, 1 if action else 3, action, bf16)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) / 8)  # LayerNorm's aren't 0 and 1 any more
    return made


def learned(made: Layers, *inputs: Tensor) -> list[Tensor]:
    """Output, and slopes of inputs and weights, of a random sum of outputs."""
    made.zero_grad()
    given = [x.detach().clone().requires_grad_() for x in inputs]
    out = made(*given)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out.detach(), *(x.grad for x in given), *(p.grad for p in made.parameters())]


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("action", [0, 2])
def test_it_is_the_modules_one_after_the_other(
    normal: bool, action: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = layers(normal, action)
    inputs = [torch.randn(9, 7), torch.randn(9, 2)][: 2 if action else 1]
    assert fused.fits(made, inputs[0])
    found = learned(made, *inputs)
    with torch.no_grad():
        alone = made(*inputs)
    monkeypatch.setattr(fused, "fits", lambda *_: False)
    for got, want in zip(found, learned(made, *inputs), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert torch.equal(alone, found[0])


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("action", [0, 2])
def test_bf16_stays_as_near_as_it_can(
    normal: bool, action: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [torch.randn(64, 7), torch.randn(64, 2)][: 2 if action else 1]
    found = learned(layers(normal, action, bf16=True), *inputs)
    monkeypatch.setattr(fused, "fits", lambda *_: False)
    exact = learned(layers(normal, action), *inputs)
    for got, want in zip(found, exact, strict=True):
        assert got.dtype == torch.float32
        assert float((got - want).norm()) < 0.05 * float(want.norm())
    assert not torch.equal(found[0], exact[0])


def test_a_feature_in_bf16_is_computed_in_bf16() -> None:
    made, x = layers(True, bf16=True), torch.randn(64, 7)
    out, of_x, *_ = learned(made, x.bfloat16())
    assert of_x.dtype == torch.bfloat16 and out.dtype == torch.float32
    assert float((out - made(x).detach()).norm()) < 0.05 * float(out.norm())


def test_passes_whose_slopes_are_open_keep_what_they_need() -> None:
    made = layers(True)
    x, other = torch.randn(9, 7), torch.randn(9, 7)
    want = learned(made, x)[1:]
    made.zero_grad()
    one = x.clone().requires_grad_()
    out = made(one)
    made(other).sum()  # dropped
    kept = made(other.requires_grad_())
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward(retain_graph=True)
    assert one.grad is not None
    for got, wanted in zip((one.grad, *(p.grad for p in made.parameters())), want, strict=True):
        assert torch.equal(got, wanted)
    kept.sum().backward()
    first = one.grad.clone()
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert torch.equal(one.grad, 2 * first)


def test_memory_is_used_again_and_not_shared_with_a_copy() -> None:
    made = layers(True)
    for _ in range(5):
        learned(made, torch.randn(9, 7))
    assert len(made.desks) == 1
    assert len(copy.deepcopy(made).desks) == 0
    with torch.inference_mode():
        made(torch.randn(1, 7))
    assert len(made.desks) == 2
    learned(made, torch.randn(1, 7))
    assert len(made.desks) == 2
    for rows in range(2, 9):
        learned(made, torch.randn(rows, 7))
    assert len(made.desks) <= 4


def test_nothing_is_worked_out_for_weights_that_rest() -> None:
    made = layers(True, 2).requires_grad_(False)
    action = torch.randn(9, 2, requires_grad=True)
    made(torch.randn(9, 7), action).sum().backward()
    assert action.grad is not None and bool(action.grad.any())
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_comes_out_as_none(value: float, bf16: bool) -> None:
    x = torch.randn(20, 7)
    x[3, 2] = value
    out = layers(True, bf16=bf16)(x)
    assert not out[3].isfinite().any() and bool(out[4:].isfinite().all())


def test_who_looks_into_the_graph_gets_the_modules() -> None:
    made, x = layers(True), torch.randn(9, 7)
    want = made(x)
    exported = torch.export.export(made, (x,)).module()
    torch.testing.assert_close(exported(x), want)
    rows = torch.func.vmap(made)(x[:, None])[:, 0]
    torch.testing.assert_close(rows, want)
    assert not fused.fits(layers(batch_norm=True), x)
    assert not fused.fits(layers(action=2, action_layer=2), x)
    assert not fused.fits(made.double(), x.double())
