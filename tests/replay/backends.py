"""The backends that this machine can test, by name, and what a replay needs to live on each."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

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


def row_ids(replay: PrioritizedReplay, slots: np.ndarray) -> np.ndarray:
    """Row ids of written slots (N,)."""
    store = replay.store
    newest = store.written[slots % store.lanes] - 1
    times = newest - (newest - slots // store.lanes) % store.rows
    return times * store.lanes + slots % store.lanes
