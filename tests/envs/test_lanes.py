"""Gymnasium environments as lanes: frames, episodes, seeds, faults, states."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.config import EnvConfig
from envs.lanes import Lanes
from envs.make import make
from envs.vector import EnvFault, Episode, lane_seeds
from tests.support import Tag, TaggedEnv


def tagged(count: int = 2, **options: Any) -> Lanes:
    return Lanes([partial(TaggedEnv, env=i, **options) for i in range(count)], seed=3)


def tags(frame: np.ndarray) -> list[Tag]:
    return [TaggedEnv.read(image) for image in frame]


def test_every_frame_in_its_place() -> None:
    """Two lanes of unlike episodes, against what a loop over the environments would give."""
    ends = {0: ((3, "terminated"), (2, "truncated")), 1: ((4, "truncated"),)}
    lanes = Lanes([partial(TaggedEnv, env=i, ends=ends[i]) for i in ends], seed=3)  # type: ignore[arg-type]
    assert tags(lanes.reset()) == [Tag(0, 0, 0, -1), Tag(1, 0, 0, -1)]
    place = [[0, 0], [0, 0]]  # episode, step
    over = [False, False]
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = rng.integers(0, 3, 2)
        lanes.send(action)
        step = lanes.recv()
        assert step.reward.dtype == np.float32 and step.reward.shape == (2,)
        ended = []
        for i in range(2):
            if over[i]:  # NEXT_STEP: this action was ignored
                place[i] = [place[i][0] + 1, 0]
                expected = Tag(i, place[i][0], 0, -1)
                assert step.reward[i] == 0 and not step.terminated[i] and not step.truncated[i]
                over[i] = False
            else:
                place[i][1] += 1
                expected = Tag(i, place[i][0], place[i][1], int(action[i]))
                length, end = ends[i][place[i][0] % len(ends[i])]
                over[i] = place[i][1] == length
                assert step.reward[i] == np.float32(TaggedEnv.reward(expected))
                assert step.terminated[i] == (over[i] and end == "terminated")
                assert step.truncated[i] == (over[i] and end == "truncated")
                if over[i]:
                    total = sum(
                        TaggedEnv.reward(Tag(i, place[i][0], s + 1, 0)) for s in range(length)
                    )
                    ended.append(Episode(i, total, length))
            # The true final frame is in its own slot.
            np.testing.assert_array_equal(step.frame[i], TaggedEnv.frame(expected))
        assert step.episodes == tuple(ended)
    lanes.close()


@pytest.mark.parametrize(
    ("layout", "channels"), [("HW", 1), ("HWC", 1), ("HWC", 3), ("CHW", 1), ("CHW", 5)]
)
def test_layouts_end_to_end(layout: Any, channels: int) -> None:
    lanes = tagged(1, layout=layout, channels=channels, size=(12, 18))
    assert lanes.frame_space == spaces.Box(0, 255, (channels, 12, 18), np.uint8)
    assert lanes.stack == 4
    frame = lanes.reset()
    np.testing.assert_array_equal(frame[0], TaggedEnv.frame(Tag(0, 0, 0, -1), (12, 18), channels))
    assert frame.flags.c_contiguous
    lanes.close()


def test_frames_stay_valid_until_the_next_recv() -> None:
    lanes = tagged(1)
    first = lanes.reset()
    lanes.send(np.zeros(1, np.int64))
    time.sleep(0.05)  # the worker has stepped by now, into the other buffer
    assert tags(first)[0].step == 0
    second = lanes.recv().frame
    lanes.send(np.zeros(1, np.int64))
    time.sleep(0.05)
    assert tags(second)[0].step == 1
    lanes.close()


def test_actions_that_start_anywhere() -> None:
    lanes = tagged(2, start=-4, actions=3)
    assert lanes.actions.space == spaces.Discrete(3)
    lanes.reset()
    lanes.send(np.array([0, 2]))  # TaggedEnv refuses what is not in its own space
    assert [tag.action for tag in tags(lanes.recv().frame)] == [0, 2]
    lanes.close()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([0, 3]), r"action 3 of lane 1 is outside \[0, 2\]"),
        (np.array([-1, 0]), r"action -1 of lane 0"),
        (np.array([0.0, 1.0]), "actions are float64 of shape"),
        (np.array([0]), r"expected integers of shape \(2,\)"),
    ],
)
def test_bad_actions_are_refused_before_they_are_sent(action: np.ndarray, message: str) -> None:
    lanes = tagged(2)
    lanes.reset()
    with pytest.raises(ValueError, match=message):
        lanes.send(action)
    lanes.send(np.zeros(2, np.int64))  # nothing was under way
    lanes.recv()
    lanes.close()


def test_turns_out_of_order_are_errors_not_deadlocks() -> None:
    lanes = tagged(1)
    action = np.zeros(1, np.int64)
    with pytest.raises(RuntimeError, match="before reset"):
        lanes.send(action)
    lanes.reset()
    with pytest.raises(RuntimeError, match="without send"):
        lanes.recv()
    lanes.send(action)
    for call in (lanes.reset, lanes.get_state, lambda: lanes.send(action), lanes.render):
        with pytest.raises(RuntimeError, match="receive it first"):
            call()
    lanes.recv()
    lanes.close()
    with pytest.raises(RuntimeError, match="closed"):
        lanes.send(action)


def test_close_twice_and_in_mid_step() -> None:
    made: list[TaggedEnv] = []

    def build() -> TaggedEnv:
        made.append(TaggedEnv(env=0))
        return made[-1]

    lanes = Lanes([build, build], seed=0)
    lanes.reset()
    lanes.send(np.zeros(2, np.int64))
    lanes.close()
    lanes.close()
    assert [env.closed for env in made] == [True, True]


class Stuck(TaggedEnv):
    def close(self) -> None:
        raise OSError("the rig\n is stuck")


def test_a_close_that_raises_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lanes = Lanes([partial(Stuck, env=0)], seed=0, name="rig")
    lanes.close()
    assert capsys.readouterr().err == "lane 0 of 'rig', close(): OSError: the rig is stuck\n"


class Slow(TaggedEnv):
    threads: set[int] = set()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(0.15)
        self.threads.add(threading.get_ident())
        return super().step(action)

    def render(self) -> np.ndarray:
        self.threads.add(threading.get_ident())
        return super().render()


def test_send_returns_at_once_and_all_happens_in_one_thread() -> None:
    Slow.threads.clear()
    lanes = Lanes([partial(Slow, env=0, render_mode="rgb_array")], seed=0, render=True)
    lanes.reset()
    start = time.perf_counter()
    lanes.send(np.zeros(1, np.int64))
    sent = time.perf_counter() - start
    time.sleep(0.15)  # the caller's own work
    lanes.recv()
    whole = time.perf_counter() - start
    assert sent < 0.1
    assert whole < 0.28  # one after the other would take 0.3
    picture = lanes.render()
    assert picture.shape == (16, 20, 3) and picture.dtype == np.uint8
    assert TaggedEnv.read(picture.transpose(2, 0, 1)).step == 1
    assert len(Slow.threads) == 1 and threading.get_ident() not in Slow.threads
    lanes.close()


def play(lanes: Any, steps: int, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(steps):
        lanes.send(rng.integers(0, lanes.actions.space.n, lanes.num_envs))
        step = lanes.recv()
        seen.append(
            b"".join(np.ascontiguousarray(part).tobytes() for part in step[:4])
            + repr(step.episodes).encode()
        )
    return seen


def test_seeds() -> None:
    runs = {}
    for key, seed in (("a", 1), ("b", 1), ("c", 2)):
        lanes = make(EnvConfig(env="CartPole-v1", num_envs=3), seed=seed)
        first = lanes.reset().copy()
        assert len({row.tobytes() for row in first}) == 3  # lanes differ
        runs[key] = [first.tobytes(), *play(lanes, 100)]
        again = lanes.reset()
        assert again.tobytes() == runs[key][0]
        lanes.close()
    assert runs["a"] == runs["b"]
    assert runs["a"][0] != runs["c"][0]


def test_lane_seeds_are_distinct_and_do_not_depend_on_their_number() -> None:
    # So many that 31 bits drawn without care collide about nine times.
    many = lane_seeds(5, 200_000)
    assert len(many) == len(set(many)) == 200_000 and min(many) >= 0 and max(many) < 2**31
    assert lane_seeds(5, 7) == many[:7]
    assert lane_seeds(6, 7) != many[:7]


def test_truncation_of_a_time_limit() -> None:
    lanes = make(EnvConfig(env="MountainCar-v0", num_envs=2), seed=1)
    lanes.reset()
    assert lanes.stack == 1 and lanes.frame_space.shape == (2,) and lanes.protocol is None
    for t in range(200):
        lanes.send(np.array([0, 1]))
        step = lanes.recv()
        assert step.truncated.all() == (t == 199) and not step.terminated.any()
    assert step.episodes == (Episode(0, -200.0, 200), Episode(1, -200.0, 200))
    lanes.close()


def endless(**_: Any) -> TaggedEnv:
    return TaggedEnv(ends=((10_000, "terminated"),))


def test_a_limit_truncates_what_never_ends() -> None:
    lanes = Lanes([endless, partial(TaggedEnv, ends=((3, "terminated"),))], seed=3, limit=3)
    lanes.reset()
    ended = []
    for _ in range(9):
        lanes.send(np.zeros(2, np.int64))
        step = lanes.recv()
        ended.append((step.truncated.tolist(), step.terminated.tolist()))
        for episode in step.episodes:
            assert episode.length == 3
    # the step that ends an episode, then one that resets; an end of its own stays what it is
    expected = [([False] * 2, [False] * 2)] * 9
    expected[2] = expected[6] = ([True, False], [False, True])
    assert ended == expected
    lanes.close()


@pytest.mark.parametrize(
    ("given", "evaluation", "limit"), [(0, False, 0), (0, True, 27_000), (50, False, 50)]
)
def test_only_evaluations_have_a_limit_that_nobody_gave(
    given: int, evaluation: bool, limit: int
) -> None:
    config = EnvConfig(env="CartPole-v1", num_envs=1, max_episode_steps=given)
    lanes = make(config, seed=0, evaluation=evaluation)
    assert lanes.episode_limit == limit
    assert lanes.frame_rate == 50  # what CartPole's metadata says
    lanes.close()


def test_atari_takes_its_limit_from_the_protocol() -> None:
    config = EnvConfig(env="Breakout", num_envs=1, max_episode_steps=50)
    with pytest.raises(ValueError, match="max_episode_steps is 50; in Atari the protocol nature"):
        make(config, seed=0)


def test_a_pace_that_says_nothing_is_thirty() -> None:
    lanes = tagged(1)
    assert lanes.frame_rate == 30
    lanes.close()


def test_box_actions_are_scaled_from_the_unit_box() -> None:
    lanes = make(EnvConfig(env="Pendulum-v1", num_envs=2, frame_stack=3), seed=1)
    lanes.reset()
    assert lanes.actions.space == spaces.Box(-1, 1, (1,), np.float32)
    own = [lanes.actions.own(np.float32([a])).tolist() for a in (-1.0, 0.25, 1.0, 7.0)]
    assert own == [[-2.0], [0.5], [2.0], [2.0]]
    assert lanes.stack == 3
    lanes.send(np.array([[0.5], [-2.0]]))
    assert np.isfinite(lanes.recv().reward).all()
    with pytest.raises(ValueError, match="lane 1 holds a value that is not finite"):
        lanes.send(np.array([[0.5], [np.nan]]))
    with pytest.raises(ValueError, match=r"expected floats of shape \(2, 1\)"):
        lanes.send(np.array([0.5, 0.5]))
    lanes.close()


class Broken(gymnasium.Env[Any, Any]):
    """Steps well twice, then goes wrong as told."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.fault == "reset":
            raise OSError("no camera\nat all")
        if self.fault == "bare reset":
            return np.zeros(2, np.float32)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        good = np.zeros(2, np.float32)
        if self.steps < 3 or not self.fault:
            return good, 1.0, False, False, {}
        if self.fault == "raise":
            return 1 / 0
        return {
            "nan reward": (good, np.nan, False, False, {}),
            "nan": (good * np.nan, 0.0, False, False, {}),
            "outside": (good + 5, 0.0, False, False, {}),
            "shape": (np.zeros(3, np.float32), 0.0, False, False, {}),
            "dtype": (np.zeros(2, complex), 0.0, False, False, {}),
            "info": (good, 0.0, False, False, None),
        }[self.fault]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan reward", "step(action=1): Diverged: reward is nan; expected a finite float32"),
        ("nan", "observation[0] is nan; expected a finite value in [-1, 1]"),
        ("outside", "observation[0] is 5.0; expected a finite value in [-1, 1]"),
        ("shape", "observation has shape (3,); expected (2,)"),
        ("dtype", "observation is complex128; expected float32"),
        ("raise", "step(action=1): ZeroDivisionError: division by zero"),
        ("info", "step(action=1): ValueError: returned NoneType for info; expected a dict"),
    ],
)
def test_faults_name_lane_value_and_bounds(fault: str, message: str) -> None:
    lanes = Lanes([Broken, partial(Broken, fault)], seed=0, name="tests:Broken")
    lanes.reset()
    for _ in range(2):
        lanes.send(np.ones(2, np.int64))
        lanes.recv()
    lanes.send(np.ones(2, np.int64))
    with pytest.raises(EnvFault) as error:
        lanes.recv()
    assert str(error.value).startswith("lane 1 of 'tests:Broken', ")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert error.value.__cause__ is not None
    lanes.close()


