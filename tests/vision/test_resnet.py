"""Residual networks against the paper's counts, the known files' names, and slow twins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vision
from vision.backbones.backbone import norm_layer

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(vision, name)()


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()}


def narrow(name: str, classes: int = 5, width: float = 1 / 8, **options: object) -> nn.Module:
    torch.manual_seed(0)
    net = getattr(vision, name)(classes, width=width, **options)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if "running" in key or ("bn" in key and value.dim() == 1):
                value.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet1202", 19_421_274),
        # without the projections of option B: 1x1 convolutions and their normalisation
        ("plain18", 11_689_512 - sum(a * 2 * a + 4 * a for a in (64, 128, 256))),
        ("plain34", 21_797_672 - sum(a * 2 * a + 4 * a for a in (64, 128, 256))),
        ("plain20", 269_722),
        ("plain56", 853_018),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


def norm(key: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.{k}": (channels,) for k in BN[:4]} | {f"{key}.{BN[4]}": ()}


def test_resnet18s_state_dict_is_torchvisions() -> None:
    expected: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    for block, before, channels in (
        ("layer1.0", 64, 64),
        ("layer1.1", 64, 64),
        ("layer2.0", 64, 128),
        ("layer2.1", 128, 128),
        ("layer3.0", 128, 256),
        ("layer3.1", 256, 256),
        ("layer4.0", 256, 512),
        ("layer4.1", 512, 512),
    ):
        expected[f"{block}.conv1.weight"] = (channels, before, 3, 3)
        expected |= norm(f"{block}.bn1", channels)
        expected[f"{block}.conv2.weight"] = (channels, channels, 3, 3)
        expected |= norm(f"{block}.bn2", channels)
        if before != channels:
            expected[f"{block}.downsample.0.weight"] = (channels, before, 1, 1)
            expected |= norm(f"{block}.downsample.1", channels)
    expected |= {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    found = shapes("resnet18")
    assert found == expected
    assert len(found) == 122
    assert list(found) == list(expected), "the order is torchvision's too"


def test_resnet50s_state_dict_has_torchvisions_keys() -> None:
    found = shapes("resnet50")
    assert len(found) == 320
    for key, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv2.weight": (64, 64, 3, 3),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.bn3.running_var": (256,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
        "layer1.2.conv1.weight": (64, 256, 1, 1),
        "layer2.0.conv1.weight": (128, 256, 1, 1),
        "layer2.0.downsample.0.weight": (512, 256, 1, 1),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "layer4.2.bn3.bias": (2048,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }.items():
        assert found[key] == shape


def test_cifar_names_are_pytorch_resnet_cifar10s() -> None:
    found = shapes("resnet20")
    expected: dict[str, tuple[int, ...]] = {"conv1.weight": (16, 3, 3, 3)} | norm("bn1", 16)
    before = 16
    for stage, channels in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            key = f"layer{stage}.{block}"
            expected[f"{key}.conv1.weight"] = (channels, before, 3, 3)
            expected |= norm(f"{key}.bn1", channels)
            expected[f"{key}.conv2.weight"] = (channels, channels, 3, 3)
            expected |= norm(f"{key}.bn2", channels)
            before = channels
    assert found == expected | {"linear.weight": (10, 64), "linear.bias": (10,)}


class ByHand:
    """A network by functional calls on its state dict, in eval mode."""

    def __init__(self, net: nn.Module, shortcuts: bool) -> None:
        self.state, self.shortcuts = net.state_dict(), shortcuts

    def conv(self, x: Tensor, key: str, bn: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{key}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[2] // 2)
        gain, shift, mean, var = (self.state[f"{bn}.{k}"][:, None, None] for k in BN[:4])
        return (x - mean) / (var + 1e-5).sqrt() * gain + shift

    def block(self, x: Tensor, key: str, stride: int) -> Tensor:
        if f"{key}.conv3.weight" in self.state:
            out = self.conv(x, f"{key}.conv1", f"{key}.bn1").relu()
            out = self.conv(out, f"{key}.conv2", f"{key}.bn2", stride).relu()
            out = self.conv(out, f"{key}.conv3", f"{key}.bn3")
        else:
            out = self.conv(x, f"{key}.conv1", f"{key}.bn1", stride).relu()
            out = self.conv(out, f"{key}.conv2", f"{key}.bn2")
        if self.shortcuts:
            if f"{key}.downsample.0.weight" in self.state:
                x = self.conv(x, f"{key}.downsample.0", f"{key}.downsample.1", stride)
            elif x.shape != out.shape:
                wider = torch.zeros_like(out)
                quarter = (out.shape[1] - x.shape[1]) // 2
                wider[:, quarter : quarter + x.shape[1]] = x[:, :, ::2, ::2]
                x = wider
            out = out + x
        return out.relu()

    def __call__(self, x: Tensor, cifar: bool) -> Tensor:
        x = self.conv(x, "conv1", "bn1", 1 if cifar else 2).relu()
        if not cifar:
            x = F.max_pool2d(x, 3, 2, 1)
        blocks = sorted({tuple(k.split(".")[:2]) for k in self.state if k.startswith("layer")})
        for stage, number in blocks:
            x = self.block(x, f"{stage}.{number}", 2 if stage != "layer1" and number == "0" else 1)
        head = "linear" if cifar else "fc"
        return x.mean((2, 3)) @ self.state[f"{head}.weight"].T + self.state[f"{head}.bias"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain18", "resnet20", "plain20"])
def test_scores_are_those_of_the_network_by_hand(name: str) -> None:
    net = narrow(name).double()
    x = torch.randn(2, 3, 37, 52).double()
    expected = ByHand(net, name.startswith("resnet"))(x, name.endswith("20"))
    assert expected.std() > 1e-4
    torch.testing.assert_close(net(x), expected)


def test_plain_twins_differ_by_the_shortcuts_alone() -> None:
    residual, plain = narrow("resnet20"), narrow("plain20")
    assert plain.load_state_dict(residual.state_dict()).missing_keys == []
    x = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(plain(x), residual(x))


def test_convolutions_have_a_bias_only_where_nothing_normalises() -> None:
    for norm, bias in (("batch", False), ("group", False), ("none", True)):
        convs = [m for m in narrow("resnet18", norm=norm).modules() if isinstance(m, nn.Conv2d)]
        assert {m.bias is not None for m in convs} == {bias}, norm


def test_group_norm_keeps_two_channels_to_a_group() -> None:
    groups = {m.num_channels: m.num_groups for m in on_meta_group() if isinstance(m, nn.GroupNorm)}
    assert groups == {64: 32, 128: 32, 256: 32, 512: 32}
    groups = {
        m.num_channels: m.num_groups
        for m in vision.resnet18(width=0.11, norm="group").modules()
        if isinstance(m, nn.GroupNorm)
    }
    assert groups == {7: 1, 14: 2, 28: 4, 56: 8}
    assert [norm_layer("group", c).num_groups for c in (1, 2, 16, 32, 48)] == [1, 1, 8, 16, 16]


def on_meta_group() -> list[nn.Module]:
    with torch.device("meta"):
        return list(vision.resnet18(norm="group").modules())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_every_parameter_learns(name: str, norm: str) -> None:
    net = narrow(name, norm=norm).train()
    net(torch.randn(2, 3, 33, 34)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_any_size_and_any_channels() -> None:
    assert narrow("resnet18", in_channels=1)(torch.randn(2, 1, 1, 1)).shape == (2, 5)
    assert narrow("resnet20", in_channels=9)(torch.randn(2, 9, 5, 3)).shape == (2, 5)
    assert vision.resnet18(0, width=1 / 8)(torch.randn(2, 3, 8, 8)).shape == (2, 64)
    with pytest.raises(ValueError, match=r"ResNet takes normalised float images \(B, 3, H, W\)"):
        narrow("resnet18")(torch.randn(2, 4, 8, 8))
