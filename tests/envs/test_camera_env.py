"""An environment over a camera and a sink: pace, ends of episodes, and what faults do to them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks.stream import Stream, flat
from envs.camera import CameraEnv, View
from envs.camera import env as camera_env
from envs.check import check
from tests.sim import playing


class Rig:
    """A lamp whose brightness an action changes, seen by a function that is its camera."""

    def __init__(self) -> None:
        self.level, self.noise, self.dark = 100, 0, False
        self.moves: list[Any] = []

    def move(self, action: Any) -> None:
        self.moves.append(action)
        self.level = int(np.clip(self.level + 10 * (int(np.sum(action)) - 1), 0, 250))

    def take(self) -> np.ndarray:
        if self.dark:
            raise OSError("dark")
        self.noise ^= 1
        picture = flat(self.level)
        picture[0, 0] = self.noise  # as a sensor's noise, so that a still scene is not frozen
        return picture


VIEW = View(crop=(8, 8, 32, 32), grey=True, resize=(16, 16))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def env(rig: Rig) -> Iterator[CameraEnv]:
    env = make(rig)
    yield env
    env.close()


def make(rig: Rig, **options: Any) -> CameraEnv:
    return CameraEnv(rig.take, rig.move, **{
        "actions": 3, "view": VIEW, "rate": 25, "safe_action": 1,
        "reward": lambda picture, _: float(picture[0, 0]) / 250, "stale": 0.2, "timeout": 1,
        **options,
    })  # fmt: skip


class Lamp(CameraEnv):
    """As a person writes it: a class without arguments of its own."""

    rig = Rig()

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(self.rig.take, self.rig.move, actions=3, view=VIEW, rate=100,
                         reward=lambda *_: 0.0, render_mode=render_mode)  # fmt: skip


def test_it_passes_gymnasiums_checker() -> None:
    env = Lamp("rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.reset()
    assert env.render().shape == (48, 64, 3)
    env.close()


def test_steps_keep_the_rigs_time_and_show_what_actions_do(rig: Rig, env: CameraEnv) -> None:
    observation, info = env.reset(seed=1)
    assert observation.shape == (16, 16) and (observation == 100).all() and info["age"] < 0.2
    began = time.monotonic()
    for turn in range(1, 11):
        observation, reward, terminated, truncated, _ = env.step(2)
        assert abs(int(observation[0, 0]) - (100 + 10 * turn)) <= 10  # a picture's delay at most
        assert reward == pytest.approx(observation[0, 0] / 250)
        assert not terminated and not truncated
    assert time.monotonic() - began == pytest.approx(0.4, abs=0.06)
    assert rig.moves == [1] + [2] * 10


def test_a_late_learner_is_counted_and_not_caught_up_with(env: CameraEnv) -> None:
    env.reset()
    env.step(1)
    time.sleep(0.2)
    began = time.monotonic()
    info = env.step(1)[4]
    assert info["missed"] >= 3 and time.monotonic() - began > 0.03  # one whole period again


def test_ends_of_episodes(rig: Rig) -> None:
    env = make(rig, max_steps=3, terminated=lambda picture, _: picture[0, 0] > 115, rate=100)
    env.reset()
    assert [env.step(1)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    called: list[int] = []
    env._on_reset = lambda: called.append(1)
    env.reset()
    assert called == [1]
    rig.level = 200
    time.sleep(0.1)
    assert env.step(1)[2:4] == (True, False)
    env.close()
    assert rig.moves[-1] == 1


def test_a_feed_in_trouble_truncates_with_the_safe_action(rig: Rig, env: CameraEnv) -> None:
    env.reset()
    env.step(2)
    rig.dark = True
    while True:
        observation, reward, terminated, truncated, info = env.step(2)
        if truncated:
            break
    assert not terminated and reward == 0 and "dark" in info["trouble"]
    assert rig.moves[-1] == 1 and observation.shape == (16, 16)
    with pytest.raises(ConnectionError, match="no picture to begin with in 1 s: .*dark"):
        env.reset()
    rig.dark = False
    time.sleep(0.3)
    env.reset()
    assert not env.step(1)[3]


def test_a_rig_that_is_left_alone_gets_the_safe_action(rig: Rig) -> None:
    env = make(rig, hold=0.2)
    env.reset()
    env.step(2)
    time.sleep(0.6)
    assert rig.moves == [1, 2, 1]  # once
    *_, truncated, info = env.step(2)
    assert truncated and info["trouble"].startswith("no step came for 0.")
    assert rig.moves == [1, 2, 1]  # that step's action was for a picture long past
    env.reset()
    assert not env.step(2)[3] and rig.moves[-1] == 2
    env.close()
    count = len(rig.moves)
    time.sleep(0.4)
    assert len(rig.moves) == count


def test_two_environments_share_a_camera(rig: Rig) -> None:
    with Stream() as stream:
        first, second = make(rig), make(rig)
        for env in (first, second):
            env._camera_name = stream.url
            env.reset()
        assert stream.connections == 1
        first.close()
        second.step(1)
        second.close()
        assert stream.url not in camera_env._open_feeds


def test_a_box_of_actions_goes_out_as_floats(rig: Rig) -> None:
    env = make(rig, actions=gymnasium.spaces.Box(-1, 1, (2,), np.float32), safe_action=None)
    env.reset()
    env.step(np.array([0.5, -1], np.float32))
    assert rig.moves == [[0.0, 0.0], [0.5, -1.0]]
    env.close()


def test_nothing_is_opened_before_the_first_reset() -> None:
    env = CameraEnv("http://127.0.0.1:9/", "tcp://127.0.0.1:9", actions=2, view=VIEW,
                    reward=lambda *_: 0.0)  # fmt: skip
    assert env.observation_space.shape == (16, 16)
    with pytest.raises(ConnectionError, match="no answer from 127.0.0.1:9"):
        env.reset()
    env.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"view": View(grey=True)}, "the view fixes no size; give it resize"),
        ({"rate": 0}, "rate is 0; it must lie in"),
        ({"hold": 0}, "hold is 0; it must be above 0 seconds"),
        ({"max_steps": -1}, "max_steps is -1; it must be 0 or more"),
        ({"safe_action": 3}, "safe_action is 3; it must lie in Discrete"),
    ],
)
def test_a_wrong_argument(rig: Rig, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(rig, **options)


def test_a_camera_may_differ_from_run_to_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from envs import check

    monkeypatch.setattr(check, "STEPS", 20)
    monkeypatch.setattr(check, "make_one", lambda *_, **__: make(rig, rate=500))
    found = list(check.check("tests.envs.test_camera_env:make"))
    assert not [finding for finding in found if finding.kind == "wrong"]
    assert any("can't be repeated" in finding.text for finding in found)
    with pytest.raises(RuntimeError, match="before reset"):
        make(rig).step(0)


def test_the_view_learns_the_cameras_size(env: CameraEnv) -> None:
    assert env.view.source is None
    env.reset()
    assert env.view == View((48, 64), crop=(8, 8, 32, 32), grey=True, resize=(16, 16))


def test_a_rig_obeys_the_environment_that_was_reset_last(rig: Rig) -> None:
    """As a run's evaluation acts while its training environment waits, with its guard."""
    training, evaluation = make(rig, hold=0.2), make(rig)
    # one camera function and one sink function: bound methods of one rig are equal
    training.reset()
    training.step(2)
    evaluation.reset()
    before = len(rig.moves)
    for _ in range(15):  # 0.6 s, three times what the other's guard waits
        assert not evaluation.step(2)[3]
    assert rig.moves[before:] == [2] * 15  # nobody put the safe action between them
    *_, truncated, info = training.step(0)
    assert (
        truncated
        and info["trouble"] == "another environment acted on the rig, as an evaluation does"
    )
    evaluation.close()
    assert rig.moves[before:] == [2] * 15 + [1]
    training.reset()
    assert not training.step(2)[3]
    training.close()
    assert rig.moves[-1] == 1 and not camera_env._rigs


