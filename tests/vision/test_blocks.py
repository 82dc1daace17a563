"""Convolutions over blocks of pixels equal the plain ones, and step aside where they can't be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import vision
from vision.blocks import ByteConv


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("kernel, stride", [(8, 4), (4, 4), (4, 2), (6, 2), (2, 2), (8, 8)])
@pytest.mark.parametrize("height, width", [(84, 88), (43, 40), (29, 32), (16, 24)])
@pytest.mark.parametrize("batch, channels", [(1, 3), (2, 1), (3, 4)])
def test_it_is_the_convolution(
    kernel: int, stride: int, height: int, width: int, batch: int, channels: int
) -> None:
    conv, image = ByteConv(channels, 5, kernel, stride), bytes_of(batch, channels, height, width)
    assert conv.fits(image)
    plain = conv(image.float() / 255)
    cotangent = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, list(conv.parameters()), cotangent)
    out = conv(image)
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(out, list(conv.parameters()), cotangent)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_what_no_blocks_hold_takes_the_plain_way() -> None:
    def fits(image: torch.Tensor, kernel: Any = 8, stride: Any = 4, **more: Any) -> bool:
        return ByteConv(3, 6, kernel, stride, **more).fits(image)

    image = bytes_of(2, 3, 84, 84)
    assert fits(image)
    assert not fits(image.float())
    assert not fits(image[:0])
    assert not fits(image, 7)
    assert not fits(image, 3, 1)
    assert not fits(image, (8, 4))
    assert not fits(image, 8, 4, padding=2)
    assert not fits(image, 8, 4, groups=3)
    assert not fits(image[..., :82])
    assert not fits(image[..., :82].contiguous())
    assert not fits(image.to(memory_format=torch.channels_last))
    assert not fits(bytes_of(1 + 3 * 84 * 84)[1:].view(1, 3, 84, 84))
    assert not fits(image.to("meta"))


@pytest.mark.parametrize("size", [(84, 84), (88, 92), (86, 90), (40, 84), (90, 84)])
@pytest.mark.parametrize("name", ["nature", "dqn2013"])
@pytest.mark.parametrize("channels", [1, 4])
def test_bytes_and_floats_are_seen_alike(name: str, size: tuple[int, int], channels: int) -> None:
    encoder = vision.build_encoder(name, (channels, *size))
    image = bytes_of(6, channels, *size)
    wanted = encoder(image.float() / 255)
    assert encoder(image[:0]).shape == (0, encoder.feature_dim)
    for view, rows in (
        (image, slice(None)),
        (image[::2], slice(None, None, 2)),
        (image[2:], slice(2, None)),
        (image.to(memory_format=torch.channels_last), slice(None)),
        # one channel is contiguous in either order, and its strides are the other's
        (image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), slice(None)),
    ):
        torch.testing.assert_close(encoder(view), wanted[rows], atol=1e-5, rtol=1e-5)


def test_rows_and_offsets_of_any_kind() -> None:
    encoder = vision.build_encoder("nature", (4, 84, 84))
    table = np.zeros(8, dtype=[("label", "u1"), ("image", "u1", (4, 84, 84))])
    table["image"] = bytes_of(8, 4, 84, 84).numpy()
    buffer = bytes_of(4 * 84 * 84 + 8)
    odd = [torch.from_numpy(table["image"][i : i + 1]) for i in range(8)]
    odd += [buffer[at : at + 4 * 84 * 84].view(1, 4, 84, 84) for at in range(8)]
    raw = buffer.numpy()
    odd += [
        torch.from_numpy(raw[a:])[b : b + 28_224].view(1, 4, 84, 84) for a, b in ((1, 3), (2, 2))
    ]
    for image in odd:
        wanted = encoder(image.float() / 255)
        torch.testing.assert_close(encoder(image), wanted, atol=1e-5, rtol=1e-5)


def test_what_hangs_on_the_layer_still_does() -> None:
    encoder, image = vision.build_encoder("nature", (4, 84, 84), 0.25), bytes_of(2, 4, 84, 84)
    calls: list[str] = []
    handle = encoder.convs[0].register_forward_hook(lambda *_: calls.append("called"))
    encoder(image)
    assert calls == ["called"]
    handle.remove()
    cam = vision.grad_cam(encoder, encoder.convs[0], image, lambda out: out[:, :1])
    wanted = vision.grad_cam(encoder, encoder.convs[0], image.float() / 255, lambda out: out[:, :1])
    torch.testing.assert_close(cam, wanted, atol=1e-5, rtol=1e-4)
    prune.l1_unstructured(encoder.convs[0], "weight", 0.9)
    with torch.no_grad():
        encoder.convs[0].weight_orig.mul_(3)
    torch.testing.assert_close(encoder(image), encoder(image.float() / 255), atol=1e-5, rtol=1e-5)
    encoder.convs[0] = nn.Conv2d(4, 8, 8, 4, padding=4)
    torch.testing.assert_close(
        encoder.feature_maps(image)[0], encoder.feature_maps(image.float() / 255)[0]
    )


def test_it_is_exported() -> None:
    encoder, image = vision.build_encoder("nature", (4, 84, 84), 0.25), bytes_of(2, 4, 84, 84)
    wanted = encoder(image.float() / 255)
    exported = torch.export.export(encoder, (image,)).module()
    torch.testing.assert_close(exported(image), wanted, atol=1e-5, rtol=1e-5)
    assert encoder.to("meta")(image.to("meta")).shape == wanted.shape


@pytest.mark.parametrize("wrong", [np.zeros((2, 4, 84, 84), np.uint8), torch.tensor(1).byte()])
def test_what_is_no_batch_is_one_line(wrong: Any) -> None:
    encoder = vision.build_encoder("nature", (4, 84, 84), 0.25)
    with pytest.raises(ValueError, match="takes tensors|was built for observations of shape"):
        encoder(wrong)
