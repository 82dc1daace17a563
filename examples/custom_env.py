"""A pixel environment of one's own, from definition to trained agent.

    agents train dqn --env examples.custom_env:Catch --steps 16_000 --num-envs 8 --threads 1 \
        --encoder drq --encoder-width 0.25 --hidden 128 --precision fp32 --no-distributional \
        --n-step 10 --learning-starts 1_000 --epsilon-steps 5_000 --replay-capacity 20_000 \
        --update-every 4 --target-update-every 100 --learning-rate 5e-4

or, in Python, `python examples/custom_env.py`, which plays a game afterwards. A ball takes 11 steps
to fall, so returns of 10 steps bring the news of a catch to where it was decided; pictures this
small need an encoder that keeps their detail, such as drq or impala.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

if TYPE_CHECKING:
    from agents import Player

CELLS, PIXELS = 12, 4
"""The field's width and height in cells, and a cell's in pixels."""


class Catch(gymnasium.Env[np.ndarray, np.int64]):
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
        self.drift = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new episode: the paddle in the middle, the first ball at the top."""
        super().reset(seed=seed)
        self.paddle, self.balls = CELLS // 2, 5
        self._drop()
        return self.render(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
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


OPTIONS: dict[str, Any] = {
    "encoder": "drq", "encoder_width": 0.25, "hidden": 128, "precision": "fp32",
    "distributional": False, "n_step": 10, "learning_rate": 5e-4, "learning_starts": 1_000,
    "epsilon_steps": 5_000, "replay_capacity": 20_000, "update_every": 4,
    "target_update_every": 100, "num_envs": 8, "threads": 1,
}  # fmt: skip
"""The command's, by field name."""


def play(player: Player, seed: int = 0) -> float:
    """One game of a trained agent; its score."""
    env, score, over = Catch(), 0.0, False
    observation, _ = env.reset(seed=seed)
    player.reset()
    while not over:
        observation, reward, over, _, _ = env.step(player.act(observation))
        score += reward
    return score


if __name__ == "__main__":
    from agents import DQN

    trained = DQN.on("examples.custom_env:Catch", **OPTIONS).learn(16_000)
    print("score of a game:", play(trained))
