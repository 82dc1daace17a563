"""A pixel environment of one's own, from definition to trained agent.

    agents train dqn --env examples.custom_env:Catch --num-envs 8 --steps 60_000 \
        --learning-starts 1_000 --epsilon-steps 8_000 --replay-capacity 50_000 --update-every 2 \
        --target-update-every 200 --learning-rate 1e-3

or, in Python, `python examples/custom_env.py`. Any encoder can look at it: --encoder vgg11_bn.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

CELLS, PIXELS = 12, 4
"""The field's width and height in cells, and a cell's in pixels."""


class Catch(gymnasium.Env[np.ndarray, int]):
    """A ball falls, drifting, and a paddle three cells wide has to be under it.

    Observations are (48, 48, 3) uint8 pictures; actions are left, stay, right. The reward is 1 for
    a ball caught and -1 for one missed; an episode is five balls, so scores lie in [-5, 5].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        shape = (CELLS * PIXELS, CELLS * PIXELS, 3)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new episode: the paddle in the middle, the first ball at the top."""
        super().reset(seed=seed)
        self.paddle, self.balls = CELLS // 2, 5
        self._drop()
        return self.render(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the paddle by -1, 0 or 1 cells, and the ball one cell down."""
        self.paddle = int(np.clip(self.paddle + action - 1, 1, CELLS - 2))
        self.row += 1
        if self.row % 2:
            self.column += self.drift
            if not 0 < self.column < CELLS - 1:
                self.drift = -self.drift
        reward = 0.0
        if self.row == CELLS - 1:
            reward = 1.0 if abs(self.column - self.paddle) <= 1 else -1.0
            self.balls -= 1
            self._drop()
        return self.render(), reward, self.balls == 0, False, {}

    def render(self) -> np.ndarray:
        """The picture, (48, 48, 3) uint8."""
        field = np.zeros((CELLS, CELLS, 3), np.uint8)
        field[-1, self.paddle - 1 : self.paddle + 2] = (80, 160, 240)
        field[self.row, self.column] = (240, 200, 60)
        return field.repeat(PIXELS, 0).repeat(PIXELS, 1)

    def _drop(self) -> None:
        self.row = 0
        self.column = int(self.np_random.integers(CELLS))
        self.drift = int(self.np_random.integers(-1, 2))
        if not 0 < self.column < CELLS - 1:
            self.drift = 1 if self.column == 0 else -1


if __name__ == "__main__":
    from agents.dqn import DQN

    run = DQN.on(
        "examples.custom_env:Catch", num_envs=8, learning_starts=1_000, epsilon_steps=8_000,
        replay_capacity=20_000, update_every=4,
    )  # fmt: skip
    player = run.learn(20_000)
    env = Catch()
    observation, _ = env.reset(seed=0)
    player.reset()
    print("the first action:", player.act(observation))
