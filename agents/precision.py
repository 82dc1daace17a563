"""The arithmetic that an agent's networks compute in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushing() -> Iterator[None]:
    """Count numbers below the normal range as 0 in here, and in threads that start in here.

    A processor takes a hundred times as long for them, and the moments of weights that no gradient
    reaches any more all end there. The thread that calls gets back what it had.
    """
    before = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def computes_bf16(precision: str, device: torch.device) -> bool:
    """Whether networks compute in bf16: as told, or where the processor has it.

    On a GPU this also says, for the whole process, whether float32 products may be rounded to TF32.
    Raises ValueError for tf32 elsewhere.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    elif precision == "tf32":
        raise ValueError(f"precision is tf32, which the {device} doesn't have; use auto or bf16")
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
