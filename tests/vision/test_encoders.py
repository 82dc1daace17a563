"""The encoders: the papers' shapes, the contract, and clear refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vision
from vision.backbones.backbone import norm_layer
from vision.encoder import Encoder
from vision.heads import build_head

IMAGE = (4, 84, 84)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_the_papers() -> None:
    # 8*8*4*16+16 + 4*4*16*32+32; 8*8*4*32+32 + 4*4*32*64+64 + 3*3*64*64+64
    assert count(vision.build_encoder("dqn2013", IMAGE)) == 12_336
    assert count(vision.build_encoder("nature", IMAGE)) == 77_984
    assert vision.build_encoder("dqn2013", IMAGE).feature_dim == 9 * 9 * 32
    assert vision.build_encoder("nature", IMAGE).feature_dim == 7 * 7 * 64
    assert vision.build_encoder("impala", IMAGE).feature_dim == 11 * 11 * 32


SMALL = ["dqn2013", "nature", "impala", "drq"]
DEEP = [*SMALL, "vgg11", "vgg11_lrn_bn", "vgg16c", "vgg19_bn", "resnet18", "resnet50", "plain34"]
DEEP += ["resnet20", "plain56"]


@pytest.mark.parametrize(("name", "width"), [(n, 0.05) for n in DEEP] + [(n, 1.0) for n in SMALL])
@pytest.mark.parametrize("shape", [(1, 84, 84), (3, 64, 96), (9, 50, 37)])
def test_encoders_keep_their_word(name: str, shape: tuple[int, int, int], width: float) -> None:
    encoder = vision.build_encoder(name, shape, width=width).eval()
    x = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    with torch.no_grad():
        assert encoder(x).shape == (2, encoder.feature_dim)
        maps = encoder.feature_maps(x)
    assert tuple(m.shape[1] for m in maps) == encoder.channels
    for m, stride in zip(maps, encoder.strides, strict=True):
        assert m.shape[2] == pytest.approx(shape[1] / stride, abs=7)
        assert m.shape[3] == pytest.approx(shape[2] / stride, abs=7)


def test_every_encoder_is_built_by_its_name() -> None:
    names = [n for n in vision.names() if not n.startswith("test-")]
    assert {"vgg16c_bn", "vgg11_lrn", "plain152", "resnet110", "drq", "impala"} <= set(names)
    x = torch.zeros(1, 4, 36, 38, dtype=torch.uint8)
    for name in names:
        if not name.endswith("1202"):  # seconds, and only longer than 110
            encoder = vision.build_encoder(name, (4, 36, 38), width=0.02).eval()
            assert encoder(x).shape == (1, encoder.feature_dim), name


def test_nature_computes_what_its_paper_says() -> None:
    encoder = vision.build_encoder("nature", IMAGE)
    state = encoder.state_dict()
    assert sorted(state) == [f"convs.{i}.{k}" for i in range(3) for k in ("bias", "weight")]
    x = torch.randint(0, 256, (2, *IMAGE), dtype=torch.uint8)
    y = x.float().mul_(torch.tensor(1 / 255))
    for i, stride in enumerate((4, 2, 1)):
        y = torch.relu(F.conv2d(y, state[f"convs.{i}.weight"], state[f"convs.{i}.bias"], stride))
    torch.testing.assert_close(encoder(x), y.flatten(1), atol=1e-6, rtol=1e-5)
    floats = x.float().mul_(torch.tensor(1 / 255))
    assert torch.equal(encoder(floats), y.flatten(1))


def test_the_oldest_encoders_keep_their_checkpoints_keys() -> None:
    def keys(name: str) -> set[str]:
        state = vision.build_encoder(name, IMAGE).state_dict()
        assert all(f"{k.removesuffix('.weight')}.bias" in state for k in state if "weight" in k)
        return {k.removesuffix(".weight") for k in state if "weight" in k}

    assert keys("dqn2013") == {"convs.0", "convs.1"}
    assert keys("mlp") == {"layers.0", "layers.1"}
    assert keys("impala") == {
        f"stages.{i}.{k}"
        for i in range(3)
        for k in ("conv", *(f"blocks.{b}.{c}" for b in (0, 1) for c in ("first", "second")))
    }


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("nature", (64, 7, 7)),
        ("drq", (32, 35, 35)),
        ("resnet18", (512, 3, 3)),
        ("vgg11", (512, 2, 2)),
    ],
)
def test_feature_dims_by_hand(name: str, last: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        for head, dim in (
            ("flatten", last[0] * last[1] * last[2]),
            ("pool", last[0]),
            ("softmax", 2 * last[0]),
        ):
            assert vision.build_encoder(name, IMAGE, head=head).feature_dim == dim


def test_pool_is_the_mean_and_flatten_the_map() -> None:
    x = torch.randint(0, 256, (2, *IMAGE), dtype=torch.uint8)
    flat = vision.build_encoder("nature", IMAGE)
    pool = vision.build_encoder("nature", IMAGE, head="pool")
    pool.load_state_dict(flat.state_dict())
    torch.testing.assert_close(pool(x), flat(x).view(2, 64, 49).mean(2))


def test_spatial_softmax_by_hand() -> None:
    head, dim = build_head("softmax", 2, 2, 3)
    assert dim == 4
    x = torch.zeros(1, 2, 2, 3)
    x[0, 0, 1, 2] = 50.0  # a peak: bottom right
    x[0, 1, 0, 2] = math.log(5)  # weights 1 1 5 / 1 1 1, in tenths
    expected = [1.0, 1.0, (-2 + 6) / 10, (-7 + 3) / 10]
    torch.testing.assert_close(head(x), torch.tensor([expected]))
    with torch.no_grad():
        head.temperature.fill_(0.5)
    expected = [1.0, 1.0, (-2 + 26) / 30, (-27 + 3) / 30]
    torch.testing.assert_close(head(x), torch.tensor([expected]))
    with pytest.raises(ValueError, match="which is 1x1 here; take larger images, or the head flat"):
        build_head("softmax", 1, 1, 1)


def test_imagenets_normalisation_by_hand() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for channels in (6, 4):
        x = torch.rand(2, channels, 32, 32)
        encoder = vision.build_encoder("vgg11", x.shape[1:], width=0.05, normalize="imagenet")
        m, s = (v.repeat(2) if channels == 6 else v.mean().repeat(4) for v in (mean, std))
        expected = (x - m[:, None, None]) / s[:, None, None]
        torch.testing.assert_close(encoder.prepare(x), expected)
        plain = vision.build_encoder("vgg11", x.shape[1:], width=0.05)
        assert torch.equal(plain.prepare(x), x)
        assert set(encoder.state_dict()) == set(plain.state_dict())


def test_an_encoder_is_its_classifiers_convolutions() -> None:
    torch.manual_seed(0)
    net = vision.resnet18(3, width=0.1).eval()
    encoder = vision.build_encoder("resnet18", (3, 40, 40), width=0.1, head="pool").eval()
    encoder.backbone.load_state_dict(net.state_dict(), strict=False)
    x = torch.rand(2, 3, 40, 40)
    torch.testing.assert_close(net.fc(encoder(x)), net(x))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: vision.build_encoder("resnet18", IMAGE, hed="pool"),
            "'resnet18' has no option 'hed'; did you mean 'head'.* width, norm, head, normalize",
        ),
        (
            lambda: vision.build_encoder("mlp", (4,), head="pool"),
            "'mlp' has no option 'head'; known: width",
        ),
        (
            lambda: vision.build_encoder("nature", IMAGE, head="pooling"),
            "no head is called 'pooling'; did you mean 'pool'",
        ),
        (
            lambda: vision.build_encoder("resnet18", IMAGE, norm="groups", width=0.1),
            "called 'groups'; did you mean 'group'.* Known: batch, group, none",
        ),
        (
            lambda: vision.build_encoder("resnet18", IMAGE, normalize="imagnet", width=0.1),
            "called 'imagnet'; did you mean 'imagenet'",
        ),
        (
            lambda: vision.build_encoder("vgg16_bn", (4, 84, 31)),
            "vgg16_bn needs images of at least 32x32 pixels, these are 84x31",
        ),
        (lambda: vision.build_encoder("drq", (4, 14, 20)), "at least 15x15 pixels"),
        (lambda: vision.build_encoder("resnet18", (4,)), r"not observations of shape \(4,\)"),
        (lambda: vision.build_encoder("resnet18", (0, 9, 9)), "at least 1 channel"),
        (
            lambda: vision.build_encoder("nature", IMAGE)(torch.zeros(1, 3, 84, 84)),
            r"Nature was built for .* \(4, 84, 84\), .*; this is \(1, 3, 84, 84\)",
        ),
        (
            lambda: vision.build_encoder("nature", IMAGE)(torch.zeros(*IMAGE)),
            r"this is \(4, 84, 84\)",
        ),
        (
            lambda: vision.build_encoder("nature", IMAGE)(torch.full((1, *IMAGE), 255.0)),
            r"images of type float32 must lie in \[0, 1\]; these lie in \[255, 255\]",
        ),
        (
            lambda: vision.build_encoder("nature", IMAGE)(torch.full((1, *IMAGE), torch.nan)),
            r"these lie in \[nan, nan\]",
        ),
        (
            lambda: vision.build_encoder("nature", IMAGE)(torch.full((1, *IMAGE), 7)),
            "images of type int64 must lie",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_range_is_read_at_first_and_then_now_and_then() -> None:
    encoder = vision.build_encoder("nature", (1, 36, 36), width=0.1)
    good, bad = torch.zeros(1, 1, 36, 36), torch.full((1, 1, 36, 36), -0.5)
    for turn in range(16):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            encoder(bad)
        encoder(good)
        assert encoder._batches == turn + 1
    for _ in range(64 - 16):
        encoder(bad)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        encoder(bad)


def test_least_sizes_are_least() -> None:
    assert vision.build_encoder("vgg11", (1, 32, 32), width=0.1).feature_dim == 51
    assert vision.build_encoder("drq", (1, 15, 15)).feature_dim == 32
    assert vision.build_encoder("resnet18", (1, 1, 1), width=0.1, norm="group").feature_dim == 51


def test_bytes_are_scaled_and_floats_are_not() -> None:
    encoder = vision.build_encoder("nature", IMAGE)
    x = torch.randint(0, 256, (2, *IMAGE), dtype=torch.uint8)
    torch.testing.assert_close(encoder(x), encoder(x.float() / 255))
    assert encoder.prepare(x).max() <= 1


def test_the_least_size_is_named_and_works() -> None:
    assert vision.build_encoder("nature", (4, 36, 36)).feature_dim == 64
    with pytest.raises(ValueError, match="at least 36x36 pixels, these are 84x35"):
        vision.build_encoder("nature", (4, 84, 35))


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="no encoder is called 'natur'; did you mean 'nature'"):
        vision.build_encoder("natur", IMAGE)


def test_vectors_need_an_encoder_for_vectors() -> None:
    with pytest.raises(ValueError, match=r"not observations of shape \(4,\).*'mlp'"):
        vision.build_encoder("nature", (4,))
    assert vision.build_encoder("mlp", (4,))(torch.zeros(3, 4)).shape == (3, 256)


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 0; it must be above 0"):
        vision.build_encoder("nature", IMAGE, width=0)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'nature' is taken by Nature"):

        @vision.register("nature")
        class Other(Encoder):
            pass


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_computes_what_torchs_does(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    ours, theirs = norm_layer("group", 16), torch.nn.GroupNorm(8, 16)
    x = torch.randn(2, 16, 5, 7).to(dtype).contiguous(memory_format=layout)
    a, b = (x.detach().clone(memory_format=layout).requires_grad_() for _ in "ab")
    out, wanted = ours(a), theirs(b.contiguous())
    assert out.is_contiguous(memory_format=layout)
    torch.testing.assert_close(out, wanted, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=0)
    (out.float() ** 3).sum().backward()
    (wanted.float() ** 3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-4 if dtype == torch.float32 else 0.2, rtol=0)
