"""The ring's operations by Triton kernels; every launch can be captured in a CUDA graph."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from replay import kernels
from replay.state import State, Step, dtype, halves, words
from replay.tree_triton import EXACT, TILE, TritonTree, chunk, grid
from replay.types import Batch

_LARGEST = 1024  # words that one program copies


class TritonOps:
    """`replay.state.Ops`, for a CUDA device (or Triton's interpreter)."""

    def __init__(self, state: State) -> None:
        self.tree = TritonTree(state.size, state.device, state.overall)
        self._bits = state.size.bit_length() if state.ranked else 0

    def write(self, state: State, step: Step) -> None:
        """See `replay.state.Ops`."""
        count = len(step.chosen)
        opened = triton.next_power_of_2(state.n_step)
        closed = triton.next_power_of_2(state.reach + 1)
        slots = torch.empty(count, dtype=torch.int64, device=state.device)
        touched = torch.empty((count, opened + closed), dtype=torch.int64, device=state.device)
        kernels.write_kernel[grid(count, TILE)](
            step.chosen, step.reward, step.terminated, step.truncated, state.written,
            state.pending, state.flags, state.ages, state.rewards, state.priority,
            self.tree.leaves, state.greatest, state.table, state.sampleable, slots, touched, count,
            LANES=state.lanes, ROWS=state.rows, N_STEP=state.n_step, REACH=state.reach,
            OPENED=opened, CLOSED=closed, RESTART=step.action is None, ALPHA=state.alpha,
            BITS=self._bits, TILE=TILE, num_warps=1, **EXACT,
        )  # fmt: skip
        for name, frame in step.frames.items():
            _scatter(state.frames[name], slots, frame)
        action = step.action
        if action is None:
            action = torch.zeros_like(state.actions[:count])
        _scatter(state.actions, slots, action)
        self.tree.touch(touched)

    def sample(
        self, state: State, count: int, beta: Tensor, uniforms: Tensor | None = None
    ) -> Batch:
        """See `replay.state.Ops`."""
        device = state.device
        slots = torch.empty(2 * count, dtype=torch.int64, device=device)
        row = torch.empty(count, dtype=torch.int64, device=device)
        reward, discount, leaf, weight = torch.empty((4, count), device=device).unbind()
        action = torch.empty((count, *state.action.shape), dtype=dtype(state.action), device=device)
        out = words(action, count)
        size = out.shape[1]
        kernels.draw_kernel[grid(count, TILE)](
            state.powers if uniforms is None else uniforms, state.random, self.tree.leaves,
            self.tree.sums, state.written, state.flags, state.rewards, state.powers,
            state.actions, slots, leaf, row, reward, discount, out, count,
            F=self.tree.fan_out, TOP=self.tree.top, LANES=state.lanes, ROWS=state.rows,
            N_STEP=state.n_step, SIZE=size, BLOCK=triton.next_power_of_2(size),
            GIVEN=uniforms is not None, TILE=TILE, **EXACT,
        )  # fmt: skip
        stacks = {}
        for number, name in enumerate(state.observation):
            stacks[name] = self._gather(
                state, name, slots, (leaf, beta, weight, count),
                weigh=number == 0, advance=number == 0 and uniforms is None,
            )  # fmt: skip
        seen, following = halves(stacks, count)
        return Batch(seen, action, reward, discount, following, weight, row)

    def stacks(self, state: State, slots: Tensor) -> dict[str, Tensor]:
        """See `replay.state.Ops`."""
        none = (state.powers, state.powers, state.powers, 1)
        return {name: self._gather(state, name, slots, none) for name in state.observation}

    def update(self, state: State, row: Tensor, error: Tensor) -> None:
        """See `replay.state.Ops`."""
        count = len(row)
        touched = torch.empty(count, dtype=torch.int64, device=state.device)
        kernels.refresh_kernel[grid(count, TILE)](
            row, error, state.written, self.tree.leaves, state.priority, state.greatest,
            state.table, state.nans, touched, count, LANES=state.lanes, ROWS=state.rows,
            ALPHA=state.alpha, EPS=state.eps, BITS=self._bits, TILE=TILE, CHUNK=chunk(count),
            ALONE=count <= chunk(count), **EXACT,
        )  # fmt: skip
        if state.alpha:
            self.tree.touch(touched)

    def _gather(
        self,
        state: State,
        name: str,
        slots: Tensor,
        draws_of: tuple[Tensor, Tensor, Tensor, int],
        *,
        weigh: bool = False,
        advance: bool = False,
    ) -> Tensor:
        stack, frames = state.observation[name].stack, state.frames[name]
        size = frames.shape[1]
        found = state.empty(name, len(slots))
        block = min(_LARGEST, triton.next_power_of_2(size))
        count, draws = len(slots), draws_of[3]
        kernels.gather_kernel[*grid(count, TILE), stack, triton.cdiv(size, block)](
            frames, slots, state.ages, words(found, count * stack), *draws_of[:3],
            self.tree.minima, state.random, count, draws, SIZE=size, STACK=stack,
            LANES=state.lanes, WHOLE=state.size,
            BLOCK=block, WEIGH=weigh, ADVANCE=advance, F=self.tree.fan_out, TOP=self.tree.top,
            LEAST=self.tree.least, CHUNK=chunk(draws), TILE=TILE, **EXACT,
        )  # fmt: skip
        return found


def _scatter(ring: Tensor, slots: Tensor, items: Tensor) -> None:
    size = ring.shape[1]
    block = min(_LARGEST, triton.next_power_of_2(size))
    kernels.scatter_kernel[*grid(len(slots), TILE), triton.cdiv(size, block)](
        ring, slots, items, len(slots), SIZE=size, BLOCK=block, TILE=TILE, **EXACT
    )
