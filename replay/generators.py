"""The state of a sampler's random generator, as snapshots hold it: of the host or of a device.

A replay on the host draws from NumPy's PCG64, one on a device from a Philox counter whose state is
its seed and the draws made. A snapshot that moves between them seeds the new generator from the old
one's state: the same snapshot always goes on in the same way.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

PHILOX = "Philox4x32"


def check(state: Any) -> None:
    """ValueError, TypeError or KeyError for what is no state of either generator."""
    if not (isinstance(state, dict) and state.get("bit_generator") == PHILOX):
        np.random.PCG64().state = state
    elif not all(0 <= int(state[key]) < 1 << 63 for key in ("seed", "draws")):
        raise ValueError("a Philox state holds a seed and draws below 2^63")


def generator_from(state: dict[str, Any]) -> np.random.Generator:
    """NumPy's generator in this state, or seeded from a device's."""
    if state["bit_generator"] == PHILOX:
        return np.random.Generator(np.random.PCG64(_seed(state)))
    bits = np.random.PCG64()
    bits.state = state  # type: ignore[assignment]
    return np.random.Generator(bits)


def philox_from(state: dict[str, Any]) -> tuple[int, int]:
    """(seed, draws) of a device's generator in this state, or seeded from NumPy's."""
    if state["bit_generator"] == PHILOX:
        return int(state["seed"]), int(state["draws"])
    return _seed(state), 0


def _seed(state: dict[str, Any]) -> int:
    return seed_of(json.dumps(state, sort_keys=True).encode())


def seed_of(state: bytes) -> int:
    """A seed in [0, 2^63) for one generator, of the state of another of a different kind."""
    return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little") >> 1
