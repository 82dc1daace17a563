"""BatchNorm's population statistics, computed anew rather than by moving average."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Set every BatchNorm's statistics to the mean over `batches`; returns how many they were.

    Ioffe & Szegedy 2015, section 3.1 and algorithm 2, lines 8 to 12: the mean of the batches'
    means, and of their unbiased variances. While it runs, BatchNorm normalises by the batch, as in
    training, and every other layer is in eval mode. Modes and momenta are as before afterwards;
    if it fails, so are the statistics.

    batches  inputs of `module`, at least one; each should be of the batch size of training
    Raises ValueError where there is no batch, and where no BatchNorm keeps statistics.
    """
    norms = [
        m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None
    ]
    if not norms:
        raise ValueError(f"{type(module).__name__} has no BatchNorm whose statistics could be set")
    modes = [(m, m.training) for m in module.modules()]
    momenta = [m.momentum for m in norms]
    kept = [{name: b.clone() for name, b in m.named_buffers(recurse=False)} for m in norms]
    count = 0
    try:
        for m, _ in modes:
            m.training = False
        for m in norms:
            # without a momentum torch takes the plain mean over all batches
            m.training, m.momentum = True, None
            m.reset_running_stats()
        for batch in batches:
            module(batch)
            count += 1
        if not count:
            raise ValueError("recalibration needs at least one batch")
    except BaseException:
        for m, buffers in zip(norms, kept, strict=True):
            for name, value in buffers.items():
                m.get_buffer(name).copy_(value)
        raise
    finally:
        for m, mode in modes:
            m.training = mode
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
    return count
