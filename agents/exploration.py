"""Noise that continuous actions explore by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from configs.ddpg import DDPGConfig

OCTAVES = 10
"""Of pink noise: first-order processes, with time constants of 0.5 to 256 steps."""


class Exploration:
    """How training's actions differ from the policy's: random ones, or the policy's with noise."""

    def __init__(self, config: DDPGConfig) -> None:
        self.config = config
        self.noise = Noise(config.noise, config.ou_theta)
        self.held = Held(config.random_hold)
        self.sigma = config.noise_start
        """Of the noise, at this step."""
        self.share = 1.0 if config.random_steps else config.random_share
        """The chance that a random action begins at it."""

    def anneal(self, step: int) -> None:
        """Set both for agent step `step`."""
        config = self.config
        done = min(1.0, step / config.noise_steps) if config.noise_steps else 1.0
        self.sigma = config.noise_start + done * (config.noise_final - config.noise_start)
        self.share = 1.0 if step < config.random_steps else config.random_share

    def random(
        self, shape: tuple[int, int], draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Random actions (B, A) in [-1, 1], and which lanes (B, 1) take them."""
        if self.share:
            return self.held(shape, self.share, draw)
        return np.zeros(shape), np.zeros((shape[0], 1), bool)

    def noisy(self, action: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """A policy's actions (B, A) with noise, in [-1, 1]."""
        varied: np.ndarray = action + self.noise(action.shape, self.sigma, draw)
        return varied.clip(-1, 1)

    def state_dict(self) -> dict[str, Any]:
        """The noise's course, and the random actions that are kept up."""
        return {"noise": torch.tensor(self.noise.state), "held": self.held.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the one did that had this state."""
        self.noise.state = state["noise"].cpu().numpy().copy()
        if "held" in state:  # older checkpoints have none
            self.held.load_state_dict(state["held"])


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


class Held:
    """Random actions that are kept up: what they reach, single ones don't, since they cancel out.

    A lane that has none begins one with probability `share`: uniform in [-1, 1], for n steps, n of
    a zeta distribution, P(n) ~ n^-2, cut off at `longest` (Dabney et al. 2021, section 4). So each
    octave of lengths fills as much time as the next. They go on over the end of an episode.
    """

    def __init__(self, longest: int) -> None:
        self._action = np.zeros((0, 0))
        self._left = np.zeros(0, np.int64)
        self._likely = np.cumsum(1 / np.arange(1, longest + 1) ** 2.0)

    def __call__(
        self, shape: tuple[int, int], share: float, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B, A), and which lanes (B, 1) are to take theirs."""
        if self._action.shape != shape:
            self._action, self._left = np.zeros(shape), np.zeros(shape[0], np.int64)
        begins = (self._left == 0) & (draw.random(shape[0]) < share)
        some = int(begins.sum())
        self._action[begins] = draw.uniform(-1, 1, (some, shape[1]))
        at = draw.random(some) * self._likely[-1]
        self._left[begins] = 1 + self._likely.searchsorted(at, "right")
        takes = self._left > 0
        self._left -= takes
        return self._action, takes[:, None]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The actions that are kept up, and for how many steps more."""
        return {"action": torch.tensor(self._action), "left": torch.tensor(self._left)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on as the one did that had this state."""
        self._action = state["action"].cpu().numpy().copy()
        self._left = state["left"].cpu().numpy().copy()
