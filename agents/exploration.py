"""Noise that continuous actions explore by."""

from __future__ import annotations

import numpy as np

OCTAVES = 10
"""Of pink noise: first-order processes, with time constants of 0.5 to 256 steps."""


class Noise:
    """What is added to actions to explore: (B, A) a step, B lanes that keep their order.

    gaussian  independent, of standard deviation `sigma`
    pink      of standard deviation `sigma` too, but with as much power in every octave, from single
              steps to hundreds (Eberhard et al. 2023). Deviation: a sum of first-order processes,
              one an octave, where the paper shapes the spectrum of a whole episode; so episodes may
              be of any length, and noise goes on over their end
    ou        Ornstein-Uhlenbeck (Uhlenbeck & Ornstein 1930, in steps of 1):
              x += -theta x + sigma N(0, 1), each lane and action a process of its own
    """

    def __init__(self, kind: str, theta: float) -> None:
        self.kind, self.theta = kind, theta
        self.state = np.zeros((0, 0), np.float64)
        self._keep = np.exp(-(2.0 ** (1 - np.arange(OCTAVES))))[:, None, None]

    def __call__(
        self, shape: tuple[int, int], sigma: float, draw: np.random.Generator
    ) -> np.ndarray:
        if self.kind == "gaussian":
            return sigma * draw.standard_normal(shape)
        if self.kind == "pink":
            fresh = draw.standard_normal((OCTAVES, *shape))
            if self.state.shape != fresh.shape:
                self.state = fresh
            else:
                self.state = self._keep * self.state + (1 - self._keep**2) ** 0.5 * fresh
            return sigma * self.state.sum(0) / OCTAVES**0.5
        if self.state.shape != shape:
            self.state = np.zeros(shape)
        self.state = (1 - self.theta) * self.state + sigma * draw.standard_normal(shape)
        return self.state
