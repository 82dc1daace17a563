"""The DDPG family's options, free of heavy imports so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs import learner
from configs.learner import LearnerConfig
from configs.ranges import above_zero, at_least, shares

LONGEST_HOLD = 10_000
"""Of Dabney et al. 2021."""


@dataclass(frozen=True)
class DDPGConfig(LearnerConfig):
    """Deterministic policy gradients by independent switches; the papers' agents are presets."""

    encoder: str = "flat"
    """Perception encoder, by its registered name (`agents list encoders`); flat has no layers."""
    shared_encoder: bool = True
    """One encoder for critic and actor, which only the critic's loss changes (Yarats et al. 2022);
    off gives the actor one of its own."""
    trunk: int = 0
    """Units, with LayerNorm and tanh, between encoder and layers, in actor and critic each (Yarats
    et al. 2022); 0 leaves them out."""
    hidden_second: int = 0
    """Units of the second fully connected layer; 0 takes as many as hidden."""
    action_layer: Literal[1, 2] = 1
    """The critics' layer that the action enters."""
    layer_norm: bool = False
    """LayerNorm before each hidden layer's ReLU (Ba et al. 2016)."""
    batch_norm: bool = False
    """BatchNorm of the features, of the actor's hidden layers, and of the critic's before the
    action (Lillicrap et al. 2015, section 3)."""
    final_init: float = 3e-3
    """Last layers start uniform within ± this (Lillicrap et al. 2015, section 7); 0 leaves them to
    init."""

    twin: bool = True
    """Two critics, the lesser of which is believed (Fujimoto et al. 2018, section 4)."""
    policy_every: int = 2
    """Updates of the critic to one of actor and targets (Fujimoto et al. 2018, section 5.2)."""
    target_noise: float = 0.2
    """Standard deviation of the noise that smooths the target's action (Fujimoto et al. 2018,
    section 5.3); 0 leaves it as it is."""
    target_noise_clip: float = 0.5
    """Most that the target's action is moved."""
    tau: float = 0.005
    """Share of the networks that moves into the targets at a time."""

    noise: Literal["gaussian", "pink", "ou"] = "gaussian"
    """Exploration: gaussian is independent, pink has equal power in every octave (Eberhard et al.
    2023), ou is an Ornstein-Uhlenbeck process (Lillicrap et al. 2015)."""
    noise_start: float = 0.1
    """Its standard deviation at the first step (an Ornstein-Uhlenbeck process' sigma); actions lie
    in [-1, 1]."""
    noise_final: float = 0.1
    """Its standard deviation after noise_steps."""
    noise_steps: int = 0
    """Agent steps over which the noise falls; 0 has noise_final from the first."""
    ou_theta: float = 0.15
    """Pull of the Ornstein-Uhlenbeck process towards 0, a step."""
    random_steps: int = 10_000
    """Agent steps of uniformly random actions at the start."""
    random_share: float = 0.0
    """Chance, at each step after them, that a uniformly random action begins."""
    random_hold: int = 1
    """Most steps that a random action is kept up; most are for fewer (Dabney et al. 2021)."""
    random_shift: int = 0
    """Pixels that images are moved by, at most, when learned from (Yarats et al. 2021)."""

    priority_alpha: float = 0.0
    batch_size: int = 256

    actor_learning_rate: float = 3e-4
    """Step size of Adam for the actor."""
    critic_learning_rate: float = 3e-4
    """Step size of Adam for the critics, and for their encoder."""
    critic_l2: float = 0.0
    """L2 penalty on all that the critics' optimiser learns, their encoder included."""
    preactivation_l2: float = 0.0
    """L2 penalty on what the actor's tanh is taken of (Fujimoto et al. 2025), which keeps it from
    going where tanh is flat and nothing is learned."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "fp32"


def check(config: DDPGConfig) -> None:
    """Raise ValueError, in one line, for a value out of its range."""
    learner.check(config)
    at_least(config, 1, "policy_every", "random_hold")
    above_zero(config, "actor_learning_rate", "critic_learning_rate", "tau")
    shares(config, "tau", "ou_theta", "random_share")
    at_least(config, 0, "trunk", "hidden_second", "final_init", "target_noise", "target_noise_clip")
    at_least(config, 0, "noise_start", "noise_final", "noise_steps", "random_steps", "random_shift")
    at_least(config, 0, "critic_l2", "preactivation_l2")
    if config.random_hold > LONGEST_HOLD:
        raise ValueError(f"random_hold is {config.random_hold}; it must be at most {LONGEST_HOLD}")
    if config.batch_norm and config.batch_size < 2:
        raise ValueError("batch_size is 1; batch_norm needs at least 2")
    if config.encoder_cache and config.random_shift:
        raise ValueError(
            f"random_shift is {config.random_shift}, and encoder_cache is on: what is kept are "
            "features of images that stand still; set random_shift to 0"
        )
    if config.encoder_cache and not config.shared_encoder:
        raise ValueError("encoder_cache needs shared_encoder: features of one encoder are kept")
    if config.batch_norm and config.layer_norm:
        raise ValueError("batch_norm and layer_norm are both on; take one of them")
