"""A run goes on, and its agent plays, with the options and environment it was trained on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium import spaces

import agents
from agents import checkpoint, config
from agents import start as begin
from agents.errors import CheckpointError
from agents.evaluate import evaluate_run, play


class Shifting(gymnasium.Env[Any, Any]):
    """Episodes of 5 steps in spaces that a test changes between runs."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 5
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.left -= 1
        return self.seen(), 1.0, self.left == 0, False, {}

    def seen(self) -> Any:
        self.observation_space.seed(0)
        return self.observation_space.sample()


def edit(run_dir: Path, **options: Any) -> None:
    """Change options in a run's config.yaml, as a hand would."""
    path = run_dir / "config.yaml"
    values = yaml.safe_load(path.read_text())
    for name, value in options.items():
        (part,) = (part for part in ("run", "env", "agent") if name in values[part])
        values[part][name] = value
    path.write_text(yaml.safe_dump(values))


def forget(run_dir: Path) -> None:
    """Make checkpoints those of a version that kept neither options nor the environment."""
    for step, folder in checkpoint.steps(run_dir).items():
        state = checkpoint.load_tree(folder / "state")
        del state["options"], state["environment"]
        checkpoint.save_tree(folder / "state", state)
        (folder / "manifest.json").unlink()
        checkpoint._write_manifest(folder, step, ("replay",))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return trained(tmp_path)


def trained(out: Path, algorithm: str = "dqn", **options: Any) -> Path:
    options |= {"steps": 60, "learning_starts": 20, "batch_size": 4, "num_envs": 2, "threads": 1}
    options |= {"replay_capacity": 200, "eval_episodes": 1, "out": str(out), "hidden": 8}
    options |= {"env": "tests.agents.test_kept:Shifting", **options}
    with begin.create(algorithm, None, options) as run:
        run.run(console=False)
    return run.run_dir


EDITS = [
    ("learning_rate", 0.5),
    ("optimizer", "rmsprop"),
    ("encoder_learning_rate", 1e-4),
    ("gamma", 0.5),
    ("n_step", 4),
    ("priority_alpha", 0.1),
    ("hidden", 9),
    ("max_episode_steps", 3),
]


@pytest.mark.parametrize(("name", "value"), [*EDITS, ("seed", 7), ("num_envs", 3)])
def test_an_edited_option_is_refused_on_resume(run_dir: Path, name: str, value: Any) -> None:
    was = config.load(run_dir).flat()[name]
    edit(run_dir, **{name: value})
    with pytest.raises(CheckpointError) as caught:
        begin.resume(run_dir, 80)
    assert str(caught.value) == (
        f"{run_dir} was trained with {name} {was!r}, and its config.yaml says {value!r}: "
        "set it back, or start a new run"
    )
    edit(run_dir, **{name: was})
    begin.resume(run_dir, 80).close()


@pytest.mark.parametrize(("name", "value"), EDITS)
def test_and_so_it_is_where_the_agent_plays(run_dir: Path, name: str, value: Any) -> None:
    edit(run_dir, **{name: value})
    for use in (agents.load, evaluate_run):
        with pytest.raises(CheckpointError, match=f"was trained with {name} .*set it back"):
            use(run_dir)


def test_what_a_run_writes_down_may_change(run_dir: Path) -> None:
    edit(run_dir, log_every=7, checkpoint_every=50, eval_every=30, eval_episodes=2, out="x")
    edit(run_dir, explain_every=0, save_replay=False, threads=2, replay_device="cpu")
    with begin.resume(run_dir, 80) as run:
        assert run.config.run.log_every == 7
    edit(run_dir, seed=9, num_envs=1)
    assert evaluate_run(run_dir, 1)["step"] == 60


def test_an_older_checkpoint_goes_on(run_dir: Path) -> None:
    forget(run_dir)
    edit(run_dir, gamma=0.5)
    with begin.resume(run_dir, 80) as run:
        run.run(console=False)
    edit(run_dir, gamma=0.6)  # which is kept from here on
    with pytest.raises(CheckpointError, match=r"gamma 0\.5, and its config\.yaml says 0\.6"):
        begin.resume(run_dir, 90)


def box(low: float, high: float, *shape: int) -> spaces.Box:
    return spaces.Box(low, high, shape, np.float32)


CHANGES: list[tuple[str, spaces.Space[Any], spaces.Space[Any], str]] = [
    (
        "action_space",
        spaces.Discrete(2),
        spaces.Discrete(2, start=1),
        "the action was 2 choices from 0: 0, 1, and is 2 choices from 1: 1, 2 now",
    ),
    (
        "action_space",
        box(-1, 1, 2),
        spaces.Box(np.float32([-1, -1]), np.float32([1, 3])),
        "action[1] was within [-1, 1], and is within [-1, 3] now",
    ),
    (
        "action_space",
        box(-1, 1, 2),
        box(-1, 1, 1, 2),
        "the action was float32 (2,), and is float32 (1, 2) now",
    ),
    (
        "observation_space",
        spaces.Box(0, 255, (44, 44), np.uint8),
        spaces.Box(0, 255, (46, 46), np.uint8),
        "the observation was uint8 (1, 44, 44), stack 4, and is uint8 (1, 46, 46), stack 4 now",
    ),
    (
        "observation_space",
        spaces.Dict(a=box(0, 1, 2), b=spaces.Discrete(3)),
        spaces.Dict(a=box(0, 1, 2), b=spaces.Discrete(3, start=5)),
        "observation['b'] was float32 (3,), stack 1, of Discrete n 3 start 0, and is float32 (3,), "
        "stack 1, of Discrete n 3 start 5 now",
    ),
    (
        "observation_space",
        spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))),
        spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2))),
        "the observation was float32 (5,), stack 1, of Tuple of Discrete n 2 start 0, Discrete n 3 "
        "start 0, and is float32 (5,), stack 1, of Tuple of Discrete n 3",
    ),
    (
        "observation_space",
        spaces.Dict(a=box(0, 1, 2), b=box(0, 1, 2)),
        spaces.Dict(a=box(0, 1, 2), c=box(0, 1, 2)),
        "observation['b'] was float32 (2,), stack 1, and is not there now",
    ),
]


@pytest.mark.parametrize(("space", "was", "now", "told"), CHANGES)
def test_a_changed_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str, was: Any, now: Any, told: str
) -> None:
    monkeypatch.setattr(Shifting, space, was)
    algorithm = "ddpg" if isinstance(Shifting.action_space, spaces.Box) else "dqn"
    run_dir = trained(tmp_path, algorithm)
    monkeypatch.setattr(Shifting, space, now)
    uses: list[Callable[[Path], object]] = [agents.load, agents.resume, evaluate_run, play]
    for use in uses:
        with pytest.raises(CheckpointError, match=re.escape(told)) as caught:
            use(run_dir)
        assert str(caught.value).startswith(f"the environment has changed since {run_dir} was")
    monkeypatch.setattr(Shifting, space, was)
    agents.load(run_dir)
