"""Training mode for as long as it is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents.modes import Training
from vision import build_encoder, freeze, unfreeze


def test_inside_is_what_train_would_do_and_outside_all_rest() -> None:
    network = nn.Sequential(
        build_encoder("resnet18", (3, 32, 32), 0.1), freeze(build_encoder("mlp", (4,)))
    )
    training = Training(network)
    assert not any(module.training for module in network.modules())
    network.train()
    wanted = [module.training for module in network.modules()]
    network.eval()
    assert True in wanted and False in wanted
    with training:
        assert [module.training for module in network.modules()] == wanted
    assert not any(module.training for module in network.modules())


def test_an_error_inside_leaves_it_at_rest() -> None:
    norm = nn.BatchNorm1d(2)
    with pytest.raises(RuntimeError), Training(norm):
        norm(torch.zeros(3, 4))
    assert not norm.training


def test_what_is_frozen_later_stays_at_rest() -> None:
    encoder = build_encoder("resnet18", (3, 32, 32), 0.1)
    training = Training(nn.Sequential(encoder))
    freeze(encoder)
    with training:
        assert not any(module.training for module in encoder.modules())
    unfreeze(encoder)
    with training:
        assert encoder.training