def test_an_evaluation_shorter_than_the_guards_patience_cuts_the_episode_too(rig: Rig) -> None:
    training, evaluation = make(rig, hold=9), make(rig)
    training.reset()
    evaluation.reset()
    evaluation.step(2)
    evaluation.close()
    assert training.step(2)[3] and rig.moves[-1] == 1
    training.close()


def test_only_what_the_agent_did_not_choose_is_marked_safe(rig: Rig) -> None:
    env = make(rig)
    env.reset()
    assert env._sink is not None
    marks: list[tuple[Any, bool]] = []
    send = env._sink.send
    env._sink.send = lambda m: (marks.append((m["action"], m["safe"])), send(m))[1]  # type: ignore[method-assign]
    env.step(1)  # equal to the safe one
    env.step(2)
    env.close()
    assert marks == [(1, False), (2, False), (1, True)]


def test_a_sink_that_refuses_the_token_ends_training_in_one_line(rig: Rig) -> None:
    with playing("tests.support:TaggedEnv", rate=50, token="secret") as sim:
        env = CameraEnv(rig.take, sim.actions, actions=3, view=VIEW, rate=25, timeout=30,
                        reward=lambda *_: 0.0, token="wrong")  # fmt: skip
        with pytest.raises(ConnectionError, match="the sink takes no actions: .* token is missing"):
            env.reset()
            for _ in range(50):
                env.step(1)
        env.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"actions": 2.5}, "actions is 2.5; expected a number of actions or a float Box"),
        ({"rate": "30"}, "rate is '30'; expected a number"),
        ({"view": {}}, "view is {}; expected a View, such as View"),
        ({"reward": None}, "reward is None; expected a function of"),
        ({"on_reset": 3}, "on_reset is 3; expected a function or None"),
    ],
)
def test_an_argument_of_a_wrong_kind(rig: Rig, options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make(rig, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"reward": lambda *_: None}, "the reward function returned None; expected a number"),
        (
            {"terminated": lambda picture, _: picture},
            "the terminated function returned array.*; expected True or False",
        ),
    ],
)
def test_a_function_that_returns_a_wrong_kind(rig: Rig, options: dict[str, Any], text: str) -> None:
    env = make(rig, **options)
    env.reset()
    with pytest.raises(TypeError, match=text):
        env.step(1)
    env.close()


def test_a_check_says_that_the_rig_will_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.check.RIG_STEPS", 30)
    monkeypatch.setattr("envs.check.REPEATED", 5)
    found = list(check("tests.envs.test_camera_env:Lamp"))
    told = [finding.text for finding in found]
    assert "random actions go to the rig now, for about 0 s; Ctrl-C stops" in told
    assert "30 random steps returned what the spaces announce" in told
    assert not any(finding.kind == "wrong" for finding in found)
