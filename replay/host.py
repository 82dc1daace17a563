"""The replay's content in the host's memory: ring, tree and priorities in NumPy, by numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from replay import checks, memory
from replay.generators import generator_from
from replay.ring import Ring, Slots
from replay.sorting import Sorting
from replay.store import Array, Lanes
from replay.tree import BLOCK, TINY, PriorityTree
from replay.tree_least import LeastTree
from replay.types import Batch, Field


@njit(
    "UniTuple(i8, 2)(i8[::1], f4[::1], i8[::1], f4[::1], f4[::1], b1, f8, f4[::1], i8[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _refresh(  # type: ignore[no-untyped-def]
    row, error, written, leaves, priority, fixed, eps, greatest, slots
):
    """New priorities of rows: fills their slots, and counts them and the NaNs.

    With nothing changed, (-1, position) for a row that no lane has written yet.
    """
    lanes = written.size
    size = priority.size
    for i in range(row.size):
        time = row[i] // lanes
        end = written[row[i] - time * lanes]
        if row[i] < 0 or time >= end:
            return -1, i
        slots[i] = -1 if fixed or (end - time) * lanes > size else row[i] % size
    kept = 0
    nans = 0
    most = greatest[0]
    value = np.empty(row.size, np.float32)
    for i in range(row.size):
        if np.isnan(error[i]):
            nans += 1
            continue
        if slots[i] < 0 or leaves[slots[i]] == 0:
            continue
        slots[kept] = slots[i]
        value[kept] = max(np.float32(np.float64(abs(error[i])) + eps), TINY)
        if value[kept] < np.inf:
            most = max(most, value[kept])
        kept += 1
    # Now, because an infinite error gets this batch's greatest priority too.
    for i in range(kept):
        priority[slots[i]] = min(value[i], most)
    greatest[0] = most
    return kept, nans


class HostStore:
    """`replay.store.Store` in NumPy arrays, which take memory page by page as they are written.

    MemoryError, before anything is allocated, if it does not fit; names the capacity that does.
    """

    def __init__(
        self,
        capacity: int,
        observation: dict[str, Field],
        action: Field,
        *,
        lanes: int,
        n_step: int,
        gamma: float,
        alpha: float,
        eps: float,
        ranked: bool,
        overall: bool,
        seed: int,
    ) -> None:
        size = -(-capacity // lanes) * lanes
        needed = checks.ring_bytes(observation, action, size) + PriorityTree.bytes_for(size)
        memory.require(capacity, needed)
        self.observation, self.action = observation, action
        self.alpha, self.eps = alpha, eps
        self.ring = Ring(capacity, observation, action, lanes=lanes, n_step=n_step, gamma=gamma)
        self.lanes, self.rows, self.n_step = lanes, self.ring.rows, n_step
        self.device = torch.device("cpu")
        self.tree = PriorityTree(size)
        self.priority = np.zeros(size, np.float32)
        self.greatest = np.ones(1, np.float32)
        self.table = np.empty(0, np.float32)  # priorities at the last sort, rising
        self.ranked = ranked
        self.sorting = Sorting()
        self.least = LeastTree(self.tree.leaves) if overall else None
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.sampleable = 0
        self.nan_count = 0

    @property
    def written(self) -> Lanes:
        """See `replay.store.Store`, as for all of the following."""
        return self.ring.written

    @property
    def ready(self) -> bool:
        return self.sampleable > 0

    @property
    def nbytes(self) -> int:
        least = 0 if self.least is None else self.least.nbytes
        return self.ring.nbytes + self.tree.nbytes + self.priority.nbytes + least

    def write(
        self,
        chosen: Lanes,
        frames: dict[str, Array],
        action: Array | None,
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> None:
        self._mark(*self.ring.write(chosen, frames, action, reward, terminated, truncated))
        if self.ranked and self.sorting.due(chosen.size, len(self.ring)):
            self._sort()

    def latest(self) -> dict[str, Tensor]:
        return self.ring.stacks(self.ring.newest())

    def sample(self, count: int, beta: float | Tensor) -> Batch:
        if isinstance(beta, Tensor):  # elsewhere nobody looks into it, for that would wait
            beta = checks.share("beta", float(beta))
        slots, weight = self.tree.draw(self.generator.random(count), beta)
        if self.least is not None:
            ratio = self.least.least / float(self.tree.leaves[slots].min())
            weight = np.maximum(weight * np.float32(ratio**beta), TINY)
        rows = self.ring.follow(slots)
        return Batch(
            observation=self.ring.stacks(slots),
            next_observation=self.ring.stacks(rows.bootstrap),
            action=self.ring.actions_at(rows.after),
            reward=torch.from_numpy(rows.reward),
            discount=torch.from_numpy(rows.discount),
            weight=torch.from_numpy(weight),
            index=torch.from_numpy(rows.row),
        )

    def update(self, row: Tensor, error: Tensor) -> None:
        rows: Slots = np.ascontiguousarray(row.long().numpy(force=True))
        values = np.ascontiguousarray(error.float().numpy(force=True))
        slots = np.empty(rows.size, np.int64)
        kept, count = _refresh(
            rows, values, self.ring.written, self.tree.leaves, self.priority, self.alpha == 0,
            self.eps, self.greatest, slots,
        )  # fmt: skip
        if kept < 0:
            raise ValueError(f"index holds {rows[count]}, a row that no batch could have had")
        self.nan_count += count
        if kept:
            slots = slots[:kept]
            self._set(slots, self._leaf(self.priority[slots]))

    # ------------------------------------------------------------------------------- snapshots

    @property
    def arrays(self) -> tuple[str, ...]:
        return tuple(self.ring.arrays)

    def read(self, name: str, first: int, last: int) -> Array:
        return self.ring.arrays[name][first:last]

    def blank(self, name: str, first: int, last: int) -> Array:
        return self.read(name, first, last)  # filled in place

    def put(self, name: str, first: int, last: int, content: Array) -> None: ...

    def counters(self) -> dict[str, Any]:
        return {
            "written": self.ring.written.tolist(),
            "greatest": float(self.greatest[0]),
            "nan_count": self.nan_count,
            "generator": self.generator.bit_generator.state,
        }

    def priorities(self) -> NDArray[np.float32]:
        return self.priority

    def clear(self) -> None:
        self.ring.written[:] = 0
        self._rebuild()

    def restore(self, counters: dict[str, Any], priority: NDArray[np.float32]) -> None:
        self.ring.written[:] = counters["written"]
        self.priority[:] = priority
        self.greatest[0] = counters["greatest"]
        self.nan_count = counters["nan_count"]
        self.generator = generator_from(counters["generator"])
        self._rebuild()

    def _rebuild(self) -> None:
        """Work out from the ring which rows are open, and their leaves."""
        self.ring.restore_pending()
        is_open = self.ring.open_slots()
        # A start that an other n_step left closed has no priority yet: it counts as new.
        new = is_open & (self.priority == 0)
        self.priority[new] = self.greatest[0]
        self.priority[~is_open] = 0
        self._sort()
        self.sampleable = int(is_open.sum())

    def settle(self) -> None:
        if self.ranked:
            self._sort()

    def _sort(self) -> None:
        """All leaves anew, from ranks as they are now."""
        is_open = self.priority > 0
        if self.ranked:
            self.table = np.sort(self.priority[is_open])
            self.sorting.done()
        self.tree.fill(np.where(is_open, self._leaf(self.priority), np.float32(0)))
        if self.least is not None:
            self.least.refresh(np.arange(0, self.priority.size, BLOCK))

    def _leaf(self, priority: NDArray[np.float32]) -> NDArray[np.float32]:
        """p^alpha or rank^-alpha; above 0 where p is, because alpha is at most 1."""
        if self.ranked:
            better = self.table.size - self.table.searchsorted(priority, side="right")
            leaf = np.power(1.0 + better, -self.alpha)
        else:
            leaf = np.power(priority.astype(np.float64), self.alpha)
        return leaf.astype(np.float32)

    def _set(self, slots: Slots, leaf: NDArray[np.float32]) -> None:
        self.tree.set(slots, leaf)
        if self.least is not None:
            self.least.refresh(slots)

    def _mark(self, opened: Slots, closed: Slots) -> None:
        """Keep leaves, priorities and the count in step with what the ring opened and closed."""
        if closed.size:
            self.priority[closed] = 0
            self._set(closed, np.zeros(closed.size, np.float32))
        if opened.size:
            priority = np.full(opened.size, self.greatest[0])
            self.priority[opened] = priority
            self._set(opened, self._leaf(priority))
        self.sampleable += opened.size - closed.size
