"""Convolutions over blocks of pixels equal the plain ones, and step aside where they can't be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vision
from vision.blocks import block_conv, fits_blocks

SCALE = torch.tensor(1 / 255)


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("kernel, stride", [(8, 4), (4, 4), (4, 2), (6, 2), (2, 2), (8, 8)])
@pytest.mark.parametrize("height, width", [(84, 88), (43, 40), (29, 32), (16, 24)])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_the_convolution(
    kernel: int, stride: int, height: int, width: int, batch: int
) -> None:
    conv = nn.Conv2d(3, 5, kernel, stride)
    image = bytes_of(batch, 3, height, width)
    assert fits_blocks(image, conv)
    plain = conv(image.float() / 255)
    cotangent = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, list(conv.parameters()), cotangent)
    out = block_conv(conv, image, SCALE, torch.float32)
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(out, list(conv.parameters()), cotangent)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_what_no_blocks_hold_takes_the_plain_way() -> None:
    conv, image = nn.Conv2d(3, 5, 8, 4), bytes_of(2, 3, 84, 84)
    assert fits_blocks(image, conv)
    assert not fits_blocks(image.float(), conv)
    assert not fits_blocks(image[:0], conv)
    assert not fits_blocks(image, nn.Conv2d(3, 5, 7, 4))
    assert not fits_blocks(image, nn.Conv2d(3, 5, 3, 1))
    assert not fits_blocks(image, nn.Conv2d(3, 5, (8, 4), 4))
    assert not fits_blocks(image, nn.Conv2d(3, 5, 8, 4, padding=2))
    assert not fits_blocks(image, nn.Conv2d(3, 6, 8, 4, groups=3))
    assert not fits_blocks(image[..., :82], conv)
    assert not fits_blocks(image[..., :82].contiguous(), conv)
    assert not fits_blocks(image.to(memory_format=torch.channels_last), conv)
    assert not fits_blocks(bytes_of(1 + 3 * 84 * 84)[1:].view(1, 3, 84, 84), conv)
    assert not fits_blocks(image.to("meta"), conv)


@pytest.mark.parametrize("size", [(84, 84), (88, 92), (86, 90), (40, 84), (90, 84)])
@pytest.mark.parametrize("name", ["nature", "dqn2013"])
def test_bytes_and_floats_are_seen_alike(name: str, size: tuple[int, int]) -> None:
    encoder = vision.build_encoder(name, (4, *size))
    image = bytes_of(6, 4, *size)
    wanted = encoder(image.float() / 255)
    assert encoder(image[:0]).shape == (0, encoder.feature_dim)
    for view in (image, image[::2], image[2:], image.to(memory_format=torch.channels_last)):
        rows = {6: slice(None), 3: slice(None, None, 2), 4: slice(2, None)}[len(view)]
        torch.testing.assert_close(encoder(view), wanted[rows], atol=1e-5, rtol=1e-5)
