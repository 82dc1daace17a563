"""The randomisation test of explanations."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import vision
from vision.sanity import randomisation_test, randomise, rank_correlation


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )


def test_rank_correlation_by_hand() -> None:
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 1.0, 9.0]])
    b = torch.tensor([[10.0, 20.0, 30.0, 99.0], [4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 1.0, 3.0]])
    # third row: ranks 1.5 1.5 0 3 against 2 0.5 0.5 3
    x, y = [0, 0, -1.5, 1.5], [0.5, -1, -1, 1.5]
    third = sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(4.5 * 4.5)
    torch.testing.assert_close(
        rank_correlation(a, b), torch.tensor([1, -1, third], dtype=torch.float64)
    )
    assert rank_correlation(a, torch.ones_like(a)).isnan().all()
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) and \(1, 4\)"):
        rank_correlation(a, b[:1])


def test_the_network_is_not_altered_and_the_seed_decides() -> None:
    net, x = network(), torch.rand(2, 1, 8, 8)
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    found = [
        randomisation_test(net, lambda m: vision.guided_backprop(m, x, 1), seed=seed)
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_layers_become_random_from_the_output_down() -> None:
    net = network()
    seen: list[list[bool]] = []

    def explain(module: nn.Module) -> Tensor:
        same = [torch.equal(module[i].weight, net[i].weight) for i in (0, 2, 5)]
        seen.append(same)
        return torch.rand(1, 5)

    results = randomisation_test(net, explain)
    assert [r.layer for r in results] == ["5", "2", "0"]
    assert seen[1:] == [[True, True, False], [True, False, False], [False, False, False]]


def test_what_depends_on_the_weights_falls_and_what_does_not_stays() -> None:
    net, x = network(), torch.rand(8, 1, 8, 8)
    cam = randomisation_test(net, lambda m: vision.grad_cam(m, m.get_submodule("2"), x, 1))
    assert all(abs(r.rank) < 0.9 or math.isnan(r.rank) for r in cam)
    edges = randomisation_test(net, lambda m: x[:, :, 1:] - x[:, :, :-1])
    assert all(r.rank == pytest.approx(1) for r in edges)


def test_layers_without_a_reset_of_their_own_keep_their_spread() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(3 + 0.5 * torch.randn(4000))

    torch.manual_seed(0)
    layer = Scale()
    before = layer.weight.detach().clone()
    randomise(layer)
    assert abs(torch.corrcoef(torch.stack((before, layer.weight.detach())))[0, 1]) < 0.1
    assert layer.weight.mean().item() == pytest.approx(3, abs=0.05)
    assert layer.weight.std().item() == pytest.approx(0.5, abs=0.05)
