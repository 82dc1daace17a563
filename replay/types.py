"""What goes into the replay and what comes out: fields, and batches with shapes and units."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import index

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Field:
    """One named array of a slot: its shape without stack, NumPy dtype and stack.

    Raises TypeError for what is no shape of whole numbers, no dtype or no whole stack.
    """

    shape: tuple[int, ...]
    dtype: str
    stack: int = 1

    def __post_init__(self) -> None:
        try:
            plain = tuple(map(index, self.shape)), index(self.stack)
        except TypeError:
            raise TypeError(
                f"a Field has shape {self.shape!r} and stack {self.stack!r}; expected whole "
                "numbers, such as (1, 84, 84) and 4"
            ) from None
        try:
            kind = np.dtype(self.dtype if self.dtype is not None else "no dtype")
        except TypeError:
            raise TypeError(
                f"a Field has dtype {self.dtype!r}; expected one of NumPy's, such as 'uint8'"
            ) from None
        dtype = kind.name if kind.kind in "biufc" else self.dtype
        for name, value in zip(("shape", "stack", "dtype"), (*plain, dtype), strict=True):
            object.__setattr__(self, name, value)  # so that a file can hold it

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """Shape that an agent sees: (C, H, W) becomes (stack * C, H, W), oldest first."""
        if not self.shape:
            return (self.stack,) if self.stack > 1 else ()
        return (self.stack * self.shape[0], *self.shape[1:])


Spec = Field | dict[str, Field]
Shape = tuple[int, ...] | dict[str, tuple[int, ...]]
Observation = Tensor | dict[str, Tensor]


def by_part(spec: Spec) -> dict[str, Field]:
    """The fields of an observation by name, '' where there is one alone."""
    return {"": spec} if isinstance(spec, Field) else spec


def stacked_shape(spec: Spec) -> Shape:
    """Shape of one stacked observation, or of each of its parts."""
    if isinstance(spec, Field):
        return spec.stacked_shape
    return {name: field.stacked_shape for name, field in spec.items()}


def longest_stack(spec: Spec) -> int:
    """The most frames that any part of an observation is stacked from."""
    return max(field.stack for field in by_part(spec).values())


def count(observation: Observation) -> int:
    """How many observations a batch of them holds."""
    return len(next(iter(observation.values())) if isinstance(observation, dict) else observation)


def move(observation: Observation, device: torch.device | str) -> Observation:
    """A batch of observations on `device`; as it is where it lives there."""
    if isinstance(observation, dict):
        return {name: part.to(device) for name, part in observation.items()}
    return observation.to(device)


@dataclass(frozen=True)
class Batch:
    """A minibatch of n-step transitions, B of them, all on one device.

    observation       (B, *stacked_shape), or a dict of them for several fields
    action            (B,) int64, or (B, A) float32
    reward            (B,) float32: sum of gamma^k r over the m <= n steps taken
    discount          (B,) float32: gamma^m * (1 - terminated)
    next_observation  like observation, m steps later
    weight            (B,) float32 in (0, 1]: importance weights, the greatest is 1
                      (with global weights the greatest in the whole memory)
    index             (B,) int64: row ids, to hand back to `update` with the errors
    """

    observation: Observation
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Observation
    weight: Tensor
    index: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; onto a GPU by way of page-locked memory, without waiting."""

        pin = torch.device(device).type == "cuda"

        def one(value: Tensor) -> Tensor:
            if pin and not value.is_cuda:
                value = value.pin_memory()
            return value.to(device, non_blocking=pin)  # the host may read at once what comes to it

        def each(value: Observation) -> Observation:
            return {k: one(v) for k, v in value.items()} if isinstance(value, dict) else one(value)

        return Batch(**{f.name: each(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]
