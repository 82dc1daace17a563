"""The backends that this machine can test, by name, and what a replay needs to live on each."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from replay import PrioritizedReplay

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

NUMBA = pytest.param({"device": "cpu", "backend": "numba"}, id="numba")
TORCH = pytest.param({"device": DEVICE, "backend": "torch"}, id="torch")
TRITON = pytest.param({"device": DEVICE, "backend": "triton"}, id="triton", marks=needs_triton)
ALL = [NUMBA, TORCH, TRITON]


def array(value: Tensor | np.ndarray) -> np.ndarray:
    """A tensor of any device, or an array, as an array."""
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def leaves(replay: PrioritizedReplay) -> np.ndarray:
    """Leaves (rows * lanes,) float32."""
    store = replay.store
    return array(store.tree.leaves)[: store.rows * store.lanes]


def total(replay: PrioritizedReplay) -> float:
    """What the leaves on a device add up to, as the tree has it: the sum at its top."""
    tree: Any = replay.store.tree  # type: ignore[attr-defined]
    return float((tree.sums[tree.top :] if hasattr(tree, "sums") else tree.leaves.double()).sum())


def row_ids(replay: PrioritizedReplay, slots: np.ndarray) -> np.ndarray:
    """Row ids of written slots (N,)."""
    store = replay.store
    newest = store.written[slots % store.lanes] - 1
    times = newest - (newest - slots // store.lanes) % store.rows
    return times * store.lanes + slots % store.lanes


class NoSync(TorchDispatchMode):
    """Refuses what makes the host wait for a device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.__name__.partition(".")[0]
        assert name not in self.WAITS, f"{name} waits for the device"
        masks = func.__name__.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for i in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        assert not masks, f"{name} by a mask waits for the device"
        return func(*args, **(kwargs or {}))
