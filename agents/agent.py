"""What an algorithm offers to the loop, to checkpoints and to the commands: no base class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agents.perception import Eyes
from replay import Batch, Observation


class Agent(Protocol):
    """Acts on batches of stacked observations and learns from batches of transitions.

    It knows neither environments nor replays nor loggers. Observations are (B, *shape), uint8
    images or float32 vectors, or a dict of such by name; they may live on any device.
    """

    device: torch.device
    """Of the networks."""
    generator: torch.Generator
    """The random numbers of `update`, on that device."""
    draws: bool
    """Whether `update` draws any."""
    graphs: bool
    """Whether what it does on a CUDA device may be captured as graphs."""
    beta: float
    """Importance correction of the next sample, in [0, 1]."""
    updates: int
    """Updates made so far."""
    report: str
    """What became of its encoder's pretrained weights; empty without any."""

    @property
    def course(self) -> int:
        """Which of several courses the next `update` takes, as the count of updates has it.

        A CUDA graph is captured for each: what happens in every second update only makes two.
        """

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One learner step, which counts itself: metrics, and each sample's error (B,) float32.

        Nothing in it waits for the device or branches on what is there, and of what the host knows
        only `course` changes what the device is asked to do.
        """

    def compile(self) -> None:
        """Have torch compile what an update computes, from the next one on."""

    def anneal(self, step: int, steps: int) -> dict[str, float]:
        """Set exploration and beta for agent step `step` of `steps`; returns both, by name."""

    def act(
        self,
        observation: Observation,
        *,
        explore: bool = True,
        epsilon: float = 0.0,
        explorer: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Actions, (B,) int64 or (B, A) float32 in [-1, 1].

        With `explore` False it explores by nothing but a share `epsilon` of random actions, which
        `explorer` draws where it is given.
        """

    def values(self, observation: Observation) -> Tensor:
        """Values float32: (B, A) of all actions, or (B, 1) of the policy's continuous ones."""

    def encode(self, observation: Observation) -> dict[str, Tensor]:
        """Features (B, F) of each image by its name, which every method takes in its place."""

    def explained(self, action: Tensor) -> tuple[nn.Module, Eyes, Callable[[Tensor], Tensor]]:
        """What an explanation of `action` is of: network, its encoder, the score of its output."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning and acting depend on: tensors, numbers and strings in dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a `state_dict` of the same configuration; RuntimeError where shapes differ."""
