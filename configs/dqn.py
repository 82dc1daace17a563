"""The DQN family's options, free of heavy imports so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from configs import encoder
from configs.encoder import EncoderConfig


@dataclass(frozen=True)
class DQNConfig(EncoderConfig):
    """Deep Q-learning by independent switches; the papers' agents are presets over it."""

    hidden: int = 512
    """Units of the fully connected layer in each head."""
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
    n_step: int = 3
    """Steps of reward before the bootstrap (Sutton 1988)."""
    gamma: float = 0.99
    """Discount per agent step, in [0, 1]."""
    loss: Literal["huber", "mse"] = "huber"
    """Error of the temporal difference; huber is the papers' clipped error."""

    priority_alpha: float = 0.5
    """Exponent of the priorities (Schaul et al. 2016); 0 samples uniformly."""
    priority_beta: float = 0.4
    """Importance correction at the start; it rises to 1 over the run."""
    replay_capacity: int = 1_000_000
    """Transitions that the replay holds."""
    learning_starts: int = 20_000
    """Agent steps collected before the first update."""
    update_every: float = 4.0
    """Agent steps per update; may be below 1."""
    batch_size: int = 32
    """Transitions per update."""
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
    init: Literal["torch", "he", "xavier", "orthogonal"] = "torch"
    """Initialiser of convolutions and linear layers."""

    epsilon_start: float = 1.0
    """Share of random actions at the first step."""
    epsilon_final: float = 0.01
    """Share of random actions after `epsilon_steps`."""
    epsilon_steps: int = 250_000
    """Agent steps over which epsilon falls."""

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Arithmetic of the networks; auto takes bf16 where the processor has it, tf32 is for GPUs."""


def check(config: DQNConfig) -> None:
    """Raise ValueError, in one line, for a value out of its range."""
    encoder.check(config)
    positive = ("hidden", "n_step", "replay_capacity", "batch_size", "target_update_every")
    for name in positive:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")
    for name in ("update_every", "learning_rate", "optimizer_eps"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be above 0")
    unit = (
        "gamma",
        "epsilon_start",
        "epsilon_final",
        "priority_alpha",
        "priority_beta",
        "rmsprop_decay",
    )
    for name in unit:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must lie in [0, 1]")
    for name in ("max_grad_norm", "learning_starts", "epsilon_steps"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be 0 or more")
    if config.update_every < 1e-3:
        raise ValueError(f"update_every is {config.update_every}; it must be at least 0.001")
    for name in ("batch_size", "learning_starts"):
        if getattr(config, name) > config.replay_capacity:
            raise ValueError(
                f"{name} is {getattr(config, name)}; it must not exceed replay_capacity, "
                f"{config.replay_capacity}"
            )
    for name in ("v_min", "v_max"):
        if not isfinite(getattr(config, name)):
            raise ValueError(f"{name} is {getattr(config, name)}; it must be finite")
    if config.distributional and not config.v_min < config.v_max:
        raise ValueError(f"v_min is {config.v_min}; it must be below v_max, {config.v_max}")
    if config.distributional and config.atoms < 2:
        raise ValueError(f"atoms is {config.atoms}; it must be at least 2")
