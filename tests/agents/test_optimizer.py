"""Adam equals torch's, and gradients have a bounded norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agents.optimizer import Adam, clip_grad_norm, take_up, take_up_generator


@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, float("nan")])
def test_clipping_is_torchs(scale: float, ask: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.zeros(s)) for s in ((30, 20), (7,), (2,))] for _ in "ab")
    for a, b in list(zip(ours, theirs, strict=True))[:2]:  # the last has no gradient
        a.grad = torch.randn_like(a) * scale
        b.grad = a.grad.clone()
    clip_grad_norm(ours, 10.0, ask=ask)
    nn.utils.clip_grad_norm_(theirs, 10.0)
    for a, b in list(zip(ours, theirs, strict=True))[:2]:
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, equal_nan=True)
    assert ours[2].grad is None


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(s)) for s in ((30, 20), (7,), (2, 3, 4, 5), (2,))]
    made[2].data = made[2].data.contiguous(memory_format=torch.channels_last)
    return made


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_adam_is_torchs_bit_for_bit_and_reads_its_state(decay: float) -> None:
    ours, theirs = parameters(), parameters()
    groups = [[{"params": own[:2], "lr": 0.1}, {"params": own[2:]}] for own in (ours, theirs)]
    a = Adam(groups[0], 0.01, weight_decay=decay, eps=1e-4)
    b = torch.optim.Adam(groups[1], 0.01, weight_decay=decay, eps=1e-4, fused=True)
    for turn in range(6):
        for mine, other in list(zip(ours, theirs, strict=True))[:3]:  # the last has no gradient
            mine.grad = None if turn == 2 else torch.randn_like(mine)
            other.grad = None if turn == 2 else mine.grad.clone()  # type: ignore[union-attr]
        a.step()
        b.step()
        assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
        if turn == 3:  # each goes on with the other's
            states = copy.deepcopy((a.state_dict(), b.state_dict()))
            take_up(a, states[1])
            take_up(b, states[0])
    assert float(a.state[ours[0]]["step"]) == 5 and ours[3] not in a.state
    assert a.state_dict()["param_groups"] == b.state_dict()["param_groups"]
    a.zero_grad()
    assert all(mine.grad is None for mine in ours)


def test_a_generators_state_crosses_between_kinds_of_devices() -> None:
    """A CUDA generator's is 16 bytes, seed and offset; what it drew there can't be drawn here."""
    there = torch.arange(16, dtype=torch.uint8)
    draws = []
    for state in (there, there, there + 1):
        generator = torch.Generator()
        take_up_generator(generator, state)
        draws.append(torch.rand(3, generator=generator))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    first, second = torch.Generator().manual_seed(3), torch.Generator()
    torch.rand(5, generator=first)
    take_up_generator(second, first.get_state())
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))
