"""Strided convolutions of bytes over blocks of pixels: the same numbers, sooner on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By stride, a type as long as a row of a block, so that blocks move by whole rows."""


def fits_blocks(image: Tensor, conv: nn.Conv2d) -> bool:
    """Whether `block_conv` can compute this convolution of a batch."""
    (kernel, other), (stride, step) = conv.kernel_size, conv.stride
    return (
        image.dtype == torch.uint8
        and image.device.type == "cpu"
        and image.numel() > 0
        and image.is_contiguous()
        and (kernel, stride) == (other, step)
        and (conv.padding, conv.dilation, conv.groups) == ((0, 0), (1, 1), 1)
        and stride in _WORDS
        and kernel % stride == 0
        and image.shape[-1] % stride == 0
        and image.data_ptr() % stride == 0
    )


def block_conv(conv: nn.Conv2d, image: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A strided convolution of scaled bytes (B, C, H, W), as one of stride 1 over their blocks.

    Each stride x stride block of pixels becomes one pixel of C * stride**2 channels, which lie
    together in memory: a processor multiplies long rows of channels, and a stack of frames has
    few. The bytes themselves are exact in `dtype`, bfloat16 too, so `scale` goes to the weights.
    """
    stride, kernel = conv.stride[0], conv.kernel_size[0]
    batch, channels, height, width = image.shape
    rows, size = height // stride, kernel // stride
    words = image[..., : rows * stride, :].view(_WORDS[stride])
    words = words.unflatten(2, (rows, stride)).permute(0, 2, 4, 1, 3).contiguous()
    pixels = words.view(torch.uint8).view(batch, rows, width // stride, channels * stride**2)
    weight = (conv.weight * scale).view(-1, channels, size, stride, size, stride)
    weight = weight.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    return F.conv2d(pixels.permute(0, 3, 1, 2).to(dtype), weight, conv.bias)
