"""From a name to a vector environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.config import EnvConfig
from envs.protocol import PROTOCOLS

if TYPE_CHECKING:
    from envs.vector import VectorEnv


def make(
    config: EnvConfig,
    *,
    seed: int,
    num_envs: int | None = None,
    evaluation: bool = False,
    render: bool = False,
) -> VectorEnv:
    from envs.atari import Atari

    return Atari(  # type: ignore[return-value]
        config.env.lower(),
        PROTOCOLS[config.protocol],
        num_envs=num_envs or config.num_envs,
        seed=seed,
        evaluation=evaluation,
        stack=config.frame_stack or 4,
        frame_size=config.frame_size,
        threads=config.env_threads,
        render=render,
    )
