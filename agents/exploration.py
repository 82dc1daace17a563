"""Noise that continuous actions explore by."""

from __future__ import annotations

import numpy as np


class Noise:
    """What is added to actions to explore: (B, A) a step, B lanes that keep their order.

    Gaussian: independent, of standard deviation `sigma`. Ornstein-Uhlenbeck (Uhlenbeck & Ornstein
    1930, in steps of 1): x += -theta x + sigma N(0, 1), each lane and action a process of its own.
    """

    def __init__(self, kind: str, theta: float) -> None:
        self.kind, self.theta = kind, theta
        self.state = np.zeros((0, 0), np.float64)

    def __call__(
        self, shape: tuple[int, int], sigma: float, draw: np.random.Generator
    ) -> np.ndarray:
        fresh = sigma * draw.standard_normal(shape)
        if self.kind == "gaussian":
            return fresh
        if self.state.shape != shape:
            self.state = np.zeros(shape)
        self.state = (1 - self.theta) * self.state + fresh
        return self.state
