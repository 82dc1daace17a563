"""Freezing, and learning rates of one's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import vision


def agent() -> nn.ModuleDict:
    torch.manual_seed(0)
    encoder = vision.build_encoder("resnet20", (1, 8, 8), width=0.25, head="pool")
    return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.feature_dim, 2)})


def learn(net: nn.ModuleDict, groups: list[dict]) -> None:
    net.train()
    optimizer = torch.optim.SGD(groups, lr=0.1)
    x = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    net["head"](net["encoder"](x)).square().sum().backward()
    optimizer.step()


def changed(net: nn.Module, before: dict) -> set[str]:
    return {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}


def test_a_frozen_encoder_stays_as_it_is_while_the_rest_learns() -> None:
    net = agent()
    vision.freeze(net["encoder"])
    before = copy.deepcopy(net.state_dict())
    learn(net, vision.parameter_groups(net["encoder"], net, 0.1))
    assert changed(net, before) == {"head.weight", "head.bias"}
    assert net.training and not any(m.training for m in net["encoder"].modules())


def test_without_freezing_parameters_and_statistics_move() -> None:
    net = agent()
    before = copy.deepcopy(net.state_dict())
    learn(net, vision.parameter_groups(net["encoder"], net, 0.1))
    assert changed(net, before) == set(before)


def test_unfreezing_undoes_it() -> None:
    net = agent()
    assert vision.unfreeze(vision.freeze(net["encoder"])) is net["encoder"]
    before = copy.deepcopy(net.state_dict())
    learn(net, vision.parameter_groups(net["encoder"], net, 0.1))
    assert changed(net, before) == set(before)


def test_a_copy_of_a_frozen_encoder_is_frozen() -> None:
    other = copy.deepcopy(vision.freeze(agent()["encoder"])).train()
    assert not other.training and not any(p.requires_grad for p in other.parameters())


def test_a_classifier_freezes_too() -> None:
    net = vision.freeze(vision.resnet20(2, width=0.25)).train()
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(2, 3, 8, 8))
    assert changed(net, before) == set()


def test_groups_list_every_parameter_once_with_its_rate() -> None:
    net = agent()
    groups = vision.parameter_groups(net["encoder"], net, 1e-3)
    assert groups[0]["lr"] == 1e-3 and "lr" not in groups[1]
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in net.parameters())
    assert "lr" not in vision.parameter_groups(net["encoder"], net["head"])[0]
    vision.freeze(net["encoder"])
    assert len(vision.parameter_groups(net["encoder"], net["head"], 1e-3)) == 1


def test_a_plain_module_can_not_be_frozen() -> None:
    with pytest.raises(TypeError, match="Sequential is no Freezable module"):
        vision.freeze(nn.Sequential(nn.BatchNorm2d(3)))  # type: ignore[type-var]


def test_what_cannot_learn_is_refused() -> None:
    net = agent()
    with pytest.raises(ValueError, match="learning rate is 0; it must be above 0"):
        vision.parameter_groups(net["encoder"], net["head"], 0)
    vision.freeze(net["encoder"])
    with pytest.raises(ValueError, match="neither the encoder nor the head"):
        vision.parameter_groups(net["encoder"], net["head"].requires_grad_(False))
