"""Observations that are no Box: as vectors in lanes, and in a run's training, scores and player."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agents import DQN, load
from agents.evaluate import evaluate_run
from envs.config import EnvConfig
from envs.make import make
from envs.parts import Parts

SPACES: list[tuple[gymnasium.Space[Any], Any, list[float]]] = [
    (spaces.Discrete(3, start=-1), np.int64(1), [0, 0, 1]),
    (spaces.Discrete(3, start=-1), -1, [1, 0, 0]),
    (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
    (spaces.MultiBinary((2, 2)), np.array([[1, 0], [0, 1]], np.int8), [1, 0, 0, 1]),
    (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
    (spaces.MultiDiscrete([2, 3], start=[5, -2]), np.array([5, 0]), [1, 0, 0, 0, 1]),
    (
        spaces.Tuple([spaces.Discrete(2), spaces.Box(-3, 3, (2,)), spaces.MultiBinary(1)]),
        (1, np.array([2.5, -3]), [True]),
        [0, 1, 2.5, -3, 1],
    ),
]


@pytest.mark.parametrize(("space", "value", "frame"), SPACES)
@pytest.mark.parametrize("named", [False, True])
def test_each_becomes_a_vector(
    space: gymnasium.Space[Any], value: Any, frame: list[float], named: bool
) -> None:
    parts = Parts(spaces.Dict({"a": space}) if named else space, "env")
    seen, shown = parts.read({"a": value} if named else value), parts.space
    if named:
        assert isinstance(shown, spaces.Dict) and isinstance(seen, dict)
        seen, shown = seen["a"], shown["a"]
    assert isinstance(seen, np.ndarray) and seen.tolist() == frame
    assert seen.shape == shown.shape and shown.dtype == np.float32
    assert parts.discrete["a" if named else ""].read(value).tolist() == frame
    assert parts.stack(0) == ({"a": 1} if named else 1)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(3, start=-1), 2, r"observation is 2; .* in \[-1, 1\]"),
        (spaces.Discrete(3), 0.0, r"observation is 0.0; expected a whole number in \[0, 2\]"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], r"observation\[1\] is 3; .* in \[0, 2\]"),
        (spaces.MultiDiscrete([2, 3]), [1], r"observation is \[1\]; expected 2 whole numbers"),
        (spaces.MultiBinary(2), [0, 2], r"observation\[1\] is 2; .* in \[0, 1\]"),
        (spaces.Tuple([spaces.Discrete(2)]), 0, "observation is 0; expected a tuple of 1"),
        (spaces.Tuple([spaces.Discrete(2)]), (2,), r"observation\['0'\] is 2"),
    ],
)
def test_what_does_not_fit_is_named(space: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parts(space, "env").read(value)


def test_what_is_too_wide_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^observations of 'env' are Discrete\(10.*most 65,536 is"
    ):
        Parts(spaces.Discrete(10**9), "env")


def test_a_frozen_lake_is_one_hot() -> None:
    lanes = make(EnvConfig(env="FrozenLake-v1", num_envs=2), seed=0)
    try:
        assert lanes.frame_space == spaces.Box(0, 1, (16,), np.float32)
        frame = lanes.reset()
        assert isinstance(frame, np.ndarray) and frame.argmax(1).tolist() == [0, 0]
        assert frame.sum(1).tolist() == [1, 1]
    finally:
        lanes.close()


@pytest.mark.parametrize(
    ("name", "first"), [("CliffWalking-v1", 36), ("Blackjack-v1", (14, 10, 0))]
)
def test_a_run_trains_is_scored_and_acts(tmp_path: Path, name: str, first: Any) -> None:
    player = DQN.on(
        name, num_envs=2, learning_starts=50, eval_episodes=2, checkpoint_every=0,
        max_episode_steps=40, replay_capacity=1_000, hidden=16, out=str(tmp_path),
    ).learn(200)  # fmt: skip
    (folder,) = tmp_path.iterdir()
    assert len(evaluate_run(folder, episodes=3)["scores"]) == 3
    again = load(folder)
    assert player.act(first) == again.act(first)
    assert again.seen.shape == (1, 48 if name.startswith("Cliff") else 45)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"observation(\['0'\])? is 99; expected a whole number"):
        again.act(99 if isinstance(first, int) else (99, 10, 0))