def test_a_reset_that_fails_is_a_fault_in_one_line() -> None:
    lanes = Lanes([partial(Broken, "reset")], seed=0)
    with pytest.raises(EnvFault, match=r"lane 0 of '', reset\(\): OSError: no camera at all$"):
        lanes.reset()
    lanes.close()
    lanes = Lanes([partial(Broken, "bare reset")], seed=0)
    with pytest.raises(EnvFault, match=r"reset\(\): .* ndarray; expected \(observation, info\)$"):
        lanes.reset()
    lanes.close()


class Odd(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.MultiDiscrete([3, 2])  # type: ignore[assignment]


def test_box2d_may_leave_the_bounds_that_it_announces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium, "make", lambda *_, **__: gymnasium.Wrapper(Broken("outside")))
    lanes = make(EnvConfig(env="LunarLander", num_envs=1), seed=0)
    lanes.reset()
    play(lanes, 3)
    assert lanes._frames[lanes._turn][""].tolist() == [[5, 5]]
    lanes.close()


def test_refusals_at_make() -> None:
    with pytest.raises(ValueError, match="MultiDiscrete.*TransformAction"):
        Lanes([Odd], seed=0, name="odd")
    with pytest.raises(ValueError, match=r"'plain' draws no pictures"):
        Lanes([Broken], seed=0, render=True, name="plain")
    lanes = tagged(1)
    lanes.reset()
    with pytest.raises(RuntimeError, match="render=True"):
        lanes.render()
    lanes.close()


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "tests.support:TaggedEnv"])
def test_state_goes_on_exactly(name: str) -> None:
    config = EnvConfig(env=name, num_envs=3)
    whole = make(config, seed=4)
    whole.reset()
    # 31 steps leave the lanes in mid-episode, one perhaps at an end; TimeLimit and the random
    # generator show in what follows.
    play(whole, 31, seed=1)
    state = json.loads(json.dumps(whole.get_state()))
    expected = play(whole, 600, seed=2)
    whole.close()

    resumed = make(config, seed=99)
    resumed.set_state(state)
    assert play(resumed, 600, seed=2) == expected
    with pytest.raises(ValueError, match="3 lanes; expected 1"):
        other = make(config, seed=0, num_envs=1)
        other.set_state(state)
    other.close()
    resumed.close()


