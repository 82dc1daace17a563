"""Layers in one node of autograd: the numbers of the modules, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, prune

from agents import fused
from agents.ddpg import DDPG
from agents.heads import Layers
from configs.ddpg import DDPGConfig
from vision.gradcam import guided_backprop

CONFIG = DDPGConfig(hidden=40, hidden_second=24, final_init=0.0, init="torch")


def layers(normal: bool = False, action: int = 0, bf16: bool = False, **more: object) -> Layers:
    torch.manual_seed(0)
    made = Layers(replace(CONFIG, layer_norm=normal, **more), 7, 1 if action else 3, action, bf16)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) / 8)  # LayerNorm's aren't 0 and 1 any more
    return made


def slopes(out: Tensor) -> Tensor:
    return torch.linspace(-1, 1, out.numel(), dtype=torch.float32).view_as(out)


def learned(made: Layers, *inputs: Tensor) -> list[Tensor]:
    """Output, and slopes of inputs and weights, of a random sum of outputs."""
    made.zero_grad()
    given = [x.detach().clone().requires_grad_() for x in inputs]
    out = made(*given)
    (out * slopes(out)).sum().backward()
    return [out.detach(), *(x.grad for x in given), *(p.grad for p in made.parameters())]


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("action", [0, 2])
def test_it_is_the_modules_one_after_the_other(
    normal: bool, action: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = layers(normal, action)
    inputs = [torch.randn(9, 7), torch.randn(9, 2)][: 2 if action else 1]
    found = learned(made, *inputs)
    assert len(made.workspaces) == 1  # it did compute them
    with torch.no_grad():
        alone = made(*inputs)
    monkeypatch.setattr(fused, "run", lambda *_: None)
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
    monkeypatch.setattr(fused, "run", lambda *_: None)
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
    (out * slopes(out)).sum().backward(retain_graph=True)
    assert one.grad is not None
    for got, wanted in zip((one.grad, *(p.grad for p in made.parameters())), want, strict=True):
        assert torch.equal(got, wanted)
    kept.sum().backward()
    first = one.grad.clone()
    (out * slopes(out)).sum().backward()
    assert torch.equal(one.grad, 2 * first)


def test_memory_is_used_again_and_not_shared_with_a_copy() -> None:
    made = layers(True)
    kept = []
    for _ in range(5):
        loss = made(torch.randn(9, 7)).sum()
        loss.backward()
        kept.append(loss)  # holds the graph, but nothing that was needed for its gradients
    assert len(made.workspaces) == 1
    assert len(copy.deepcopy(made).workspaces) == 0
    with torch.inference_mode():
        made(torch.randn(1, 7))
    assert len(made.workspaces) == 2
    learned(made, torch.randn(1, 7))
    assert len(made.workspaces) == 2
    for rows in range(2, 9):
        learned(made, torch.randn(rows, 7))
    assert len(made.workspaces) == 4


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


def test_torchs_transforms_get_the_modules() -> None:
    made, x = layers(True), torch.randn(9, 7)
    want = made(x)
    exported = torch.export.export(made, (x,)).module()
    torch.testing.assert_close(exported(x), want)
    rows = torch.func.vmap(made)(x[:, None])[:, 0]
    torch.testing.assert_close(rows, want)
    with forward_ad.dual_level():
        dual = made(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(dual).tangent is not None
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert made(mode.from_tensor(x)).shape == want.shape
    assert made.to("meta")(x.to("meta")).shape == want.shape


def test_second_derivatives_are_refused_not_left_out() -> None:
    made, x = layers(True), torch.randn(9, 7, requires_grad=True)
    with pytest.raises(RuntimeError, match="fuses"):
        torch.autograd.grad(made(x).sum(), x, create_graph=True)
    made.fuses = False
    (slope,) = torch.autograd.grad(made(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad is not None and bool(x.grad.any())


def _hook(made: Layers) -> None:
    made.last.register_forward_hook(lambda module, given, out: out * 2)


def _prune(made: Layers) -> None:
    prune.l1_unstructured(made.first, "weight", 0.5)


def _normed(made: Layers) -> None:
    parametrizations.weight_norm(made.second)


def _replaced(made: Layers) -> None:
    made.last = nn.Sequential(made.last, nn.Tanh())  # type: ignore[assignment]


def _without_bias(made: Layers) -> None:
    made.last = nn.Linear(24, 3, bias=False)


def _without_norm(made: Layers) -> None:
    made.norms[1] = nn.Identity()


def _wide(made: Layers) -> None:
    for layer in (made.first, made.second, made.last):
        layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t() * 2)
        layer.bias = nn.Parameter(layer.bias.detach().repeat(2)[: len(layer.bias)] + 1)


def _eps(made: Layers) -> None:
    made.norms[0].eps = 10.0  # type: ignore[assignment]


@pytest.mark.parametrize(
    "change", [_hook, _prune, _normed, _replaced, _without_bias, _without_norm, _wide, _eps]
)
def test_changed_modules_count(
    change: Callable[[Layers], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, x = layers(True), torch.randn(9, 7)
    before = made(x)
    change(made)
    found = [learned(made, x) for _ in range(2)][1]
    monkeypatch.setattr(fused, "run", lambda *_: None)
    assert not torch.allclose(found[0], before, atol=1e-3) or change is _normed
    for got, want in zip(found, learned(made, x), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_weights_of_another_type_or_shape_are_the_modules_to_judge() -> None:
    x = torch.randn(9, 7)
    assert layers(action=2)(x, torch.randn(9, 2).double()).dtype == torch.float32
    with pytest.raises(RuntimeError):
        layers()(torch.randn(9, 6))
    with pytest.raises(RuntimeError):
        made = layers(True)
        made.norms.double()
        made(x)
    with pytest.raises(RuntimeError):
        made = layers()
        made.last = nn.Linear(10, 3)
        made(x)


def test_torchs_defaults_change_nothing() -> None:
    made, x = layers(True), torch.randn(300, 7)
    want = learned(made, x)
    torch.set_default_dtype(torch.bfloat16)
    try:
        fresh = copy.deepcopy(made)
        for got, wanted in zip(learned(fresh, x), want, strict=True):
            assert got.dtype == torch.float32
            assert torch.equal(got, wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_guided_gradients_are_those_of_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, encoder="impala", encoder_width=0.25, random_steps=0)
    made = DDPG(config, (3, 20, 20), 2)
    image = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    network, _, lean = made.explained(torch.ones(1, 2))
    found = guided_backprop(network, image, lean)
    monkeypatch.setattr(fused, "run", lambda *_: None)
    torch.testing.assert_close(found, guided_backprop(network, image, lean))
