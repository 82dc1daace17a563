# mypy: allow-untyped-defs, allow-incomplete-defs
"""Triton kernels of the ring in CUDA memory: write a step, draw, gather, take errors back.

A sample is two kernels, draw (with its walk along n steps) and gather (with the weights), and an
update is one and the tree's two. No kernel adds floats atomically, and where several programs write
one place they write the same bits; so results don't depend on the order in which programs run.
Frames and actions are moved as words, the widest integers that divide an item.

The rules of what is open are `replay.ring`'s, the names too. Slots lie in [0, WHOLE), and a list of
touched slots holds -1 where there is none.
"""

from __future__ import annotations

import triton
import triton.language as tl

from replay.tree_triton import TINY, descend, weigh


@triton.jit
def to_leaf(priority, table, ALPHA: tl.constexpr, WHOLE: tl.constexpr, BITS: tl.constexpr):
    """p^alpha in float64, rounded once; never the 0 that says that a row is not open.

    With BITS, those of WHOLE, rank^-alpha: the rank among `table` (WHOLE,), which rises.
    """
    size = priority.to(tl.float64)
    if BITS:
        below = (priority * 0).to(tl.int32)
        for bit in tl.static_range(BITS):
            ahead = below + (1 << (BITS - 1 - bit))
            value = tl.load(table + ahead - 1, mask=ahead <= WHOLE, other=float("inf"))
            below = tl.where(value <= priority, ahead, below)
        size = 1.0 / (1 + WHOLE - below).to(tl.float64)
    power = tl.exp2(tl.full((), ALPHA, tl.float64) * tl.log2(size))
    return tl.maximum(power.to(tl.float32), TINY)


