"""Prioritised n-step replay over lanes of frames (Schaul et al. 2016); alpha = 0 is uniform."""

from __future__ import annotations

import math
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numba import njit
from numpy.typing import ArrayLike, NDArray

from replay import checks, memory, snapshot
from replay.checks import Frames, Lanes
from replay.ring import Ring, Slots
from replay.tree import TINY, PriorityTree
from replay.types import Batch, Field, Observation, Spec


@njit(nogil=True, inline="always")
def _leaf(priority, alpha):  # type: ignore[no-untyped-def]
    """p^alpha, and never the 0 that says that a row is not open."""
    return max(np.float32(np.float64(priority) ** alpha), TINY)


@njit("void(f4[::1], f8, f4[::1])", nogil=True, cache=True)
def _leaves(priority, alpha, out):  # type: ignore[no-untyped-def]
    for i in range(priority.size):
        out[i] = _leaf(priority[i], alpha)


@njit(
    "UniTuple(i8, 2)(i8[::1], f4[::1], i8[::1], f4[::1], f4[::1], f8, f8, f4[::1], i8[::1],"
    " f4[::1])",
    nogil=True,
    cache=True,
)
def _refresh(  # type: ignore[no-untyped-def]
    row, error, written, leaves, priority, alpha, eps, greatest, slots, out
):
    """New priorities of rows; fills slots and leaves, and counts them and the NaNs.

    With nothing changed, (-1, position) for a row that no lane has written yet.
    """
    lanes = written.size
    rows = priority.size // lanes
    for i in range(row.size):
        if row[i] < 0 or row[i] // lanes >= written[row[i] % lanes]:
            return -1, i
    kept = 0
    nans = 0
    # The leaves wait for a second pass: an infinite error gets this batch's greatest priority too.
    for i in range(row.size):
        if np.isnan(error[i]):
            nans += 1
            continue
        time = row[i] // lanes
        lane = row[i] - time * lanes
        slot = (time % rows) * lanes + lane
        if alpha == 0 or time < written[lane] - rows or leaves[slot] == 0:
            continue
        value = np.float32(min(np.float64(abs(error[i])) + eps, np.inf))
        if value < np.inf:
            greatest[0] = max(greatest[0], value)
        slots[kept] = slot
        out[kept] = max(value, TINY)
        kept += 1
    for i in range(kept):
        value = min(out[i], greatest[0])
        priority[slots[i]] = value
        out[i] = _leaf(value, alpha)
    return kept, nans


