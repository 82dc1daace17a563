"""The ring's operations in plain PyTorch, for any device: what the Triton kernels do, spelled out.

Masked instead of branched, so that nothing waits for the device. Given the same seed the batches
are the same too: the uniforms come from the same Philox counter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from replay.ring import OLDEST_AGE, TERMINATED, TRUNCATED
from replay.state import State, Step, dtype, halves, words
from replay.tree_torch import TINY, TorchTree, put, strata
from replay.types import Batch

_LOW = 0xFFFFFFFF


class TorchOps:
    """`replay.state.Ops`, for any device."""

    def __init__(self, state: State) -> None:
        self.tree = TorchTree(state.size, state.device, state.overall)

    def write(self, state: State, step: Step) -> None:
        """See `replay.state.Ops`."""
        lanes, rows, lane = state.lanes, state.rows, step.chosen
        t, waiting = state.written[lane], state.pending[lane]
        slot = t % rows * lanes + lane
        before = (t + rows - 1) % rows * lanes + lane
        starts = (t == 0) | (state.flags[before] != 0)
        age = state.ages[before].long()

        back = torch.arange(state.reach + 1, device=state.device)
        near = (t[:, None] + back) % rows * lanes + lane[:, None]
        reach = state.ages[near].long().clamp_max(state.reach)
        closed = (t[:, None] >= rows) & (reach == back) & (state.flags[near] == 0)

        flag = step.terminated.long() * TERMINATED + step.truncated.long() * TRUNCATED
        begin = torch.where(starts, t, waiting)
        if step.action is None:
            state.flags[before] = torch.where(starts, state.flags[before], TRUNCATED)
            ready = torch.where(starts, t, t - 1)
            age = torch.zeros_like(age)
            state.pending[lane] = t
        else:
            ready = torch.where(flag != 0, t, t - state.n_step + 1)
            age = torch.where(starts, 0, (age + 1).clamp_max(OLDEST_AGE))
            state.pending[lane] = torch.where(flag != 0, t + 1, torch.maximum(begin, ready))
        state.flags[slot] = flag.to(torch.uint8)
        state.ages[slot] = age.to(torch.uint8)
        state.rewards[slot] = step.reward
        state.written[lane] = t + 1
        for name, frame in step.frames.items():
            state.frames[name][slot] = frame
        state.actions[slot] = 0 if step.action is None else step.action

        start = begin[:, None] + torch.arange(state.n_step, device=state.device)
        opened = start < ready[:, None]
        fresh = torch.where(opened, start % rows * lanes + lane[:, None], -1).flatten()
        gone = torch.where(closed, near, -1).flatten()
        nothing = torch.zeros(1, device=state.device)
        for target, value in (
            (state.priority, state.greatest),
            (self.tree.leaves, to_leaf(state, state.greatest)),
        ):
            put(target, gone, nothing)
            put(target, fresh, value)
        state.sampleable += opened.sum() - closed.sum()

    def sample(
        self, state: State, count: int, beta: Tensor, uniforms: Tensor | None = None
    ) -> Batch:
        """See `replay.state.Ops`."""
        if uniforms is None:
            uniforms = philox(state.random, count)
            state.random[1] += 1
        found, leaf = self.tree.find(strata(uniforms))
        leaf = torch.where(found < 0, 0.0, leaf)
        slot = found.clamp_min(0)
        position, lane = slot // state.lanes, slot % state.lanes
        newest = state.written[lane] - 1
        time = newest - (newest - position) % state.rows

        total = torch.zeros(count, dtype=torch.float64, device=state.device)
        end, last, steps = slot, torch.zeros_like(slot), torch.zeros_like(slot)
        for k in range(state.n_step):
            at = (slot + (k + 1) * state.lanes) % state.size
            goes = last == 0
            gain = state.powers[k] * state.rewards[at].double()
            total = torch.where(goes, total + gain, total)
            end = torch.where(goes, at, end)
            steps = torch.where(goes, k + 1, steps)
            last = torch.where(goes, state.flags[at].long(), last)
        worth = state.powers[steps].float()
        action = torch.empty(
            (count, *state.action.shape), dtype=dtype(state.action), device=state.device
        )
        words(action, count).copy_(state.actions[(slot + state.lanes) % state.size])
        seen, following = halves(self.stacks(state, torch.cat([slot, end])), count)
        return Batch(
            observation=seen,
            next_observation=following,
            action=action,
            reward=total.float(),
            discount=torch.where(last & TERMINATED != 0, 0.0, worth),
            weight=self.tree.weigh(leaf, beta),
            index=torch.where(found < 0, -1, time * state.lanes + lane),
        )

    def stacks(self, state: State, slots: Tensor) -> dict[str, Tensor]:
        """See `replay.state.Ops`."""
        found = {}
        age = state.ages[slots].long()[:, None]
        for name, field in state.observation.items():
            back = torch.arange(field.stack - 1, -1, -1, device=state.device)
            origin = (slots[:, None] - torch.minimum(back, age) * state.lanes) % state.size
            out = state.empty(name, len(slots))
            words(out, origin.numel()).copy_(state.frames[name][origin.flatten()])
            found[name] = out
        return found

    def update(self, state: State, row: Tensor, error: Tensor) -> None:
        """See `replay.state.Ops`."""
        nan = error.isnan()
        state.nans += nan.sum()
        if state.alpha == 0:
            return
        time = row.div(state.lanes, rounding_mode="trunc")
        lane = torch.where(row >= 0, row - time * state.lanes, 0)
        end = state.written[lane]
        held = (row >= 0) & (time < end) & (time >= end - state.rows) & ~nan
        slot = torch.where(held, time % state.rows * state.lanes + lane, 0)
        held &= self.tree.leaves[slot] > 0
        size = (error.abs().double() + state.eps).float()
        counts = torch.where(held & size.isfinite(), size, 0.0)
        state.greatest.copy_(torch.maximum(state.greatest, counts.max()))
        size = torch.minimum(size.clamp_min(TINY), state.greatest)
        place = torch.where(held, slot, -1)
        put(state.priority, place, size)
        put(self.tree.leaves, place, to_leaf(state, size))


def to_leaf(state: State, priority: Tensor) -> Tensor:
    """p^alpha or rank^-alpha, and never the 0 that says that a row is not open."""
    size = priority.double()
    if state.ranked:
        greater = state.size - torch.searchsorted(state.table, priority, right=True)
        size = 1 / (1 + greater).double()
    return (size**state.alpha).float().clamp_min(TINY)


def philox(random: Tensor, count: int) -> Tensor:
    """53-bit uniforms (count,) float64 in [0, 1): Philox 4x32-10 (Salmon et al. 2011).

    random (2,) int64 holds the seed and the counter of draws; see `replay.kernels.uniform`.
    """
    seed, counter = random[0], random[1]
    a = torch.arange(count, device=random.device)
    zero = torch.zeros_like(a)
    b, c, d = zero + (counter & _LOW), zero + (counter >> 32 & _LOW), zero
    key_low, key_high = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        high_a, low_a = _multiply(0xD2511F53, a)
        high_c, low_c = _multiply(0xCD9E8D57, c)
        a, b, c, d = high_c ^ b ^ key_low, low_c, high_a ^ d ^ key_high, low_a
        key_low = key_low + 0x9E3779B9 & _LOW
        key_high = key_high + 0xBB67AE85 & _LOW
    return ((a >> 5).double() * 67108864.0 + (b >> 6).double()) * 2.0**-53


def _multiply(constant: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of two numbers below 2^32, in signed 64-bit arithmetic."""
    low, high = (constant & 0xFFFF) * value, (constant >> 16) * value
    low_bits = low + ((high & 0xFFFF) << 16)
    return (high >> 16) + (low_bits >> 32), low_bits & _LOW
