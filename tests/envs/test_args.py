"""Arguments of an environment's own: as text and as a dict, handed on, kept, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import DQN, config, load
from agents.cli import main
from agents.evaluate import evaluate_run
from envs.args import read, written
from envs.check import check
from envs.config import EnvConfig
from envs.dmc import installed
from envs.make import make
from tests.support import TaggedEnv


class Sized(TaggedEnv):
    """Needs an argument, and shows a number."""

    def __init__(self, side: int, *, gain: float = 1.0, render_mode: str | None = None) -> None:
        super().__init__(env=0, size=(side, side), render_mode=render_mode)
        self.gain = gain


def anything(**args: Any) -> TaggedEnv:
    return TaggedEnv(**args)


def made(env: str, env_args: str, **options: Any) -> Any:
    return make(EnvConfig(env=env, env_args=env_args, num_envs=1), seed=0, **options)


def test_what_yaml_gives() -> None:
    text = "{a: 1e-4, b: [1, 2], c: 8x8, d: false, e: {f: 2.5}, g: null}"
    found = {"a": 1e-4, "b": [1, 2], "c": "8x8", "d": False, "e": {"f": 2.5}, "g": None}
    assert read(text) == read(written(found)) == found
    assert read("") == read(" ") == {} and written({}) == ""
    assert read(written({"a": "tä: {x}\n", "b": 1e-07})) == {"a": "tä: {x}\n", "b": 1e-07}
    with pytest.raises(TypeError, match="env_args holds .* for f; expected numbers, text"):
        written({"f": np.float32(1)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"env_args is '\[1\]'; expected a YAML mapping such as \{is_slippery: false\}"),
        ("true", "expected a YAML mapping"),
        ("{a: 1", "expected a YAML mapping .*: expected"),
        ("{a:1}", "'a:1' is no name; a space follows the colon"),
        ("{1: 2}", "and 1 is no name$"),
        ("{a: !!python/object:os.system x}", "could not determine a constructor"),
    ],
)
def test_what_is_no_mapping(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        made("FrozenLake-v1", text)
    assert "\n" not in str(caught.value)


def test_they_reach_each_kind_of_environment() -> None:
    lake = made("FrozenLake-v1", "{is_slippery: false, map_name: 8x8, max_episode_steps: 7}")
    assert lake.frame_space.shape == (64,)
    lake.reset()
    for _ in range(3):  # it doesn't slip
        lake.send(np.array([2]))
        frame = lake.recv().frame
    assert frame.argmax() == 3
    for _ in range(4):
        lake.send(np.array([3]))
        step = lake.recv()
    assert step.truncated[0]
    lake.close()
    for name in ("Sized", "anything"):
        text = "{side: 9}" if name == "Sized" else "{env: 0, size: [9, 9]}"
        lanes = made(f"{__name__}:{name}", text, render=True)
        assert lanes.frame_space.shape == (1, 9, 9)
        lanes.close()


@pytest.mark.skipif(not installed(), reason="needs dm_control")
def test_they_reach_dm_controls_tasks() -> None:
    lanes = made("dmc/cartpole-swingup", "{time_limit: 0.05}")
    lanes.reset()
    ends = []
    for _ in range(6):
        lanes.send(np.zeros((1, 1), np.float32))
        ends.append(bool(lanes.recv().truncated[0]))
    assert ends == [False] * 4 + [True, False]
    lanes.close()
    with pytest.raises(ValueError, match="takes no argument 'time_limits'; did you mean 'time_l"):
        made("dmc/cartpole-swingup", "{time_limits: 2}")
    with pytest.raises(ValueError, match="'dmc/cartpole-swingup' can't be made: TypeError"):
        made("dmc/cartpole-swingup", "{time_limit: soon}")


@pytest.mark.parametrize(
    ("env", "text", "message"),
    [
        ("FrozenLake-v1", "{is_slipery: false}", "no argument 'is_slipery'; did you mean 'is_sli"),
        ("FrozenLake-v1", "{zzz: 1}", "no argument 'zzz'; it takes desc, map_name, is_slippery"),
        ("FrozenLake-v1", "{render_mode: human}", "env_args holds render_mode, which is set"),
        ("FrozenLake-v1", "{map_name: 9x9}", "'FrozenLake-v1' can't be made: KeyError: '9x9'"),
        (f"{__name__}:Sized", "{side: 9, gian: 2}", "no argument 'gian'; did you mean 'gain'"),
        (f"{__name__}:Sized", "{gain: 2}", "asks for side; give --env-args '{side: ...}', or its"),
        (f"{__name__}:anything", "{zzz: 1}", "can't be made: TypeError: .*argument 'zzz'"),
        (
            "Breakout",
            "{mode: 1}",
            "env_args is '{mode: 1}'; Atari's games are set up by --protocol",
        ),
    ],
)
def test_what_it_does_not_take_is_named(env: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        made(env, text)
    assert "\n" not in str(caught.value)


def test_a_check_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    text = "{is_slippery: false, map_name: 8x8}"
    assert "of 64 values" in next(check("FrozenLake-v1", env_args=text)).text
    assert main(["check", "FrozenLake-v1", "--env-args", text]) == 0
    assert "one of 64 values" in capsys.readouterr().out


def test_a_run_keeps_them(tmp_path: Path) -> None:
    args = {"is_slippery": False, "map_name": "8x8"}
    DQN.on(
        "FrozenLake-v1", env_args=args, num_envs=2, learning_starts=50, eval_episodes=2,
        checkpoint_every=0, replay_capacity=1_000, hidden=16, out=str(tmp_path),
    ).learn(100)  # fmt: skip
    (folder,) = tmp_path.iterdir()
    assert read(config.load(folder).env.env_args) == args
    assert len(evaluate_run(folder, episodes=2)["scores"]) == 2
    player = load(folder)
    player.act(63)
    assert player.seen.shape == (1, 64)  # type: ignore[union-attr]