class PrioritizedReplay:
    """A memory of transitions, written a vector step at a time and sampled by priority.

    Args:
        capacity: transitions to hold; rounded up to a multiple of `lanes`.
        observation: one Field (batches hold a tensor), or a dict of named ones (a dict of them).
        action: field of one action.
        lanes: environments that write; each at its own pace.
        n_step: steps of reward before the bootstrap, at least 1.
        gamma: discount per step, in [0, 1].
        alpha: exponent of the priorities, in [0, 1].
        eps: added to |error|, above 0, so that no transition is lost.
        seed: of the sampling, NumPy's PCG64.
        device: where it lives; "cpu".

    Raises:
        ValueError: an argument out of its range, with the least capacity where that is too small.
        MemoryError: the capacity does not fit in memory; names the one that does.

    A new transition gets the greatest priority so far (Schaul et al. 2016, algorithm 1), which
    starts at 1. Methods may be called from several threads; they wait for one another.
    """

    def __init__(
        self,
        capacity: int,
        observation: Spec,
        action: Field = Field((), "int64"),  # noqa: B008 (frozen)
        *,
        lanes: int = 1,
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.6,
        eps: float = 1e-6,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if str(device) != "cpu":
            raise ValueError(f"device is {str(device)!r}; this replay lives on 'cpu' alone")
        for name, number in (("capacity", capacity), ("lanes", lanes), ("n_step", n_step)):
            checks.whole(name, number)
        for name, share in (("gamma", gamma), ("alpha", alpha)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it must lie in [0, 1]")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps is {eps}; it must be above 0, or a transition could be lost")
        self.single = isinstance(observation, Field)
        spec = {"frame": observation} if isinstance(observation, Field) else dict(observation)
        if not spec:
            raise ValueError("observation names no field; give at least one")
        for name, field in spec.items():
            checks.field(name, field)
        checks.field("action", action)
        if action.stack != 1:
            raise ValueError(f"action has stack {action.stack}; only observations are stacked")
        rows, least = -(-capacity // lanes), max(f.stack for f in spec.values()) + n_step + 1
        if rows < least:
            raise ValueError(
                f"capacity is {capacity}; {lanes} lanes with stack {least - n_step - 1} and n_step "
                f"{n_step} need at least {(least - 1) * lanes + 1}"
            )
        size = rows * lanes
        per_slot = sum(map(checks.field_bytes, (*spec.values(), action)))
        per_slot += 4 + 1 + 1 + 4  # reward, flag, age, priority
        memory.require(capacity, size * per_slot + PriorityTree.bytes_for(size))

        self.capacity = int(capacity)
        self.alpha = float(alpha)
        self.eps = float(eps)
        self.sampleable = 0
        self.nan_count = 0
        self.ring = Ring(
            capacity, spec, action, lanes=int(lanes), n_step=int(n_step), gamma=float(gamma)
        )
        self.tree = PriorityTree(size)
        self.priority = np.zeros(size, np.float32)
        self.greatest = np.ones(1, np.float32)
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self._every_lane = np.arange(lanes)
        self.ancestors: set[str] = set()  # snapshots that this state grew out of
        self._lock = Lock()

    @property
    def lanes(self) -> int:
        """Environments that write."""
        return self.ring.lanes

    def __len__(self) -> int:
        """Frames held, of all lanes; some of them can't start a transition."""
        return len(self.ring)

    @property
    def nbytes(self) -> int:
        """Bytes of everything, as if full; the system hands pages out as they are written."""
        return self.ring.nbytes + self.tree.nbytes + self.priority.nbytes

    @property
    def bytes_per_transition(self) -> float:
        """`nbytes` over the capacity."""
        return self.nbytes / self.capacity

    def reset(self, frame: Frames, lanes: Lanes = None) -> None:
        """Begin an episode in each lane with `frame` (N, *shape), N all lanes or those named.

        An episode that was running there ends as truncated at its newest frame.
        """
        with self._lock:
            chosen = self._chosen(lanes)
            frames = checks.frames(frame, self.ring.observation, self.single, chosen.size)
            nothing = np.zeros(chosen.size, np.float32)
            never = np.zeros(chosen.size, np.bool_)
            self._mark(*self.ring.write(chosen, frames, None, nothing, never, never))

    def add(
        self,
        frame: Frames,
        action: ArrayLike,
        reward: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike,
        lanes: Lanes = None,
    ) -> None:
        """Store one step of each lane: N lanes, all of them or those named.

        `frame` (N, *shape) is the newest frame, that the step led to; `action` (N, *shape) chose
        it; `reward` (N,) finite, `terminated` and `truncated` (N,) bool came with it. The step
        after a flag begins an episode, as under Gymnasium's NEXT_STEP autoreset: its action,
        which the environment ignored, and its reward are never learned from.

        ValueError, with nothing stored, for a wrong shape or dtype or a lane before its reset.
        """
        with self._lock:
            chosen = self._chosen(lanes)
            count = chosen.size
            frames = checks.frames(frame, self.ring.observation, self.single, count)
            field = self.ring.action_field
            actions = checks.array("action", action, (count, *field.shape), field.dtype)
            rewards: NDArray[np.float32] = checks.array("reward", reward, (count,), "float32")
            ended: NDArray[np.bool_] = checks.array("terminated", terminated, (count,), "bool")
            cut: NDArray[np.bool_] = checks.array("truncated", truncated, (count,), "bool")
            finite = np.isfinite(rewards)
            if not finite.all():
                raise ValueError(f"reward is {rewards[~finite][0]}; it must be finite")
            self._require_begun(chosen)
            self._mark(*self.ring.write(chosen, frames, actions, rewards, ended, cut))

    def latest(self) -> Observation:
        """What to act on: (lanes, *stacked_shape) of the newest frames, oldest first."""
        with self._lock:
            self._require_begun(self._every_lane)
            return self._plain(self.ring.stacks(self.ring.newest()))

    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """Draw transitions in proportion to their leaves, one from each stratum of the mass.

        Schaul et al. 2016, sections 3.3 and 3.4; beta in [0, 1] corrects the bias by importance
        weights (N P)^-beta over the greatest in the batch. ValueError while nothing is sampleable.
        """
        checks.whole("batch_size", batch_size)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta}; it must lie in [0, 1]")
        with self._lock:
            if not self.sampleable:
                raise ValueError(
                    f"none of the {len(self)} frames can start a transition yet; add at least "
                    f"{self.ring.n_step} steps, or the end of an episode, first"
                )
            slots, weight = self.tree.draw(self.generator.random(batch_size), beta)
            rows = self.ring.follow(slots)
            return Batch(
                observation=self._plain(self.ring.stacks(slots)),
                action=self.ring.actions_at(rows.after),
                reward=torch.from_numpy(rows.reward),
                discount=torch.from_numpy(rows.discount),
                next_observation=self._plain(self.ring.stacks(rows.bootstrap)),
                weight=torch.from_numpy(weight),
                index=torch.from_numpy(rows.row),
            )

    def update(self, index: torch.Tensor, error: torch.Tensor) -> None:
        """Give the rows `index` (N,) int64 of a batch the priorities |`error`| + eps, (N,).

        Rows that were overwritten meanwhile are dropped, and of duplicates the last wins. A NaN
        error is skipped and counted in `nan_count`; an infinite one gets the greatest finite
        priority so far, this call's included. With alpha = 0 only NaNs are counted. ValueError,
        with nothing changed, for shapes that differ or an index that was never handed out.
        """
        row = checks.column("index", index, torch.int64)
        values = checks.column("error", error, torch.float32)
        if row.shape != values.shape:
            raise ValueError(f"index holds {row.size} rows, error {values.size}; they must agree")
        with self._lock:
            slots = np.empty(row.size, np.int64)
            leaf = np.empty(row.size, np.float32)
            kept, count = _refresh(
                row, values, self.ring.written, self.tree.leaves, self.priority, self.alpha,
                self.eps, self.greatest, slots, leaf,
            )  # fmt: skip
            if kept < 0:
                raise ValueError(f"index holds {row[count]}, a row that no batch could have had")
            self.nan_count += count
            if kept:
                self.tree.set(slots[:kept], leaf[:kept])

    def save(self, folder: Path, previous: Path | None = None) -> None:
        """Write the whole state into `folder`, linking what the snapshot `previous` holds already.

        See `replay.snapshot.save`.
        """
        with self._lock:
            snapshot.save(self, Path(folder), None if previous is None else Path(previous))

    def load(self, folder: Path) -> None:
        """Take over the state that `save` wrote into `folder`; see `replay.snapshot.load`."""
        with self._lock:
            snapshot.load(self, Path(folder))

    def rebuild(self) -> None:
        """Work out from the ring which rows are open, and their leaves, after a load."""
        self.ring.restore_pending()
        is_open = self.ring.open_slots()
        # A start that an other n_step left closed has no priority yet: it counts as new.
        new = is_open & (self.priority == 0)
        self.priority[new] = self.greatest[0]
        self.priority[~is_open] = 0
        leaf = np.empty(self.priority.size, np.float32)
        _leaves(self.priority, self.alpha, leaf)
        leaf[~is_open] = 0
        self.tree.fill(leaf)
        self.sampleable = int(is_open.sum())

    def _mark(self, opened: Slots, closed: Slots) -> None:
        """Keep leaves, priorities and the count in step with what the ring opened and closed."""
        if closed.size:
            self.priority[closed] = 0
            self.tree.set(closed, np.zeros(closed.size, np.float32))
        if opened.size:
            priority = np.full(opened.size, self.greatest[0])
            leaf = np.empty(opened.size, np.float32)
            _leaves(priority, self.alpha, leaf)
            self.priority[opened] = priority
            self.tree.set(opened, leaf)
        self.sampleable += opened.size - closed.size

    def _plain(self, stacks: dict[str, torch.Tensor]) -> Observation:
        return stacks["frame"] if self.single else stacks  # one Field goes without its name

    def _chosen(self, lanes: Lanes) -> Slots:
        if lanes is None:
            return self._every_lane
        return checks.lanes(lanes, self.lanes)

    def _require_begun(self, chosen: Slots) -> None:
        begun = self.ring.written[chosen] > 0
        if not begun.all():
            raise ValueError(f"lane {chosen[~begun][0]} has no first frame yet; call reset first")
