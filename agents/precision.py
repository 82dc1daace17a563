"""The arithmetic that an agent's networks compute in, and by how many threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def threads_for(asked: int) -> int:
    """Threads for arithmetic: those asked for, or with 0 as many as OMP_NUM_THREADS says, or one
    for every core that this process may use."""
    if asked:
        return asked
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if told.isdecimal() and int(told):
        return int(told)
    return cores()


def cores() -> int:
    """Those that this process may use: containers and schedulers leave it some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    """Whether networks compute in bf16: as told, or on a CPU that has it.

    On a GPU `auto` is tf32, which is said for the whole process: an update of a small network is
    bound by the number of its kernels there, and bf16 adds a conversion to each parameter's use.
    Raises ValueError for tf32 elsewhere.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision in ("tf32", "auto")
        torch.backends.cudnn.allow_tf32 = precision in ("tf32", "auto")
        return precision == "bf16"
    if precision == "tf32":
        raise ValueError(f"precision is tf32, which the {device} doesn't have; use auto or bf16")
    if precision != "auto":
        return precision == "bf16"
    return torch.cpu._is_avx512_bf16_supported()
