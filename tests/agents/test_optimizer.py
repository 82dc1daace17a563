"""Gradients of bounded norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents.optimizer import limit


@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, float("nan")])
def test_limit_is_torchs_clipping(scale: float, ask: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.zeros(s)) for s in ((30, 20), (7,), (2,))] for _ in "ab")
    for a, b in list(zip(ours, theirs, strict=True))[:2]:  # the last has no gradient
        a.grad = torch.randn_like(a) * scale
        b.grad = a.grad.clone()
    limit(ours, 10.0, ask=ask)
    nn.utils.clip_grad_norm_(theirs, 10.0)
    for a, b in list(zip(ours, theirs, strict=True))[:2]:
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, equal_nan=True)
    assert ours[2].grad is None
