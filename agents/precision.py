"""The arithmetic that an agent's networks compute in."""

from __future__ import annotations

import torch


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
