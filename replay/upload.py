"""Arrays from the host to a device, in one copy that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGN = 16
_DEEP = 4  # copies under way before the host waits for the oldest


class Upload:
    """Packs arrays into page-locked memory and copies it to a CUDA device beside what runs there.

    The tensors handed out are overwritten `_DEEP` calls later, in the stream's order: use them
    on the stream that was current. On other devices they are plain copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._turn = 0
        self._staging: list[tuple[Tensor, Tensor, torch.cuda.Event]] = []

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
        """Tensors on the device of the shapes and dtypes of contiguous `arrays`."""
        if self._device.type != "cuda":
            return [torch.from_numpy(array).to(self._device) for array in arrays]
        starts = np.cumsum([0, *(-(-array.nbytes // _ALIGN) * _ALIGN for array in arrays)])
        host, device, copied = self._buffers(int(starts[-1]))
        copied.synchronize()  # long past, unless the host runs copies ahead
        memory = host.numpy()
        for start, array in zip(starts, arrays, strict=False):
            memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        whole = int(starts[-1])
        device[:whole].copy_(host[:whole], non_blocking=True)
        copied.record()
        found = []
        for start, array in zip(starts.tolist(), arrays, strict=False):
            kind = torch.from_numpy(array[:0]).dtype
            part = device[start : start + array.nbytes]
            found.append(part.view(kind).view(array.shape))
        return found

    def _buffers(self, size: int) -> tuple[Tensor, Tensor, torch.cuda.Event]:
        if not self._staging or self._staging[0][0].numel() < size:
            for _, _, copied in self._staging:
                copied.synchronize()
            self._staging = [
                (
                    torch.empty(size, dtype=torch.uint8, pin_memory=True),
                    torch.empty(size, dtype=torch.uint8, device=self._device),
                    torch.cuda.Event(),
                )
                for _ in range(_DEEP)
            ]
        self._turn = (self._turn + 1) % _DEEP
        return self._staging[self._turn]
