"""The options of an environment, free of heavy imports so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, how many of it, and what the agent sees of it."""

    env: str = "Breakout"
    """Short Atari name in any spelling, a Gymnasium id (its version may be left out),
    dmc/domain-task, or package.module:Class."""
    env_args: str = ""
    """Outside Atari: the environment's own arguments in YAML, such as
    {is_slippery: false, map_name: 8x8}."""
    num_envs: int = 8
    """Environments that are stepped together."""
    protocol: str = "nature"
    """Atari only: dqn2013, nature, machado or sb3; each score is quoted with it."""
    frame_stack: int = 0
    """Frames that make an observation, or each part of one; 0 means 4 for images and 1 for
    vectors."""
    frame_size: int = 84
    """Atari only: height and width of the grey frame, in pixels."""
    max_episode_steps: int = 0
    """Outside Atari: agent steps after which an episode is cut off; 0 leaves that to the
    environment, and evaluations cut after 27,000."""
    pixels: bool = False
    """Outside Atari: show pictures of the environment in place of its own observations."""
    camera_name: str = ""
    """MuJoCo's camera for pictures, by name or number; empty takes track, or the first."""
    size: int = 84
    """With pixels: height and width of the picture."""
    action_repeat: int = 1
    """Outside Atari: environment steps that an action is held for; rewards add up."""
    render_quality: Literal["fast", "full"] = "fast"
    """With pixels, in MuJoCo: fast draws no shadows, no reflections and no smoothed edges."""
    render_repeats: bool = False
    """With pixels: show a picture of every step that an action is held for, not the last alone."""
    env_threads: int = 0
    """Threads that step the environments; 0 takes one a core for Atari, one in all for others. More
    help where a step waits or leaves Python for long, as rigs that sleep and C++ simulators do, and
    spoil what is drawn by pygame."""
