"""The time-major frame ring: every frame once, a write count per lane, stacks made by gathers.

Slot t of a lane holds frame t and the action, reward and flags of the step that led to it, and its
age, the steps since the episode began. Times count up for ever; time t of lane l lies in slot
(t % rows) * lanes + l, and its row id is t * lanes + l. A transition starts at t: its observation
is the stack at t, its action lies at t + 1, its rewards at t + 1 .. t + m, and it bootstraps from
the stack at t + m, where m = min(n_step, steps to the first flag).

A start is *open*, and may be sampled, when all that it needs is there:
- it is no final slot (terminated or truncated), because the step after that led elsewhere;
- step t + n_step is written, or a flag comes first;
- no frame of its own stack is overwritten, where the stack reaches back min(stack - 1, age).
Each start opens once and closes once; `write` says which did, and the caller keeps the leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from replay.copying import Recycler, gather, scatter
from replay.types import Field

TERMINATED = 1
TRUNCATED = 2
OLDEST_AGE = 255

Array = NDArray[Any]
Slots = NDArray[np.int64]


class Transitions(NamedTuple):
    """What the rows at some slots say, N of them, without their frames."""

    row: Slots  # (N,) row ids
    after: Slots  # (N,) slots one step on, where the action lies
    bootstrap: Slots  # (N,) slots m steps on
    reward: NDArray[np.float32]  # (N,) n-step discounted sum
    discount: NDArray[np.float32]  # (N,) gamma^m * (1 - terminated)


@njit(
    "UniTuple(i8, 2)(i8[::1], i8[::1], u1[::1], u1[::1], f4[::1], i8[::1], f4[::1], b1[::1],"
    " b1[::1], b1, i8, i8, i8[::1], i8[::1], i8[::1])",
    nogil=True,
    cache=True,
)
def _write(  # type: ignore[no-untyped-def]
    written, pending, flags, ages, rewards, chosen, reward, terminated, truncated, restart, n_step,
    reach, slots, opened, closed,
):  # fmt: skip
    """Write one step of the lanes `chosen`; fills slots, opened and closed, counts the last two."""
    lanes = written.size
    rows = ages.size // lanes
    n_opened = 0
    n_closed = 0
    for i in range(chosen.size):
        lane = chosen[i]
        t = written[lane]
        before = ((t + rows - 1) % rows) * lanes + lane
        starts = t == 0 or flags[before] != 0
        if restart:
            if not starts:
                flags[before] = TRUNCATED
                for start in range(pending[lane], t - 1):
                    opened[n_opened] = (start % rows) * lanes + lane
                    n_opened += 1
            pending[lane] = t
            starts = True
        slot = (t % rows) * lanes + lane
        if t >= rows:
            # The starts whose stack reaches back to the overwritten slot, and to none older.
            for back in range(reach + 1):
                other = ((t + back) % rows) * lanes + lane
                age = np.int64(ages[other])
                if min(reach, age) == back and flags[other] == 0:
                    closed[n_closed] = other
                    n_closed += 1
        flag = TERMINATED * np.int64(terminated[i]) | TRUNCATED * np.int64(truncated[i])
        flags[slot] = flag
        rewards[slot] = reward[i]
        ages[slot] = 0 if starts else min(np.int64(ages[before]) + 1, OLDEST_AGE)
        slots[i] = slot
        if starts:
            pending[lane] = t
        ready = t if flag != 0 else t - n_step + 1
        for start in range(pending[lane], ready):
            opened[n_opened] = (start % rows) * lanes + lane
            n_opened += 1
        pending[lane] = t + 1 if flag != 0 else max(pending[lane], ready)
        written[lane] = t + 1
    return n_opened, n_closed


@njit(
    "void(i8[::1], i8[::1], u1[::1], f4[::1], f8[::1], i8[::1], i8[::1], i8[::1], f4[::1],"
    " f4[::1])",
    nogil=True,
    cache=True,
)
def _follow(  # type: ignore[no-untyped-def]
    slots, written, flags, rewards, powers, row, after, bootstrap, reward, discount
):
    """Walk n steps on from each slot; `powers[k]` is gamma^k."""
    lanes = written.size
    whole = flags.size
    rows = whole // lanes
    for i in range(slots.size):
        position = slots[i] // lanes
        lane = slots[i] - position * lanes
        newest = written[lane] - 1
        row[i] = (newest - (newest - position) % rows) * lanes + lane
        at = slots[i]
        total = 0.0
        steps = 0
        flag = 0
        while steps < powers.size - 1 and flag == 0:
            at += lanes
            if at >= whole:
                at -= whole
            if steps == 0:
                after[i] = at
            total += powers[steps] * np.float64(rewards[at])
            steps += 1
            flag = flags[at]
        bootstrap[i] = at
        reward[i] = total
        discount[i] = 0.0 if flag & TERMINATED else powers[steps]


class Ring:
    """Storage of `lanes` environments; see the module's text for the rules.

    `rows` times are kept per lane: the least that makes rows * lanes >= capacity.
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
    ) -> None:
        self.observation = observation
        self.action_field = action
        self.lanes = lanes
        self.n_step = n_step
        self.rows = -(-capacity // lanes)
        self._reach = max(field.stack for field in observation.values()) - 1
        self._powers = gamma ** np.arange(n_step + 1, dtype=np.float64)
        size = self.rows * lanes
        # Zeroed lazily by the system: a page takes memory once something is written to it.
        self.frames: dict[str, Array] = {
            name: np.zeros((size, *field.shape), field.dtype) for name, field in observation.items()
        }
        self.actions: Array = np.zeros((size, *action.shape), action.dtype)
        self.rewards = np.zeros(size, np.float32)
        self.flags = np.zeros(size, np.uint8)
        self.ages = np.zeros(size, np.uint8)
        self.written = np.zeros(lanes, np.int64)
        self.pending = np.zeros(lanes, np.int64)
        self._opened = np.empty(lanes * (n_step + 1), np.int64)
        self._closed = np.empty(lanes * (self._reach + 1), np.int64)
        self._bytes = {name: _as_bytes(array) for name, array in self.frames.items()}
        self._action_bytes = _as_bytes(self.actions)
        self._lane_numbers = np.arange(lanes)
        self._recycler = Recycler()

    @property
    def arrays(self) -> dict[str, Array]:
        """Every per-slot array by name, (rows * lanes, ...), as a snapshot stores them."""
        frames = {f"observation.{name}": array for name, array in self.frames.items()}
        rest = {"action": self.actions, "reward": self.rewards, "flag": self.flags}
        return {**frames, **rest, "age": self.ages}

    @property
    def nbytes(self) -> int:
        """Bytes of all slots and cursors, whether the system has handed them out yet or not."""
        return sum(array.nbytes for array in (*self.arrays.values(), self.written, self.pending))

    def __len__(self) -> int:
        return int(np.minimum(self.written, self.rows).sum())

    def write(
        self,
        chosen: Slots,
        frames: dict[str, Array],
        action: Array | None,
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> tuple[Slots, Slots]:
        """Write one slot to each lane in `chosen` (N,); the slots that opened, and that closed.

        Without an action the slots begin episodes, and what was running ends as truncated. Arrays
        must be contiguous and of the fields' shapes and dtypes. The answer lasts to the next call.
        """
        slots = np.empty(chosen.size, np.int64)
        opened, closed = _write(
            self.written, self.pending, self.flags, self.ages, self.rewards, chosen, reward,
            terminated, truncated, action is None, self.n_step, self._reach, slots, self._opened,
            self._closed,
        )  # fmt: skip
        for name, frame in frames.items():
            _scatter(self._bytes[name], slots, frame)
        if action is None:
            self.actions[slots] = 0
        else:
            _scatter(self._action_bytes, slots, action)
        return self._opened[:opened], self._closed[:closed]

    def follow(self, slots: Slots) -> Transitions:
        """Row ids, n-step returns and discounts of the open starts at `slots`."""
        count = slots.size
        row, after, bootstrap = (np.empty(count, np.int64) for _ in range(3))
        reward, discount = np.empty(count, np.float32), np.empty(count, np.float32)
        _follow(
            slots, self.written, self.flags, self.rewards, self._powers, row, after, bootstrap,
            reward, discount,
        )  # fmt: skip
        return Transitions(row, after, bootstrap, reward, discount)

    def stacks(self, slots: Slots) -> dict[str, torch.Tensor]:
        """Fresh tensors (N, *stacked_shape) of the observations at `slots`, oldest frame first."""
        return {
            name: self._gather(self._bytes[name], field, slots)
            for name, field in self.observation.items()
        }

    def actions_at(self, slots: Slots) -> torch.Tensor:
        """Fresh tensor (N, *shape) of the actions at `slots`."""
        return self._gather(self._action_bytes, self.action_field, slots)

    def newest(self) -> Slots:
        """Slot (lanes,) of each lane's newest frame."""
        return (self.written - 1) % self.rows * self.lanes + self._lane_numbers

    def open_slots(self) -> NDArray[np.bool_]:
        """Mask (rows * lanes,) of the open starts, worked out anew from flags, ages and cursors."""
        return open_slots(self.written, self.flags, self.ages, self.n_step, self._reach)

    def restore_pending(self) -> None:
        """Work out `pending` anew from flags and cursors, after the arrays were replaced."""
        self.pending[:] = first_pending(self.written, self.flags, self.n_step)

    def _gather(self, source: Array, field: Field, slots: Slots) -> torch.Tensor:
        out = self._recycler.empty((slots.size, *field.stacked_shape), field.dtype)
        size = source.size // self.ages.size
        gather(source, slots, size, field.stack, self.lanes, self.ages, _as_bytes(out))
        return torch.from_numpy(out)


def open_slots(
    written: Slots, flags: NDArray[np.uint8], ages: NDArray[np.uint8], n_step: int, reach: int
) -> NDArray[np.bool_]:
    """Mask (rows * lanes,) of the open starts; `reach` is the longest stack less one."""
    lanes = written.size
    rows = flags.size // lanes
    mask = np.zeros((rows, lanes), np.bool_)
    for lane in range(lanes):
        end = int(written[lane])
        time = np.arange(max(0, end - rows), end)
        slot = time % rows * lanes + lane
        final = flags[slot] != 0
        # First flag at or after each time; a time past the end where none has come yet.
        flagged = np.where(final, time, np.iinfo(np.int64).max)
        ends = np.minimum.accumulate(flagged[::-1])[::-1]
        complete = (ends < end) | (time + n_step < end)
        history = time - np.minimum(reach, ages[slot]) >= end - rows
        mask[time % rows, lane] = ~final & complete & history
    return mask.reshape(-1)


def first_pending(written: Slots, flags: NDArray[np.uint8], n_step: int) -> Slots:
    """Each lane's (lanes,) first time of a start that still waits for its n steps."""
    lanes = written.size
    rows = flags.size // lanes
    found = np.zeros(lanes, np.int64)
    for lane in range(lanes):
        end = int(written[lane])
        first = max(0, end - n_step)
        for time in range(first, end):
            if flags[time % rows * lanes + lane]:
                first = time + 1
        found[lane] = first
    return found


def _as_bytes(array: Array) -> NDArray[np.uint8]:
    """The memory of a contiguous array as bytes (nbytes,)."""
    return array.reshape(-1).view(np.uint8)


def _scatter(ring: Array, slots: Slots, items: Array) -> None:
    source = _as_bytes(items)
    scatter(ring, slots, source, source.size // slots.size)
