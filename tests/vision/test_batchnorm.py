"""Population statistics by recalibration, against sums by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import vision


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3)
    )


def batches(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 * torch.randn(6, 3, 4, 4, generator=generator) + i for i in range(count)]


def test_statistics_are_algorithm_2s() -> None:
    net = network()
    net(torch.randn(6, 3, 4, 4))  # what it knew before doesn't count
    assert vision.recalibrate(net, iter(batches())) == 5
    means, variances = [[], []], [[], []]
    for x in batches():
        m, v = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        means[0].append(m)
        variances[0].append(v * 96 / 95)
        y = (x - m[:, None, None]) / (v[:, None, None] + 1e-5).sqrt()
        y = torch.einsum("oi,bihw->bohw", net[2].weight[:, :, 0, 0], y)
        y = y + net[2].bias[:, None, None]
        means[1].append(y.mean((0, 2, 3)))
        variances[1].append(y.var((0, 2, 3), unbiased=True))
    for i, norm in enumerate((net[0], net[3])):
        torch.testing.assert_close(norm.running_mean, sum(means[i]) / 5, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(norm.running_var, sum(variances[i]) / 5)
        assert norm.num_batches_tracked == 5


def test_modes_momenta_and_gradients_are_as_before() -> None:
    net = network()
    net.train()
    net[3].eval()
    vision.recalibrate(net, batches(2))
    assert [m.training for m in net] == [True, True, True, False]
    assert (net[0].momentum, net[3].momentum) == (0.1, 0.3)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_failure_changes_nothing() -> None:
    net = network()
    net(batches()[0])
    before = {k: v.clone() for k, v in net.state_dict().items()}

    def broken() -> Iterator[Tensor]:
        yield batches()[1]
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera"):
        vision.recalibrate(net, broken())
    with pytest.raises(ValueError, match="at least one batch"):
        vision.recalibrate(net, [])
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert net.training and net[0].momentum == 0.1


def test_a_network_without_batchnorm_is_refused() -> None:
    with pytest.raises(ValueError, match="Conv2d has no BatchNorm whose statistics"):
        vision.recalibrate(nn.Conv2d(3, 3, 1), batches())


def test_an_encoder_is_recalibrated_with_bytes() -> None:
    encoder = vision.build_encoder("resnet20", (1, 8, 8), width=0.25)
    x = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    vision.recalibrate(encoder, [x, x])
    expected = encoder.backbone.conv1(x / 255).mean((0, 2, 3))
    torch.testing.assert_close(encoder.backbone.bn1.running_mean, expected)
