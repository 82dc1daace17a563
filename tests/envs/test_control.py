"""Continuous control: scaled actions, MuJoCo and dm_control, their pictures, divergence."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import dmc
from envs.actions import actions
from envs.config import EnvConfig
from envs.lanes import MOST_DROPS, Lanes
from envs.make import make, names, resolve
from envs.simulator import Pixels, Repeat
from envs.vector import EnvFault

pytest.importorskip("mujoco")
needs_dmc = pytest.mark.skipif(not dmc.installed(), reason="needs dm_control")


def steps(env: Any, count: int, seed: int = 0) -> list[Any]:
    """What `count` random steps returned, copied."""
    draw, found = np.random.default_rng(seed), []
    for _ in range(count):
        env.send(draw.uniform(-1, 1, (env.num_envs, *env.actions.space.shape)).astype(np.float32))
        step = env.recv()
        found.append(step._replace(frame=step.frame.copy()))
    return found


def test_actions_are_scaled_to_the_bounds_and_shaped() -> None:
    low, high = np.float32([[-2, 0], [1, -1]]), np.float32([[2, 10], [3, 1]])
    made = actions(spaces.Box(low, high), "env")
    assert made.space == spaces.Box(-1, 1, (4,), np.float32) and made.names == ()
    assert made.own(np.float32([-1, -1, -1, -1])).tolist() == low.tolist()
    assert made.own(np.float32([1, 1, 1, 1])).tolist() == high.tolist()
    assert made.own(np.float32([0, -0.5, 0.5, 9])).tolist() == [[0, 2.5], [2.5, 1]]
    assert made.own(np.zeros(4)).dtype == np.float32


def test_scaled_actions_never_leave_the_space() -> None:
    space = spaces.Box(np.float32([-0.1]), np.float32([0.3]))
    own = actions(space, "env").own
    assert all(space.contains(own(np.float32([a]))) for a in np.linspace(-1.1, 1.1, 101))


def test_the_widest_box_there_is() -> None:
    most = np.finfo(np.float64).max
    made = actions(spaces.Box(-most, most, (2,), np.float64), "env")
    assert made.own(np.float32([0, 1])).tolist() == [0, most]
    assert made.agent(np.array([0, -most])).tolist() == [0, -1]


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, ()), spaces.Box(0, 3, (2,), np.int64)])
def test_other_boxes_name_the_wrapper(space: spaces.Box) -> None:
    with pytest.raises(ValueError, match=r"'env' .*TransformAction, in a function of yours"):
        actions(space, "env")


@pytest.mark.parametrize("high", [np.inf, np.nan])
def test_unbounded_actions_name_the_wrapper(high: float) -> None:
    space = spaces.Box(np.float32([-1, -1]), np.float32([1, 1]))
    space.high[1] = high
    with pytest.raises(ValueError, match=r"action\[1\] of 'env' .*TransformAction") as caught:
        actions(space, "env")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("HalfCheetah", "HalfCheetah-v5"),
        ("halfcheetah", "HalfCheetah-v5"),
        ("HalfCheetah-v5", "HalfCheetah-v5"),
        ("Walker2d", "Walker2d-v5"),
        ("Pendulum", "Pendulum-v1"),
    ],
)
def test_short_names_are_the_newest_version(name: str, id_: str) -> None:
    assert resolve(name) == ("gymnasium", id_)


@needs_dmc
def test_tasks_of_dm_control() -> None:
    for name in ("dmc/ball_in_cup-catch", "DMC/ball_in_cup_catch"):
        assert resolve(name) == ("dmc", "dmc/ball_in_cup-catch")
    with pytest.raises(ValueError, match="unknown environment 'dmc/cartpole-swngup'; the nearest"):
        resolve("dmc/cartpole-swngup")


def test_a_missing_dm_control_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmc, "installed", lambda: False)
    with pytest.raises(
        ImportError, match=r"need dm_control: pip install -c constraints.txt -e '\.\[dmc\]'"
    ):
        resolve("dmc/cartpole-swingup")


def test_where_mujoco_fails_other_names_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ImportError("MuJoCo can't be imported")

    monkeypatch.setattr(dmc, "suite", broken)
    kinds = {name.id: name.kind for name in names()}
    assert kinds["Pendulum-v1"] == "gymnasium" and "dmc" not in kinds.values()


@needs_dmc
def test_hints_know_dm_controls_tasks() -> None:
    with pytest.raises(ValueError, match="'walker_walk'; the nearest: dmc/walker-walk"):
        resolve("walker_walk")
    with pytest.raises(ValueError, match="'dmc/qqq'; expected a task such as"):
        resolve("dmc/qqq")


@needs_dmc
def test_a_value_of_mujoco_gl_that_dm_control_refuses_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from envs.names import resolve; resolve('dmc/cartpole-swingup')"],
        env={**os.environ, "MUJOCO_GL": "EGL"},
        capture_output=True,
        text=True,
    )
    assert "ImportError: dm_control" in done.stderr
    assert "MUJOCO_GL is 'EGL': unset it; " in done.stderr


@needs_dmc
def test_dm_control_steps_as_itself_does() -> None:
    config = EnvConfig(env="dmc/cartpole-swingup", num_envs=1)
    env = make(config, seed=3)
    first = env.reset().copy()
    found = steps(env, 1001)
    seed = env._seeds[0]  # type: ignore[attr-defined]
    env.close()
    inner = dmc.suite().load("cartpole", "swingup", task_kwargs={"random": seed})
    draw, step = np.random.default_rng(0), inner.reset()
    expected = np.concatenate(list(step.observation.values())).astype(np.float32)
    np.testing.assert_allclose(first[0], expected, rtol=1e-6)
    for ours in found[:-1]:
        step = inner.step(draw.uniform(-1, 1, (1, 1)).astype(np.float32)[0])
        expected = np.concatenate(list(step.observation.values()))
        np.testing.assert_allclose(ours.frame[0], expected, rtol=1e-4, atol=1e-5)
        assert ours.reward[0] == pytest.approx(step.reward, abs=1e-6)
    # the time limit of the suite cuts off and doesn't end
    assert found[999].truncated[0] and not any(step.terminated[0] for step in found)
    assert found[999].episodes[0].length == 1000
    assert not found[1000].truncated[0] and found[1000].reward[0] == 0


def test_time_limits_truncate() -> None:
    env = make(EnvConfig(env="HalfCheetah", num_envs=1, action_repeat=250), seed=0)
    env.reset()
    found = steps(env, 4)
    env.close()
    assert [step.truncated[0] for step in found] == [False, False, False, True]
    assert not found[3].terminated[0] and found[3].episodes[0].length == 4


def test_a_held_action_adds_its_rewards() -> None:
    one, held = (
        make(EnvConfig(env="Swimmer", num_envs=1, action_repeat=n), seed=0) for n in (1, 3)
    )
    action = np.float32([[0.5, -1]])
    for env in (one, held):
        env.reset()
    rewards = []
    for _ in range(3):
        one.send(action)
        last = one.recv()
        rewards.append(float(last.reward[0]))
    held.send(action)
    step = held.recv()
    assert step.reward[0] == pytest.approx(sum(rewards), rel=1e-5)
    np.testing.assert_allclose(step.frame, last.frame)
    assert held.frame_rate == pytest.approx(one.frame_rate / 3)
    one.close()
    held.close()


@pytest.mark.parametrize("reward", [None, np.nan])
def test_a_held_action_adds_numbers_alone(reward: Any) -> None:
    class Odd(Fragile):
        def step(self, action: Any) -> Any:
            frame, _, *rest = super().step(action)
            return frame, reward, *rest

    lanes = Lanes([lambda: Repeat(Odd(lambda _: False), 2)], seed=0)
    lanes.reset()
    lanes.send(np.zeros((1, 1), np.float32))
    try:
        told = lanes.recv().dropped[0].reason
    except EnvFault as fault:
        told = str(fault)
    assert f"reward is {reward}; expected" in told
    lanes.close()


def test_pixels_show_the_simulation() -> None:
    env = make(EnvConfig(env="HalfCheetah", num_envs=2, pixels=True, size=48), seed=0)
    first = env.reset().copy()
    assert first.shape == (2, 3, 48, 48) and first.dtype == np.uint8 and env.stack == 4
    assert first.std() > 20
    found = steps(env, 3)
    assert any((step.frame != first).mean() > 0.01 for step in found)
    env.close()


@needs_dmc
def test_qualities_show_the_same_scene() -> None:
    """Fast leaves out shadows and smooth edges, and next to nothing else."""
    pictures = {}
    for quality in ("fast", "full"):
        config = EnvConfig(
            env="dmc/cartpole-swingup",
            num_envs=1,
            pixels=True,
            render_quality=quality,  # type: ignore[arg-type]
        )
        env = make(config, seed=1)
        pictures[quality] = env.reset().astype(int)
        env.close()
    difference = np.abs(pictures["fast"] - pictures["full"])
    assert 0 < difference.mean() < 8


@needs_dmc
def test_pictures_of_every_repeat() -> None:
    base = EnvConfig(env="dmc/pendulum-swingup", num_envs=1, pixels=True, size=32)
    every = EnvConfig(**{**vars(base), "action_repeat": 3, "render_repeats": True})
    single, held = make(base, seed=0), make(every, seed=0)
    first = single.reset().copy()
    assert held.reset().shape == (1, 9, 32, 32)
    np.testing.assert_array_equal(held.reset(), first.repeat(3, 0).reshape(1, 9, 32, 32))
    action, seen = np.float32([[1.0]]), []
    for _ in range(3):
        single.send(action)
        seen.append(single.recv().frame.copy())
    held.send(action)
    np.testing.assert_array_equal(held.recv().frame, np.concatenate(seen, 1))
    single.close()
    held.close()


def test_any_environment_that_draws_can_show_pixels() -> None:
    env = make(EnvConfig(env="Pendulum-v1", num_envs=1, pixels=True, size=40), seed=0)
    assert env.reset().shape == (1, 3, 40, 40)
    env.close()


def test_films_are_drawn_in_full() -> None:
    env = make(EnvConfig(env="Hopper", num_envs=1), seed=0, render=True)
    env.reset()
    picture = env.render()
    env.close()
    assert picture.shape == (480, 480, 3) and picture.std() > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": True, "camera_name": "trak"}, "no camera is called 'trak'; did you mean 'tra"),
        ({"camera_name": "7"}, "no camera is called '7'; here are: 0 tra"),
        ({"camera_name": "-1"}, "no camera is called '-1'; here are: 0 track"),
        ({"env": "Pendulum-v1", "camera_name": "x"}, "camera_name is 'x'; 'Pendulum-v1' is not Mu"),
        ({"env": "Breakout", "pixels": True}, "pixels is set; Atari shows pixels"),
        ({"env": "Breakout", "action_repeat": 2}, "action_repeat is set; Atari"),
        ({"action_repeat": 0}, "action_repeat is 0; it must be at least 1"),
        ({"size": 3}, "size is 3; it must be at least 4"),
    ],
)
def test_bad_options_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(EnvConfig(**{"env": "HalfCheetah", "num_envs": 1, **change}), seed=0)
    assert message in str(caught.value) and "\n" not in str(caught.value)


class Drawn(gymnasium.Env[np.ndarray, np.ndarray]):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))
    render_mode = "rgb_array"
    picture: Any = None

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def render(self) -> Any:
        if self.picture is NotImplementedError:
            raise NotImplementedError
        return self.picture


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (NotImplementedError, "render() is not there, and pixels are what it returns"),
        (None, "render() returned NoneType; expected (H, W, 3) uint8"),
        (np.zeros((3, 4)), "render() returned (3, 4) float64; expected (H, W, 3) uint8"),
    ],
)
def test_what_is_no_picture_is_named(picture: Any, message: str) -> None:
    env = Drawn()
    env.picture = picture
    with pytest.raises(ValueError) as caught:
        Pixels(env, 8, 1).reset()
    assert str(caught.value) == message
    env.picture = np.full((20, 10, 3), 7, np.uint8)
    assert (Pixels(env, 8, 1).reset()[0] == 7).all()


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda asked: None if asked == name else find(asked)
        )

    without("OpenGL")
    with pytest.raises(ValueError, match=r"needs PyOpenGL: pip install -c .* -e '\.\[mujoco\]'"):
        make(EnvConfig(env="Hopper", num_envs=1, pixels=True), seed=0)

    def refuse(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'imageio'", name="imageio")

    monkeypatch.setattr(gymnasium, "make", refuse)
    with pytest.raises(ValueError, match=r"needs imageio: pip install -c .* -e '\.\[mujoco\]'"):
        make(EnvConfig(env="Hopper", num_envs=1), seed=0)

    def lack(*_: Any, **__: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gymnasium, "make", lack)
    with pytest.raises(ValueError, match=r"needs Box2D: pip install -c .* -e '\.\[box2d\]'$"):
        make(EnvConfig(env="LunarLander", num_envs=1), seed=0)


def test_pictures_need_no_screen_though_opengl_is_told_of_one() -> None:
    code = (
        "from envs.config import EnvConfig\nfrom envs.make import make\n"
        "env = make(EnvConfig(env='Hopper', num_envs=1, pixels=True, size=8), seed=0)\n"
        "print(env.reset().shape)\nenv.close()"
    )
    env = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "PYOPENGL_PLATFORM": "glx"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "(1, 3, 8, 8)\n", done.stderr


def test_no_gl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs import render

    real = render.importlib.import_module

    def import_module(name: str) -> Any:
        if name.startswith("mujoco."):
            raise ImportError(f"no library for {name}")
        return real(name)

    monkeypatch.setattr(render, "_forget_gl", lambda: None)
    monkeypatch.setattr(render.importlib, "import_module", import_module)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(ValueError, match=r"egl: .*; osmesa: .*apt-get install libegl1") as caught:
        make(EnvConfig(env="HalfCheetah", num_envs=1, pixels=True), seed=0)
    assert "\n" not in str(caught.value)


class Fragile(gymnasium.Env[Any, Any]):
    """Continuous control that returns NaN in its third step, in the episodes of `bad`."""

    observation_space = spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, bad: Callable[[int], bool]) -> None:
        self.bad, self.episode, self.time = bad, -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.time = self.episode + 1, 0
        return np.float32([self.episode / 10]), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        value = np.nan if self.time == 3 and self.bad(self.episode) else self.time
        return np.float32([value]), 1.0, False, self.time == 4, {}


def test_an_episode_that_diverges_is_dropped() -> None:
    lanes = Lanes([partial(Fragile, lambda e: e == 1), partial(Fragile, lambda e: False)], seed=0)
    lanes.reset()
    found = steps(lanes, 12)
    lanes.close()
    dropped = [(turn, drop.lane) for turn, step in enumerate(found) for drop in step.dropped]
    assert dropped == [(7, 0)]
    step = found[7]
    assert step.frame[0] == np.float32(0.2)  # a new episode's first
    assert step.reward[0] == 0 and not step.terminated[0] and not step.truncated[0]
    assert "observation[0] is nan" in step.dropped[0].reason
    ended = [(turn, e.lane, e.score) for turn, step in enumerate(found) for e in step.episodes]
    assert ended == [(3, 0, 4.0), (3, 1, 4.0), (8, 1, 4.0), (11, 0, 4.0)]


def test_three_that_diverge_in_a_row_stop() -> None:
    lanes = Lanes([partial(Fragile, lambda e: e > 0)], seed=0)
    lanes.reset()
    with pytest.raises(EnvFault, match=f"nan.*so ended {MOST_DROPS} episodes in a row"):
        steps(lanes, 30)
    lanes.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_mujoco_says_that_it_diverged_and_writes_no_file(tmp_path: Path, threads: int) -> None:
    code = f"""
import numpy as np
from envs.config import EnvConfig
from envs.make import make
env = make(EnvConfig(env="HalfCheetah", num_envs=3, env_threads={threads}), seed=0)
env.reset()
for turn in range(3):
    if turn == 1:
        env._envs[1].unwrapped.data.qvel[:] = 1e12
    env.send(np.zeros((3, 6), np.float32))
    step = env.recv()
    print(turn, [(d.lane, d.reason) for d in step.dropped], bool(np.isfinite(step.frame).all()))
env.close()
"""
    repo = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": repo},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "0 [] True" and lines[2] == "2 [] True"
    assert lines[1].startswith("1 [(1, ") and lines[1].count("unstable") == 1
    assert lines[1].endswith("True")
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()
