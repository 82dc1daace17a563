"""The encoders: the papers' shapes, the contract, and clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vision
from vision.encoder import Encoder

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


@pytest.mark.parametrize("name", ["dqn2013", "nature", "impala"])
@pytest.mark.parametrize("shape", [(1, 84, 84), (3, 64, 96), (9, 50, 37)])
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_encoders_keep_their_word(name: str, shape: tuple[int, int, int], width: float) -> None:
    encoder = vision.build_encoder(name, shape, width=width)
    x = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    assert encoder(x).shape == (2, encoder.feature_dim)
    maps = encoder.feature_maps(x)
    assert tuple(m.shape[1] for m in maps) == encoder.channels
    for m, stride in zip(maps, encoder.strides, strict=True):
        assert m.shape[2] == pytest.approx(shape[1] / stride, abs=4.5)


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


@pytest.mark.parametrize(
    ("name", "variance"), [("xavier", 2 / (64 + 32)), ("he", 2 / 64), ("orthogonal", 2 / 64)]
)
def test_initialisers_have_their_variance(name: str, variance: float) -> None:
    layer = nn.Linear(64, 32)
    torch.manual_seed(0)
    vision.initialise(layer, name)
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.15)
    assert layer.bias.abs().max() == 0


def test_an_unknown_initialiser_is_told_the_known() -> None:
    with pytest.raises(ValueError, match="no initialiser is called 'glorot'; known: torch, xavier"):
        vision.initialise(nn.Linear(2, 2), "glorot")