@triton.jit(do_not_specialize=["count"])
def write_kernel(
    chosen, reward, terminated, truncated, written, pending, flags, ages, rewards, priority,
    leaves, greatest, table, sampleable, slots, touched, count,
    LANES: tl.constexpr, ROWS: tl.constexpr, N_STEP: tl.constexpr, REACH: tl.constexpr,
    OPENED: tl.constexpr, CLOSED: tl.constexpr, RESTART: tl.constexpr, ALPHA: tl.constexpr,
    BITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """`replay.ring._write`, and the leaves and priorities of what it opens and closes.

    slots (count,) receives where the step went; touched (count, OPENED + CLOSED) what changed.
    """
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    real = i < count
    lane = tl.load(chosen + i, mask=real, other=0)
    t = tl.load(written + lane, mask=real, other=0)
    waiting = tl.load(pending + lane, mask=real, other=0)
    slot = (t % ROWS) * LANES + lane
    before = ((t + ROWS - 1) % ROWS) * LANES + lane
    starts = (t == 0) | (tl.load(flags + before, mask=real, other=0) != 0)
    age = tl.load(ages + before, mask=real, other=0).to(tl.int32)

    # The starts whose stack reaches back to the overwritten slot, and to none older.
    back = tl.arange(0, CLOSED)[None, :].to(tl.int64)
    near = ((t[:, None] + back) % ROWS) * LANES + lane[:, None]
    look = real[:, None] & (t[:, None] >= ROWS) & (back <= REACH)
    reach = tl.minimum(tl.load(ages + near, mask=look, other=0).to(tl.int64), REACH)
    closed = look & (reach == back) & (tl.load(flags + near, mask=look, other=1) == 0)
    tl.debug_barrier()  # all that is read below this line was written above it, and the reverse

    flag = tl.load(terminated + i, mask=real, other=0).to(tl.int32)
    flag |= tl.load(truncated + i, mask=real, other=0).to(tl.int32) << 1
    begin = tl.where(starts, t, waiting)
    ready = tl.where(flag != 0, t, t - N_STEP + 1)
    if RESTART:
        tl.store(flags + before, tl.full([TILE], 2, tl.uint8), mask=real & ~starts)
        begin = tl.where(starts, t, waiting)
        ready = tl.where(starts, t, t - 1)
        age = tl.zeros([TILE], tl.int32)
        tl.store(pending + lane, t, mask=real)
    else:
        age = tl.where(starts, 0, tl.minimum(age + 1, 255))
        left = tl.where(flag != 0, t + 1, tl.maximum(begin, ready))
        tl.store(pending + lane, left, mask=real)
    tl.store(flags + slot, flag.to(tl.uint8), mask=real)
    tl.store(ages + slot, age.to(tl.uint8), mask=real)
    tl.store(rewards + slot, tl.load(reward + i, mask=real, other=0.0), mask=real)
    tl.store(written + lane, t + 1, mask=real)
    tl.store(slots + i, slot, mask=real)

    start = begin[:, None] + tl.arange(0, OPENED)[None, :]
    opened = real[:, None] & (start < ready[:, None])
    fresh = (start % ROWS) * LANES + lane[:, None]
    size = tl.zeros([TILE, OPENED], tl.float32) + tl.load(greatest)
    tl.store(priority + near, tl.zeros([TILE, CLOSED], tl.float32), mask=closed)
    tl.store(leaves + near, tl.zeros([TILE, CLOSED], tl.float32), mask=closed)
    tl.store(priority + fresh, size, mask=opened)
    tl.store(leaves + fresh, to_leaf(size, table, ALPHA, LANES * ROWS, BITS), mask=opened)
    row = i[:, None] * (OPENED + CLOSED)
    new = tl.where(opened, fresh, -1)
    gone = tl.where(closed, near, -1)
    tl.store(touched + row + tl.arange(0, OPENED)[None, :], new, mask=real[:, None])
    tl.store(touched + row + OPENED + tl.arange(0, CLOSED)[None, :], gone, mask=real[:, None])
    change = tl.sum(tl.sum(opened.to(tl.int64), 1), 0) - tl.sum(tl.sum(closed.to(tl.int64), 1), 0)
    tl.atomic_add(sampleable, change)  # of whole numbers: any order gives the same


@triton.jit(do_not_specialize=["count"])
def scatter_kernel(
    ring, slots, source, count, SIZE: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    """Copy item i of `source` (count,) to slot `slots[i]` of `ring`; an item is SIZE words."""
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    at = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    here = (i < count)[:, None] & (at < SIZE)
    slot = tl.load(slots + i, mask=i < count, other=0)
    value = tl.load(source + i.to(tl.int64)[:, None] * SIZE + at, mask=here)
    tl.store(ring + slot[:, None] * SIZE + at, value, mask=here)


@triton.jit
def uniform(random, i):
    """53-bit uniforms (T,) float64 in [0, 1): Philox 4x32 of (seed, draw, counter).

    random (2,) int64 holds seed and counter (Salmon et al. 2011).
    """
    counter = tl.load(random + 1)
    zero = (i * 0).to(tl.uint32)
    low, high = zero + counter.to(tl.uint32), zero + (counter >> 32).to(tl.uint32)
    a, b, _, _ = tl.philox(tl.load(random), i.to(tl.uint32), low, high, zero)
    whole = (a >> 5).to(tl.float64) * 67108864.0 + (b >> 6).to(tl.float64)
    return whole * 1.1102230246251565e-16  # 2^-53


@triton.jit(do_not_specialize=["count"])
def draw_kernel(
    uniforms, random, leaves, sums, written, flags, rewards, powers, actions,
    slots, leaf, row, reward, discount, action, count,
    F: tl.constexpr, TOP: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr,
    N_STEP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, GIVEN: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """One start from each of `count` strata, and what its n steps brought.

    slots (2, count) receives start and bootstrap; SIZE is an action's words. From an empty tree
    come rows of -1 with a leaf of 0. `uniforms` (count,) float64 are used where GIVEN.
    """
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    real = i < count
    share = tl.load(uniforms + i, mask=real, other=0.0) if GIVEN else uniform(random, i)
    share = (i.to(tl.float64) + share) / count.to(tl.float64)
    found, mass = descend(leaves, sums, tl.where(real, share, 0.0), F, TOP)
    start = tl.maximum(found, 0)
    position = start // LANES
    lane = start - position * LANES
    newest = tl.load(written + lane) - 1
    time = newest - (newest - position) % ROWS
    tl.store(row + i, tl.where(found < 0, -1, time * LANES + lane), mask=real)
    tl.store(leaf + i, mass, mask=real)

    total = tl.zeros([TILE], tl.float64)
    end = start
    last = tl.zeros([TILE], tl.int32)
    steps = tl.zeros([TILE], tl.int32)
    for k in tl.static_range(N_STEP):
        at = start + (k + 1) * LANES
        at = tl.where(at >= ROWS * LANES, at - ROWS * LANES, at)
        goes = last == 0
        gain = tl.load(powers + k) * tl.load(rewards + at).to(tl.float64)
        total = tl.where(goes, total + gain, total)
        end = tl.where(goes, at, end)
        steps = tl.where(goes, k + 1, steps)
        last = tl.where(goes, tl.load(flags + at).to(tl.int32), last)
    tl.store(slots + i, start, mask=real)
    tl.store(slots + count + i, end, mask=real)
    tl.store(reward + i, total.to(tl.float32), mask=real)
    worth = tl.load(powers + steps).to(tl.float32)
    tl.store(discount + i, tl.where((last & 1) != 0, 0.0, worth), mask=real)

    after = start + LANES
    after = tl.where(after >= ROWS * LANES, after - ROWS * LANES, after)
    word = tl.arange(0, BLOCK)[None, :]
    here = real[:, None] & (word < SIZE)
    value = tl.load(actions + after[:, None] * SIZE + word, mask=here)
    tl.store(action + i[:, None].to(tl.int64) * SIZE + word, value, mask=here)


@triton.jit(do_not_specialize=["count", "draws"])
def gather_kernel(
    ring, slots, ages, out, leaf, beta, weight, minima, random, count, draws,
    SIZE: tl.constexpr, STACK: tl.constexpr, LANES: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK: tl.constexpr, WEIGH: tl.constexpr, ADVANCE: tl.constexpr, F: tl.constexpr,
    TOP: tl.constexpr, LEAST: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Stacks that end at `slots` (count,), oldest first; before an episode's start its first item
    repeats.

    An item is SIZE words, and a program copies one of them (or BLOCK words of it). With WEIGH the
    importance weights of the `draws` draws are worked out beside it, and with ADVANCE the random
    counter moves on, which nobody reads here.
    """
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    place = tl.program_id(1)
    slot = tl.load(slots + i, mask=i < count, other=0)
    age = tl.load(ages + slot).to(tl.int64)
    origin = slot - tl.minimum(STACK - 1 - place, age) * LANES
    origin = tl.where(origin < 0, origin + WHOLE, origin)
    at = (tl.program_id(2) * BLOCK + tl.arange(0, BLOCK))[None, :]
    here = (i < count)[:, None] & (at < SIZE)
    value = tl.load(ring + origin[:, None] * SIZE + at, mask=here)
    tl.store(out + (i.to(tl.int64)[:, None] * STACK + place) * SIZE + at, value, mask=here)
    first = (place == 0) & (tl.program_id(2) == 0)
    if WEIGH:  # noqa: SIM102 (decided when compiled)
        if first & (tl.program_id(0) * TILE < draws):
            found = weigh(leaf, i, draws, beta, minima, F, TOP, LEAST, CHUNK)
            tl.store(weight + i, found, mask=i < draws)
    if ADVANCE:  # noqa: SIM102
        if first & (tl.program_id(0) == 0):
            tl.store(random + 1, tl.load(random + 1) + 1)


@triton.jit
def _resolve(
    row, error, written, leaves, j, count,
    LANES: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Slots (T,) of rows `j`, new priorities (T,), and which errors (T,) are NaN.

    -1 for a row that takes no error: overwritten, closed, never written, or with a NaN.
    """
    real = j < count
    name = tl.load(row + j, mask=real, other=-1)
    value = tl.load(error + j, mask=real, other=0.0)
    nan = value != value
    time = name // LANES
    lane = tl.where(name >= 0, name - time * LANES, 0)
    end = tl.load(written + lane)
    held = (name >= 0) & (time < end) & (time >= end - ROWS) & ~nan
    slot = tl.where(held, (time % ROWS) * LANES + lane, 0)
    # A leaf above 0 stays above 0 here, so it doesn't matter who has written his already.
    held &= tl.load(leaves + slot, mask=held, other=0.0) > 0
    size = tl.abs(tl.where(nan, 0.0, value)).to(tl.float64) + tl.full((), EPS, tl.float64)
    return tl.where(held, slot, -1), size.to(tl.float32), nan


@triton.jit(do_not_specialize=["count"])
def refresh_kernel(
    row, error, written, leaves, priority, greatest, table, nans, touched, count,
    LANES: tl.constexpr, ROWS: tl.constexpr, ALPHA: tl.constexpr, EPS: tl.constexpr,
    BITS: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    """New priorities and leaves of rows; of duplicates the last that has a number wins.

    ALONE says that one CHUNK holds all `count` of them, which spares a walk from row to leaf. Each
    program reads all `count` errors: for later duplicates of its own, and for the greatest
    priority, which an infinite error gets. The greatest only rises, to the same value in every
    program, so that it may be read before or after another program stored it.
    """
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slot = tl.full([TILE], -1, tl.int64)
    size = tl.zeros([TILE], tl.float32)
    if not ALONE:
        slot, size, _ = _resolve(row, error, written, leaves, i, count, LANES, ROWS, EPS)
    most = tl.load(greatest)
    unreadable = tl.zeros([1], tl.int64)
    later = tl.zeros([TILE], tl.int32)
    for begin in range(0, count, CHUNK):
        j = begin + tl.arange(0, CHUNK)
        other, theirs, nan = _resolve(row, error, written, leaves, j, count, LANES, ROWS, EPS)
        counts = (other >= 0) & (theirs < float("inf"))
        most = tl.maximum(most, tl.max(tl.where(counts, theirs, 0.0), 0))
        unreadable += tl.sum(nan.to(tl.int64), 0)
        if ALONE:  # this chunk holds the program's own rows, too
            own = j[None, :] == i[:, None]
            slot = tl.max(tl.where(own, other[None, :], -1), 1)
            size = tl.max(tl.where(own, theirs[None, :], 0.0), 1)
        same = (other[None, :] == slot[:, None]) & (j[None, :] > i[:, None])
        later = tl.maximum(later, tl.max(same.to(tl.int32), 1))
    if ALPHA == 0:
        tl.store(touched + i, tl.full([TILE], -1, tl.int64), mask=i < count)
    else:
        keep = (slot >= 0) & (later == 0)
        size = tl.minimum(tl.maximum(size, TINY), most)
        tl.store(priority + slot, size, mask=keep)
        tl.store(leaves + slot, to_leaf(size, table, ALPHA, LANES * ROWS, BITS), mask=keep)
        tl.store(touched + i, tl.where(keep, slot, -1), mask=i < count)
    if tl.program_id(0) == 0:
        one = tl.arange(0, 1)
        if ALPHA != 0:
            tl.store(greatest, most)
        tl.store(nans + one, tl.load(nans + one) + unreadable)
