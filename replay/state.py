"""What a replay on a device consists of: tensors, and numbers that never change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from replay.types import Batch, Field

_WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)  # widest first


class Tree(Protocol):
    """A priority tree over tensors: `replay.tree_triton` or `replay.tree_torch`."""

    leaves: Tensor

    @property
    def nbytes(self) -> int: ...

    def touch_all(self) -> None: ...


class Step(NamedTuple):
    """One step of N lanes, on the device."""

    chosen: Tensor  # (N,) int64 lanes, each once
    frames: dict[str, Tensor]  # (N, words)
    action: Tensor | None  # (N, words); None begins episodes
    reward: Tensor  # (N,) float32
    terminated: Tensor  # (N,) uint8
    truncated: Tensor  # (N,) uint8


@dataclass
class State:
    """The ring of `replay.ring` and the priorities, as tensors of one device.

    Sizes are `rows * lanes` slots but for `written` and `pending`, (lanes,), `powers`,
    (n_step + 1,), and the scalars, which are (1,). `random` (2,) is the generator: seed, draws.
    `table` holds the priorities of the last sort, rising, if `ranked`; with `overall` the weights
    are over the greatest in the whole memory.
    """

    observation: dict[str, Field]
    action: Field
    lanes: int
    rows: int
    n_step: int
    reach: int
    alpha: float
    eps: float
    ranked: bool
    overall: bool
    device: torch.device
    frames: dict[str, Tensor]
    actions: Tensor
    rewards: Tensor
    flags: Tensor
    ages: Tensor
    priority: Tensor
    written: Tensor
    pending: Tensor
    powers: Tensor
    greatest: Tensor
    nans: Tensor
    sampleable: Tensor
    random: Tensor
    table: Tensor

    @property
    def size(self) -> int:
        """Slots."""
        return self.rows * self.lanes

    def empty(self, name: str, count: int) -> Tensor:
        """A new tensor (count, *stacked_shape) for the field `name`."""
        field = self.observation[name]
        return torch.empty((count, *field.stacked_shape), dtype=dtype(field), device=self.device)


class Ops(Protocol):
    """What is done to a state; `replay.ring_triton` and `replay.ring_torch` agree on it."""

    tree: Tree

    def write(self, state: State, step: Step) -> None:
        """Write one slot to each of the step's lanes; keep leaves and counts in step."""

    def sample(
        self, state: State, count: int, beta: Tensor, uniforms: Tensor | None = None
    ) -> Batch:
        """Draw `count` transitions; `beta` (1,) float64; uniforms (count,) float64 if given."""

    def stacks(self, state: State, slots: Tensor) -> dict[str, Tensor]:
        """Observations (N, *stacked_shape) that end at `slots` (N,)."""

    def update(self, state: State, row: Tensor, error: Tensor) -> None:
        """Take back the errors (N,) float32 of rows (N,) int64."""


def build(
    observation: dict[str, Field],
    action: Field,
    *,
    lanes: int,
    rows: int,
    n_step: int,
    gamma: float,
    alpha: float,
    eps: float,
    ranked: bool,
    overall: bool,
    seed: int,
    device: torch.device,
) -> State:
    """An empty state."""
    size = rows * lanes

    def zeros(count: int, kind: torch.dtype) -> Tensor:
        return torch.zeros(count, dtype=kind, device=device)

    def storage(field: Field) -> Tensor:
        kind = dtype(field)
        return torch.zeros((size, math.prod(field.shape)), dtype=kind, device=device)

    powers = gamma ** np.arange(n_step + 1, dtype=np.float64)
    return State(
        observation=observation,
        action=action,
        lanes=lanes,
        rows=rows,
        n_step=n_step,
        reach=max(field.stack for field in observation.values()) - 1,
        alpha=alpha,
        eps=eps,
        ranked=ranked,
        overall=overall,
        device=device,
        frames={name: words(storage(field), size) for name, field in observation.items()},
        actions=words(storage(action), size),
        rewards=zeros(size, torch.float32),
        flags=zeros(size, torch.uint8),
        ages=zeros(size, torch.uint8),
        priority=zeros(size, torch.float32),
        written=zeros(lanes, torch.int64),
        pending=zeros(lanes, torch.int64),
        powers=torch.from_numpy(powers).to(device),
        greatest=torch.ones(1, dtype=torch.float32, device=device),
        nans=zeros(1, torch.int64),
        sampleable=zeros(1, torch.int64),
        random=torch.tensor([seed, 0], dtype=torch.int64, device=device),
        table=zeros(size if ranked else 1, torch.float32),
    )


def halves(stacks: dict[str, Tensor], count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The first `count` of each, and the rest."""
    first = {name: stack[:count] for name, stack in stacks.items()}
    return first, {name: stack[count:] for name, stack in stacks.items()}


def dtype(field: Field) -> torch.dtype:
    """A field's dtype in PyTorch."""
    return torch.from_numpy(np.empty(0, field.dtype)).dtype


def words(tensor: Tensor, items: int) -> Tensor:
    """The memory of a contiguous tensor as (items, W), in the widest integers that divide one."""
    flat = tensor.reshape(-1).view(torch.uint8)
    each = flat.numel() // items
    kind = next(kind for kind in _WORDS if each % kind.itemsize == 0)
    return flat.view(kind).view(items, -1)
