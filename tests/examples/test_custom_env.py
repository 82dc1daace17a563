"""The example of an environment of one's own, as a whole: its pictures, its command, learning."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np

from agents import DQN
from agents.config import resolve
from agents.options import Parser, add_config, read
from configs.dqn import DQNConfig
from configs.run import RunConfig
from envs.config import EnvConfig
from examples import custom_env
from examples.custom_env import OPTIONS, Catch, play

NAME = "examples.custom_env:Catch"


def by_eye(picture: np.ndarray) -> int:
    """The action of who sees ball and paddle and goes to where the ball is."""
    cells = picture[2::4, 2::4]
    columns = np.flatnonzero((cells[-1] == (80, 160, 240)).all(1))
    _, ball = np.argwhere((cells == (240, 200, 60)).all(2))[0]
    return int(1 + np.sign(int(ball) - int(columns.mean())))


def test_the_pictures_show_all_that_a_full_score_needs() -> None:
    env, scores = Catch(), []
    for seed in range(20):
        (picture, _), score, over = env.reset(seed=seed), 0.0, False
        while not over:
            picture, reward, over, truncated, _ = env.step(by_eye(picture))
            assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8 and not truncated
            score += reward
        scores.append(score)
    assert np.mean(scores) > 4.5 and max(scores) == 5


def test_the_command_is_what_python_runs() -> None:
    text = re.search(r"agents train dqn (.*?)\n\n", custom_env.__doc__ or "", flags=re.DOTALL)
    assert text
    parser = Parser("agents train dqn", "")
    overrides = {}
    shown = resolve("dqn", None, {}, image=True).flat()
    for title, config in (("run", RunConfig), ("environment", EnvConfig), ("agent", DQNConfig)):
        add_config(parser, title, config, shown)
    given = parser.parse(shlex.split(text[1].replace("\\\n", " ")))
    for config in (RunConfig, EnvConfig, DQNConfig):
        overrides |= read(config, given)
    assert overrides == {"env": NAME, "steps": 16_000, **OPTIONS}
    resolve("dqn", None, overrides, image=True)


def test_it_learns_to_catch(tmp_path: Path) -> None:
    env, random = Catch(), np.random.default_rng(0)
    scores = []
    for seed in range(30):
        env.reset(seed=seed)
        score, over = 0.0, False
        while not over:
            _, reward, over, _, _ = env.step(int(random.integers(3)))
            score += reward
        scores.append(score)
    assert np.mean(scores) < -1.5
    options = {
        **OPTIONS, "encoder_width": 0.125, "hidden": 64, "learning_rate": 1e-3, "steps": 6_000,
        "learning_starts": 500, "epsilon_steps": 2_500, "eval_episodes": 1, "out": str(tmp_path),
    }  # fmt: skip
    player = DQN.on(NAME, **options).learn(console=False)
    learned = [play(player, seed) for seed in range(20)]
    assert np.mean(learned) > np.mean(scores) + 2, learned
