"""Environments that reset in the step that ends an episode: what README says to do with them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from replay import Field, PrioritizedReplay


class Count(gymnasium.Env[np.ndarray, np.int64]):
    """Shows how many steps were made; the reward is what the step led to."""

    def __init__(self, end: int, terminates: bool) -> None:
        self.end, self.terminates, self.t = end, terminates, 0
        self.observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == self.end
        flags = over and self.terminates, over and not self.terminates
        return np.full(1, self.t, np.float32), float(self.t), *flags, {}


@pytest.mark.parametrize("n_step", [1, 3])
def test_true_final_observations_are_learned_from(n_step: int) -> None:
    made = [lambda: Count(5, False), lambda: Count(7, True), lambda: Count(1, False)]
    envs = SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)
    replay = PrioritizedReplay(
        300, Field((1,), "float32"), lanes=3, n_step=n_step, gamma=0.5, alpha=0.0
    )
    first, _ = envs.reset()
    replay.reset(first)
    for _ in range(60):
        action = envs.action_space.sample()
        first, reward, terminated, truncated, info = envs.step(action)
        ended = np.flatnonzero(terminated | truncated)
        frames = first.copy()
        for lane in ended:
            frames[lane] = info["final_obs"][lane]
        replay.add(frames, action, reward, terminated, truncated)
        if ended.size:
            replay.reset(first[ended], lanes=ended)
    batch = replay.sample(500)
    seen, following = batch.observation[:, 0].numpy(), batch.next_observation[:, 0].numpy()  # type: ignore[index]
    lanes = batch.index.numpy() % 3
    assert np.unique(lanes).tolist() == [0, 1, 2]
    end = np.array([5, 7, 1])[lanes]
    expected = np.minimum(seen + n_step, end)
    assert (following == expected).all() and (seen < end).all()
    gains = [
        sum(0.5**k * (start + k + 1) for k in range(int(last - start)))
        for start, last in zip(seen, expected, strict=True)
    ]
    np.testing.assert_allclose(batch.reward.numpy(), gains)
    over = (expected == end) & (lanes == 1)
    np.testing.assert_allclose(batch.discount.numpy(), np.where(over, 0, 0.5 ** (expected - seen)))
