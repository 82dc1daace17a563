"""A convolution of bytes over blocks of pixels: the same numbers, sooner on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By stride, a type as long as a row of a block, so that blocks move by whole rows."""


def arithmetic(of: Tensor) -> torch.dtype:
    """The dtype that networks compute in, on that tensor's device."""
    kind = of.device.type
    autocasts = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocasts else torch.float32


class ByteConv(nn.Conv2d):
    """nn.Conv2d that also takes bytes, where they fit, and scales them to [0, 1].

    Each stride x stride block of pixels becomes one pixel of C * stride**2 channels, which lie
    together in memory: a processor multiplies long rows of channels, and a stack of frames has few.
    The bytes themselves are exact in bfloat16, so it is the weights that are scaled.
    """

    def fits(self, image: Tensor) -> bool:
        """Whether `forward` takes this batch (B, C, H, W) as bytes."""
        (kernel, other), (stride, step) = self.kernel_size, self.stride
        return (
            image.dtype == torch.uint8
            and image.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined]
            and image.numel() > 0
            and image.is_contiguous()
            and (kernel, stride) == (other, step)
            and (self.padding, self.dilation, self.groups) == ((0, 0), (1, 1), 1)
            and stride in _WORDS
            and kernel % stride == 0
            and image.shape[-1] % stride == 0
            and image.storage_offset() % stride == image.data_ptr() % stride == 0
        )

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) floats, or bytes for which `fits` holds, -> (B, O, H', W')."""
        if input.dtype != torch.uint8:
            return super().forward(input)
        stride, kernel = self.stride[0], self.kernel_size[0]
        batch, channels, height, width = input.shape
        rows, columns, size = height // stride, width // stride, kernel // stride
        # flat first: a batch or channel of one may have any stride
        words = input.flatten().view(_WORDS[stride]).view(batch, channels, height, columns)
        words = words[:, :, : rows * stride].unflatten(2, (rows, stride))
        words = words.permute(0, 2, 4, 1, 3).contiguous()
        pixels = words.view(torch.uint8).view(batch, rows, columns, channels * stride**2)
        weight = (self.weight / 255).view(-1, channels, size, stride, size, stride)
        weight = weight.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return F.conv2d(pixels.permute(0, 3, 1, 2).to(arithmetic(input)), weight, self.bias)