@pytest.mark.parametrize("name", ["MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"])
def test_state_of_other_classic_control(name: str) -> None:
    def drive(lanes: Any, steps: int) -> bytes:
        seen = b""
        for t in range(steps):
            if isinstance(lanes.actions.space, spaces.Discrete):
                lanes.send(np.array([t // 20 % 3]))
            else:
                lanes.send(np.array([[np.sin(t / 9)]]))
            seen += b"".join(np.ascontiguousarray(part).tobytes() for part in lanes.recv()[:4])
        return seen

    whole, resumed = (make(EnvConfig(env=name, num_envs=1), seed=s) for s in (4, 5))
    whole.reset()
    drive(whole, 30)
    resumed.set_state(json.loads(json.dumps(whole.get_state())))
    assert drive(whole, 250) == drive(resumed, 250)
    whole.close()
    resumed.close()


class Unjson(TaggedEnv):
    def get_state(self) -> dict[str, Any]:
        return {"rng": np.zeros(3)}


def test_no_state_where_there_is_none() -> None:
    lanes = Lanes([Broken], seed=0)
    lanes.reset()
    assert lanes.get_state() is None
    lanes.close()

    # A wrapper may hide state of its own.
    wrapped = Lanes([lambda: gymnasium.wrappers.ClipReward(TaggedEnv(env=0), 0, 1)], seed=0)
    wrapped.reset()
    assert wrapped.get_state() is None
    wrapped.close()

    unjson = Lanes([partial(Unjson, env=0)], seed=0)
    unjson.reset()
    with pytest.raises(TypeError, match="get_state of Unjson does not fit JSON"):
        unjson.get_state()
    unjson.close()


def test_class_without_arguments_and_render_mode_only_where_accepted() -> None:
    lanes = make(EnvConfig(env="tests.support:TaggedEnv", num_envs=2), seed=1, render=True)
    first = tags(lanes.reset())
    assert [tag.env for tag in first] == [seed % 256 for seed in lane_seeds(1, 2)]
    assert lanes.render().shape == (16, 20, 3)
    lanes.close()
    lanes = make(EnvConfig(env="CartPole-v1", num_envs=2), seed=1, num_envs=1)
    assert lanes.num_envs == 1 and lanes.reset().shape == (1, 4)
    lanes.close()
