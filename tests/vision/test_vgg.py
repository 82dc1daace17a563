"""VGG against table 1 of the paper, torchvision's names, and slow twins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vision

IMAGENET = 1000
# torchvision: position in `features` of each convolution
CONVOLUTIONS = {
    "vgg11": [0, 3, 6, 8, 11, 13, 16, 18],
    "vgg13": [0, 2, 5, 7, 10, 12, 15, 17, 20, 22],
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
    "vgg11_bn": [0, 4, 8, 11, 15, 18, 22, 25],
    "vgg13_bn": [0, 3, 7, 10, 14, 17, 21, 24, 28, 31],
    "vgg16_bn": [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40],
    "vgg19_bn": [0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49],
}
OUT = {
    "vgg11": [64, 128, 256, 256, 512, 512, 512, 512],
    "vgg13": [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
    "vgg16": [64, 64, 128, 128, *[256] * 3, *[512] * 6],
    "vgg19": [64, 64, 128, 128, *[256] * 4, *[512] * 8],
}


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(vision, name)()


def narrow(name: str, width: float = 1 / 32, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return getattr(vision, name)(7, width=width, **options).eval()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vgg11", 132_863_336),
        ("vgg11_lrn", 132_863_336),
        ("vgg13", 133_047_848),
        # D with 1x1 for its last kernels: 8 weights fewer per pair of channels
        ("vgg16c", 138_357_544 - 8 * (256 * 256 + 2 * 512 * 512)),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("vgg11_bn", 132_868_840),
        ("vgg13_bn", 133_053_736),
        ("vgg16_bn", 138_365_992),
        ("vgg19_bn", 143_678_248),
    ],
)
def test_parameter_counts_are_the_papers_and_torchvisions(name: str, count: int) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_state_dict_is_torchvisions(name: str) -> None:
    expected: list[tuple[str, tuple[int, ...]]] = []
    before = 3
    for at, out in zip(CONVOLUTIONS[name], OUT[name.removesuffix("_bn")], strict=True):
        expected += [
            (f"features.{at}.weight", (out, before, 3, 3)),
            (f"features.{at}.bias", (out,)),
        ]
        if name.endswith("_bn"):
            norm = f"features.{at + 1}"
            expected += [(f"{norm}.{k}", (out,)) for k in ("weight", "bias")]
            expected += [(f"{norm}.{k}", (out,)) for k in ("running_mean", "running_var")]
            expected += [(f"{norm}.num_batches_tracked", ())]
        before = out
    for at, (out, into) in ((0, (4096, 25088)), (3, (4096, 4096)), (6, (IMAGENET, 4096))):
        expected += [(f"classifier.{at}.weight", (out, into)), (f"classifier.{at}.bias", (out,))]
    assert [(k, tuple(v.shape)) for k, v in on_meta(name).state_dict().items()] == expected


def by_hand(net: nn.Module, x: Tensor, convolutions: list[int], pools: set[int]) -> Tensor:
    """The network by functional calls on its state dict, in eval mode."""
    state = net.state_dict()
    for i, at in enumerate(convolutions):
        weight = state[f"features.{at}.weight"]
        x = F.conv2d(x, weight, state[f"features.{at}.bias"], padding=weight.shape[2] // 2)
        norm = {k: state.get(f"features.{at + 1}.{k}") for k in ("running_mean", "running_var")}
        if norm["running_mean"] is not None:
            mean, var = norm["running_mean"][:, None, None], norm["running_var"][:, None, None]
            gain = state[f"features.{at + 1}.weight"][:, None, None]
            shift = state[f"features.{at + 1}.bias"][:, None, None]
            x = (x - mean) / (var + 1e-5).sqrt() * gain + shift
        x = x.clamp(min=0)
        if i in pools:
            x = F.max_pool2d(x, 2)
    x = F.adaptive_avg_pool2d(x, 7).flatten(1)
    for at in (0, 3):
        x = (x @ state[f"classifier.{at}.weight"].T + state[f"classifier.{at}.bias"]).clamp(min=0)
    return x @ state["classifier.6.weight"].T + state["classifier.6.bias"]


@pytest.mark.parametrize(
    ("name", "pools"),
    [
        ("vgg11", {0, 1, 3, 5, 7}),
        ("vgg11_bn", {0, 1, 3, 5, 7}),
        ("vgg13", {1, 3, 5, 7, 9}),
        ("vgg16_bn", {1, 3, 6, 9, 12}),
        ("vgg19", {1, 3, 7, 11, 15}),
    ],
)
def test_scores_are_those_of_the_network_by_hand(name: str, pools: set[int]) -> None:
    net = narrow(name, init="he")
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if "running" in key or "bias" in key:
                value.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 45, 40)
    torch.testing.assert_close(net(x), by_hand(net, x, CONVOLUTIONS[name], pools))


def test_configuration_c_has_its_three_small_kernels() -> None:
    convs = [m for m in on_meta("vgg16c").modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convs] == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]
    assert narrow("vgg16c").features(torch.randn(1, 3, 32, 64)).shape[2:] == (1, 2)


def test_local_response_normalisation_by_hand() -> None:
    layers = list(narrow("vgg11_lrn", width=1 / 8).features)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds[:4] == ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert kinds.count("LocalResponseNorm") == 1
    x = 100 * torch.rand(1, 8, 2, 2)
    expected = torch.empty_like(x)
    for c in range(8):
        total = sum(x[:, d] ** 2 for d in range(max(0, c - 2), min(8, c + 3)))
        expected[:, c] = x[:, c] / (2 + 1e-4 * total) ** 0.75
    torch.testing.assert_close(layers[2](x), expected)
    assert "vgg11_lrn_bn" in vision.names()
    assert sum(isinstance(m, nn.LocalResponseNorm) for m in on_meta("vgg11").modules()) == 0


@pytest.mark.parametrize("name", ["vgg11", "vgg16c_bn"])
def test_dense_evaluation_is_the_fully_connected_one_at_224(name: str) -> None:
    net = narrow(name, init="he")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        scores = net(x)
        assert scores.std() > 1e-3
        torch.testing.assert_close(net.dense(x), scores, rtol=1e-4, atol=1e-5)


def test_dense_evaluation_slides_the_classifier_over_larger_images() -> None:
    net = narrow("vgg11", init="he")
    x = torch.randn(1, 3, 224, 288)
    with torch.no_grad():
        maps = net.dense_scores(x)
        assert maps.shape == (1, 7, 1, 3)
        features = net.features(x)
        windows = [net.classifier(features[..., i : i + 7].flatten(1)) for i in range(3)]
        torch.testing.assert_close(maps[:, :, 0], torch.stack(windows, 2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net.dense(x), torch.stack(windows).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(1, 3, 31, 40), "VGG needs images of at least 32x32 pixels, these are 31x40"),
        (torch.zeros(1, 4, 40, 40), r"VGG takes .* \(B, 3, H, W\), not float32 of shape \(1, 4"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), "normalised float images .* not uint8"),
        (torch.zeros(3, 40, 40), "not float32 of shape"),
    ],
)
def test_what_is_no_image_for_it_is_refused(x: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        narrow("vgg11")(x)


def test_dense_evaluation_names_its_least_size_and_needs_a_classifier() -> None:
    with pytest.raises(ValueError, match="at least 224x224 pixels, these are 223x224"):
        narrow("vgg11").dense(torch.zeros(1, 3, 223, 224))
    with pytest.raises(ValueError, match="needs a classifier"):
        vision.vgg11(0, width=1 / 32).dense(torch.zeros(1, 3, 224, 224))


def test_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'batchnorm'; did you mean 'batch'"):
        vision.vgg11(norm="batchnorm", width=0.1)
    with pytest.raises(ValueError, match="num_classes is -1"):
        vision.vgg11(-1, width=0.1)
    with pytest.raises(ValueError, match="in_channels is 0"):
        vision.vgg11(in_channels=0, width=0.1)
    with pytest.raises(ValueError, match="width is nan; it must be above 0"):
        vision.vgg11(width=float("nan"))
    with pytest.raises(AttributeError, match="no attribute 'vgg12'"):
        _ = vision.vgg12


def test_norm_by_one_word_keeps_the_names() -> None:
    group = narrow("vgg11_bn", norm="group")
    assert any(isinstance(m, nn.GroupNorm) for m in group.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in group.modules())
    names = {k for k in narrow("vgg11_bn").state_dict() if "running" not in k and "num_" not in k}
    assert set(group.state_dict()) == names
