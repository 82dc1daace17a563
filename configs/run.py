"""The options of a run that no algorithm owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.ranges import at_least

MOST_STEPS = 10**12


@dataclass(frozen=True)
class RunConfig:
    """How long to train, where, and what to write down."""

    steps: int = 2_000_000
    """Agent steps of the run, over all environments (an Atari step is 4 frames)."""
    seed: int = 1
    """Seed of networks, exploration, replay and environments."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks live; auto takes a CUDA GPU where there is one."""
    replay_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the replay memory lives; auto takes the networks' device where it fits."""
    threads: int = 0
    """Threads of the networks' arithmetic; 0 takes OMP_NUM_THREADS, or every core it may use."""
    compile: bool = False
    """Have torch compile networks and losses into fewer kernels, which takes a minute and needs a
    C++ compiler. It is meant for GPUs: on a CPU it learns more slowly."""
    graphs: bool = True
    """On a CUDA GPU, capture acting and learning as graphs; an encoder of your own that waits for
    the GPU, or branches on what is there, can't be."""
    out: str = "runs"
    """Folder in which the run's own folder is made."""
    checkpoint_every: int = 200_000
    """Agent steps between checkpoints; 0 saves only at the end and on Ctrl-C."""
    save_replay: bool = True
    """Keep the replay memory in checkpoints, so that a resumed run goes on as it was."""
    eval_every: int = 0
    """Agent steps between evaluations during training, the best of whose agents is kept; 0
    evaluates only at the end."""
    eval_episodes: int = 30
    """Episodes of an evaluation; 0 evaluates never, as where the environment can be there once."""
    explain_every: int = 0
    """Agent steps between stills of what the agent looks at, in TensorBoard; 0 makes none."""
    log_every: int = 2_000
    """Agent steps between lines of metrics."""


def check(config: RunConfig) -> None:
    """Raise ValueError, in one line, for a value out of its range."""
    at_least(config, 1, "steps", "log_every")
    at_least(config, 0, "seed", "threads", "checkpoint_every", "explain_every")
    at_least(config, 0, "eval_every", "eval_episodes")
    if config.eval_every and not config.eval_episodes:
        raise ValueError(
            f"eval_every is {config.eval_every}, and eval_episodes 0 evaluates never: give "
            "eval_episodes at least 1, or leave eval_every out"
        )
    if config.steps > MOST_STEPS:
        raise ValueError(f"steps is {config.steps}; it must be at most {MOST_STEPS}")
    if config.seed >= 2**31:
        raise ValueError(f"seed is {config.seed}; it must be below 2^31")
    if config.threads > 1024:
        raise ValueError(f"threads is {config.threads}; it must be at most 1024")
    if not config.out:
        raise ValueError("out is empty; it must name a folder")
