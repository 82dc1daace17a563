"""The options of learning from a replay, shared by every algorithm that does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs import encoder
from configs.encoder import EncoderConfig
from configs.ranges import at_least, shares


@dataclass(frozen=True)
class LearnerConfig(EncoderConfig):
    """What is replayed, how often, and in which arithmetic; each algorithm has its own defaults."""

    hidden: int = 256
    """Units of the first fully connected layer in each head."""
    init: Literal["torch", "he", "xavier", "orthogonal"] = "torch"
    """Initialiser of convolutions and linear layers; torch is U(±1/sqrt(fan in))."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Arithmetic of the networks; auto is tf32 on a GPU, and bf16 on a CPU that has it."""

    n_step: int = 1
    """Steps of reward before the bootstrap (Sutton 1988)."""
    gamma: float = 0.99
    """Discount per agent step, in [0, 1]."""

    priority_alpha: float = 0.5
    """Exponent of the priorities (Schaul et al. 2016); 0 samples uniformly."""
    priority_beta: float = 0.4
    """Importance correction at the start; it rises to 1 over the run."""
    prioritization: Literal["proportional", "rank"] = "proportional"
    """Priorities by error^alpha or rank^-alpha among errors (Schaul et al. 2016, section 3.3)."""
    priority_weights: Literal["batch", "global"] = "batch"
    """Importance weights are over the greatest of the batch, or of the whole memory."""
    replay_capacity: int = 1_000_000
    """Transitions that the replay holds."""
    learning_starts: int = 10_000
    """Agent steps collected before the first update."""
    update_every: float = 1.0
    """Agent steps per update; may be below 1."""
    batch_size: int = 32
    """Transitions per update."""


def check(config: LearnerConfig) -> None:
    """Raise ValueError, in one line, for a value out of its range."""
    encoder.check(config)
    at_least(config, 1, "hidden", "n_step", "replay_capacity", "batch_size")
    at_least(config, 1e-3, "update_every")
    shares(config, "gamma", "priority_alpha", "priority_beta")
    at_least(config, 0, "learning_starts")
    for name in ("batch_size", "learning_starts"):
        if getattr(config, name) > config.replay_capacity:
            raise ValueError(
                f"{name} is {getattr(config, name)}; it must not exceed replay_capacity, "
                f"{config.replay_capacity}"
            )
