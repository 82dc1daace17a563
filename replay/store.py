"""Where a replay's content lives: what the host's and the devices' stores agree on."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replay.types import Batch, Field

Array = NDArray[Any]
Lanes = NDArray[np.int64]


class Store(Protocol):
    """Ring, priorities and generator in one memory: `replay.host` or `replay.device`.

    Callers have checked shapes, dtypes and ranges, and let one thread in at a time.
    """

    observation: dict[str, Field]
    action: Field
    lanes: int
    rows: int
    n_step: int
    device: torch.device

    @property
    def written(self) -> Lanes:
        """Steps (lanes,) that each lane has written; not to be changed."""

    @property
    def sampleable(self) -> int:
        """Rows that may be sampled; may wait for the device."""

    @property
    def ready(self) -> bool:
        """Whether a sample finds a row; waits for the device at most until it first does."""

    @property
    def nan_count(self) -> int:
        """NaN errors that `update` skipped; may wait for the device."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything, as if full."""

    def write(
        self,
        chosen: Lanes,
        frames: dict[str, Array],
        action: Array | None,
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> None:
        """Write one slot to each lane in `chosen` (N,); without an action they begin episodes."""

    def latest(self) -> dict[str, Tensor]:
        """Observations (lanes, *stacked_shape) that end at each lane's newest frame."""

    def sample(self, count: int, beta: float | Tensor) -> Batch:
        """Draw `count` transitions in proportion to their leaves, one from each stratum.

        Observations are dicts by field.
        """

    def update(self, row: Tensor, error: Tensor) -> None:
        """Give the rows (N,) int64 new priorities by their errors (N,)."""

    # ------------------------------------------------------------------------------- snapshots

    def settle(self) -> None:
        """Bring the leaves to what a load would make of the priorities: sort ranks anew."""

    def read(self, name: str, first: int, last: int) -> Array:
        """Slots first .. last of the array `name` of `arrays`, for reading."""

    def blank(self, name: str, first: int, last: int) -> Array:
        """An array for what slots first .. last should become; `put` takes it."""

    def put(self, name: str, first: int, last: int, content: Array) -> None:
        """Let slots first .. last become `content`, that came from `blank`."""

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the per-slot arrays, as a snapshot orders them."""

    def counters(self) -> dict[str, Any]:
        """What else there is, as JSON holds it: written, greatest, nan_count, generator."""

    def priorities(self) -> NDArray[np.float32]:
        """Raw priorities |error| + eps, (rows * lanes,); 0 where a row is not open."""

    def clear(self) -> None:
        """Forget every row, before the arrays are replaced."""

    def restore(self, counters: dict[str, Any], priority: NDArray[np.float32]) -> None:
        """Take over counters and priorities, and work out which rows are open, and their leaves."""
