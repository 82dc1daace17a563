"""The DQN family's options, free of heavy imports so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from configs import learner
from configs.learner import LearnerConfig
from configs.ranges import above_zero, at_least, shares


@dataclass(frozen=True)
class DQNConfig(LearnerConfig):
    """Deep Q-learning by independent switches; the papers' agents are presets over it."""

    hidden: int = 512
    n_step: int = 3
    learning_starts: int = 20_000
    update_every: float = 4.0

    double: bool = True
    """Select the bootstrap action with the online network (van Hasselt et al. 2016)."""
    dueling: bool = True
    """Split the head into value and advantage (Wang et al. 2016)."""
    noisy: bool = False
    """Explore by factorised noisy layers instead of epsilon (Fortunato et al. 2018)."""
    distributional: bool = False
    """Learn the return's distribution, C51 (Bellemare et al. 2017)."""
    atoms: int = 51
    """Atoms of the distribution."""
    v_min: float = -10.0
    """Least return of the distribution's support."""
    v_max: float = 10.0
    """Greatest return of the distribution's support."""
    loss: Literal["huber", "mse"] = "huber"
    """Error of the temporal difference; huber is the papers' clipped error."""

    target_update_every: int = 2_000
    """Updates between copies into the target network."""

    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or the papers' centred RMSProp."""
    learning_rate: float = 2e-4
    """Step size of the optimiser."""
    optimizer_eps: float = 1.5e-4
    """Term added to the optimiser's denominator, under the root in RMSProp."""
    rmsprop_decay: float = 0.95
    """Decay of RMSProp's running averages."""
    max_grad_norm: float = 10.0
    """Clip the gradient to this norm; 0 leaves it."""

    epsilon_start: float = 1.0
    """Share of random actions at the first step."""
    epsilon_final: float = 0.01
    """Share of random actions after `epsilon_steps`."""
    epsilon_steps: int = 250_000
    """Agent steps over which epsilon falls."""


def check(config: DQNConfig) -> None:
    """Raise ValueError, in one line, for a value out of its range."""
    learner.check(config)
    at_least(config, 1, "target_update_every")
    above_zero(config, "learning_rate", "optimizer_eps")
    shares(config, "epsilon_start", "epsilon_final", "rmsprop_decay")
    at_least(config, 0, "max_grad_norm", "epsilon_steps")
    for name in ("v_min", "v_max"):
        if not isfinite(getattr(config, name)):
            raise ValueError(f"{name} is {getattr(config, name)}; it must be finite")
    if config.distributional and not config.v_min < config.v_max:
        raise ValueError(f"v_min is {config.v_min}; it must be below v_max, {config.v_max}")
    if config.distributional and config.atoms < 2:
        raise ValueError(f"atoms is {config.atoms}; it must be at least 2")
