"""Atari: protocols, life loss, limits, seeds, the picture's twin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs.atari import Atari, _area
from envs.config import EnvConfig
from envs.make import make
from envs.protocol import PROTOCOLS
from envs.vector import EnvFault, Step


def atari(game: str, protocol: str = "nature", num_envs: int = 2, **options: Any) -> Atari:
    changes = {k: options.pop(k) for k in list(options) if hasattr(PROTOCOLS["nature"], k)}
    options = {"seed": 1, "threads": 1, **options}
    chosen = replace(PROTOCOLS[protocol].for_game(game), **changes)
    return Atari(game, chosen, num_envs=num_envs, **options)


def step(env: Atari, *action: int) -> Step:
    env.send(np.array(action))
    return env.recv()


def episode(env: Atari, limit: int = 2000) -> list[Step]:
    """Random steps of a single lane until its true episode ends."""
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(limit):
        steps.append(step(env, int(rng.integers(env.actions.space.n))))  # type: ignore[attr-defined]
        if steps[-1].episodes:
            return steps
    raise AssertionError(f"no episode ended in {limit} steps")


def test_shapes_and_spaces() -> None:
    env = make(EnvConfig(env="ALE/Breakout-v5", num_envs=3, frame_size=42), seed=1)
    frame = env.reset()
    assert frame.shape == (3, 1, 42, 42) and frame.dtype == np.uint8
    assert env.frame_space.shape == (1, 42, 42) and env.stack == 4
    assert env.actions.space.n == 4  # type: ignore[attr-defined]
    assert env.protocol is not None and env.protocol.name == "nature"
    env.send(np.array([0, 1, 2]))
    got = env.recv()
    assert got.reward.dtype == np.float32 and got.reward.shape == (3,)
    assert got.terminated.dtype == got.truncated.dtype == bool
    assert env.get_state() is None
    with pytest.raises(ValueError, match="no state"):
        env.set_state({})
    env.close()


def test_a_lost_life_terminates_for_learning_and_the_game_goes_on() -> None:
    env = atari("breakout", num_envs=1)
    env.reset()
    steps = episode(env)
    ends = [t for t, s in enumerate(steps) if s.terminated[0]]
    assert len(ends) == 5 and ends[-1] == len(steps) - 1  # four lives, then the game
    assert not any(s.truncated[0] for s in steps)
    # One whole game is counted, once, with every step and point.
    assert [s.episodes for s in steps[:-1]] == [()] * (len(steps) - 1)
    (whole,) = steps[-1].episodes
    assert whole.length == len(steps)
    assert whole.score == sum(float(s.reward[0]) for s in steps)  # Breakout's first rows pay 1
    # The next step resets and is no part of an episode.
    after = step(env, 0)
    assert not after.terminated[0] and after.reward[0] == 0
    assert env._scores.length[0] == 0
    env.close()


@pytest.mark.parametrize(
    "options", [{"evaluation": True}, {"protocol": "dqn2013"}, {"protocol": "machado"}]
)
def test_lives_do_not_count_elsewhere(options: dict[str, Any]) -> None:
    env = atari("breakout", num_envs=1, **options)
    env.reset()
    steps = episode(env)
    assert [t for t, s in enumerate(steps) if s.terminated[0]] == [len(steps) - 1]
    env.close()


def test_training_and_evaluation_play_the_same_game() -> None:
    """Same seed, same actions: flags and rewards apart, the same frames."""
    training = atari("breakout", num_envs=1)
    evaluation = atari("breakout", num_envs=1, evaluation=True)
    training.reset()
    evaluation.reset()
    for one, other in zip(episode(training), episode(evaluation), strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
    training.close()
    evaluation.close()


def test_rewards_are_clipped_and_scores_are_not() -> None:
    training = atari("space_invaders", num_envs=1)
    evaluation = atari("space_invaders", num_envs=1, evaluation=True)
    scores = []
    for env in (training, evaluation):
        env.reset()
        steps = episode(env)
        rewards = np.array([s.reward[0] for s in steps])
        scores.append(steps[-1].episodes[0].score)
        assert rewards.max() == (1 if env is training else 30)
        if env is evaluation:
            assert rewards.sum() == scores[-1]
        env.close()
    assert scores[0] == scores[1] > 20


class Script:
    """In place of ALE: plays back (reward, lives, over) of a single lane."""

    def __init__(self, *steps: tuple[int, int, bool]) -> None:
        self.steps = list(steps)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return np.zeros((1, 1, 84, 84), np.uint8), {"lives": np.array([3], np.int32)}

    def send(self, action: np.ndarray) -> None:
        pass

    def recv(self) -> tuple[np.ndarray, ...]:
        reward, lives, over = self.steps.pop(0)
        info: Any = {"lives": np.array([lives], np.int32)}
        frame = np.zeros((1, 1, 84, 84), np.uint8)
        return frame, np.array([reward]), np.array([over]), np.array([False]), info


def test_the_last_life_ends_with_the_game_not_before_it() -> None:
    """As in Qbert: the counter shows 0 for a while before the game is over; a bonus life is no
    loss, and neither is the counter of a new game."""
    script = [
        (0, 4, False),
        (5, 3, False),
        (0, 0, False),
        (2, 0, False),
        (0, 0, True),
        (0, 3, False),
        (0, 2, False),
    ]
    env = atari("pong", num_envs=1)
    env._env = Script(*script)  # type: ignore[assignment]
    env.reset()
    steps = [step(env, 0) for _ in script]
    assert [bool(s.terminated[0]) for s in steps] == [0, 1, 0, 0, 1, 0, 1]
    assert [s.episodes for s in steps if s.episodes] == [((0, 7.0, 5),)]
    assert [float(s.reward[0]) for s in steps] == [0, 1, 0, 1, 0, 0, 0]


def test_what_ale_plays_on_after_a_limit_does_not_count() -> None:
    """ALE knows no limit: its next step may score, win a life, even end the game; and a new game
    with fewer lives than the old one had has lost none."""
    env = atari("pong", num_envs=1, max_frames_per_episode=8)
    script = [(1, 3, False), (1, 5, False), (9, 6, True), (1, 3, False), (1, 3, False)]
    env._env = Script(*script)  # type: ignore[assignment]
    env.reset()
    steps = [step(env, 0) for _ in range(5)]
    assert [bool(s.truncated[0]) for s in steps] == [0, 1, 0, 0, 1]
    assert not any(s.terminated[0] for s in steps)
    assert [float(s.reward[0]) for s in steps] == [1, 1, 0, 1, 1]
    assert [s.episodes for s in steps if s.episodes] == [((0, 2.0, 2),)] * 2


@pytest.mark.parametrize("skip", [4, 3])
def test_a_limit_truncates_on_the_true_final_frame(skip: int) -> None:
    """Against lanes without a limit: the same frames, the last one included, then a reset."""
    options = {"num_envs": 2, "frame_skip": skip, "noop_max": 5}
    cut = atari("pong", max_frames_per_episode=50, **options)
    free = atari("pong", max_frames_per_episode=10**6, **options)
    first = cut.reset().copy()
    np.testing.assert_array_equal(first, free.reset())
    last = -(-50 // skip)  # steps, rounded up
    for t in range(1, last + 1):
        got, expected = step(cut, 2, 3), step(free, 2, 3)
        np.testing.assert_array_equal(got.frame, expected.frame)
        assert not got.terminated.any()
        assert got.truncated.tolist() == [t == last] * 2
    assert [(e.lane, e.length) for e in got.episodes] == [(0, last), (1, last)]
    fresh = step(cut, 2, 3)
    assert not fresh.truncated.any() and not fresh.episodes and (fresh.reward == 0).all()
    assert (fresh.frame != got.frame).any()
    # The second episode is as long, so the reset step did not count.
    for t in range(1, last + 1):
        assert step(cut, 2, 3).truncated.all() == (t == last)
    cut.close()
    free.close()


def test_a_truncated_lane_leaves_the_others_alone() -> None:
    """Up to its own limit, a lane is as it would be without one, whatever the others do."""
    # With this seed two lanes lose a game first, so that the limit falls at other times there.
    options: dict[str, Any] = {"protocol": "machado", "num_envs": 3, "seed": 3}
    limited = atari("breakout", max_frames_per_episode=600, **options)
    free = atari("breakout", max_frames_per_episode=10**6, **options)
    limited.reset()
    free.reset()
    rng = np.random.default_rng(1)
    cut_at: dict[int, int] = {}
    for t in range(280):
        action = rng.integers(0, 18, 3)
        got, expected = step(limited, *action), step(free, *action)
        for lane in range(3):
            if lane not in cut_at:
                np.testing.assert_array_equal(got.frame[lane], expected.frame[lane])
                assert got.reward[lane] == expected.reward[lane]
                assert got.terminated[lane] == expected.terminated[lane]
                if got.truncated[lane]:
                    cut_at[lane] = t
    # Not all at once, or nothing was shown.
    assert len(set(cut_at.values())) == 3, cut_at
    limited.close()
    free.close()


def test_evaluation_has_its_own_limit() -> None:
    env = atari("pong", num_envs=1, evaluation=True, evaluation_max_frames=40)
    env.reset()
    flags = [bool(step(env, 0).truncated[0]) for _ in range(10)]
    assert flags == [False] * 9 + [True]
    env.close()


def run(seed: int, threads: int, steps: int = 60) -> bytes:
    env = atari("breakout", "machado", num_envs=3, seed=seed, threads=threads)
    seen = env.reset().tobytes()
    rng = np.random.default_rng(0)
    for _ in range(steps):
        env.send(rng.integers(0, 18, 3))
        got = env.recv()
        seen += got.frame.tobytes() + got.reward.tobytes() + got.terminated.tobytes()
    env.close()
    return seen


def test_seeds_decide_everything_and_threads_nothing() -> None:
    assert run(1, threads=1) == run(1, threads=2)
    assert run(1, threads=1) != run(2, threads=1)


def test_lanes_differ_and_reset_starts_over() -> None:
    env = atari("seaquest", num_envs=4)
    first = env.reset().copy()
    for _ in range(10):
        env.send(np.zeros(4, np.int64))
        frame = env.recv().frame
    assert len({lane.tobytes() for lane in frame}) > 1  # unlike no-ops
    np.testing.assert_array_equal(env.reset(), first)
    env.close()


def test_fire_reset_fires_at_the_start_and_after_each_lost_life() -> None:
    """In Breakout no ball appears without FIRE: with it, an agent that never fires loses."""
    env = atari("breakout", "sb3", num_envs=1)
    env.reset()
    steps = [step(env, 0) for _ in range(300)]
    assert sum(bool(s.terminated[0]) for s in steps) >= 5
    assert sum(len(s.episodes) for s in steps) >= 1
    env.close()
    idle = atari("breakout", "nature", num_envs=1)
    idle.reset()
    assert not any(step(idle, 0).terminated[0] for _ in range(100))
    idle.close()


def test_picture_is_lane_0() -> None:
    env = atari("breakout", "machado", render=True, max_frames_per_episode=160)
    env.reset()
    rng = np.random.default_rng(2)
    for _ in range(90):  # two truncations on the way; every step is compared within
        env.send(rng.integers(0, 18, 2))
        got = env.recv()
    picture = env.render()
    assert picture.shape == (210, 160, 3) and picture.dtype == np.uint8
    grey = _area(210, 84) @ (picture @ np.array([0.299, 0.587, 0.114])) @ _area(160, 84).T
    assert np.mean(np.abs(grey - got.frame[0, 0]) < 3) > 0.99
    env.close()


def test_a_picture_of_another_game_is_a_fault() -> None:
    env = atari("breakout", num_envs=1, render=True)
    env.reset()
    twin = env._twin
    assert twin is not None
    for _ in range(3):
        step(env, 1)
    twin._env.step(np.array([2]))  # one step ahead of lane 0
    with pytest.raises(EnvFault, match="lane 0: the picture's game has frame_number"):
        step(env, 1)
    with pytest.raises(EnvFault, match="grey levels darker"):
        twin._compare(
            np.full((1, 84, 84), 255, np.uint8),
            twin.picture[None, None],
            *[{k: [0] for k in ("lives", "frame_number", "episode_frame_number")}] * 2,
        )
    env.close()


def test_area_weights_average() -> None:
    weights = _area(5, 2)
    np.testing.assert_allclose(weights, np.array([[2, 2, 1, 0, 0], [0, 0, 1, 2, 2]]) / 5)
    np.testing.assert_allclose(_area(210, 84).sum(1), 1)


def test_order_and_close() -> None:
    env = atari("pong", num_envs=1)
    with pytest.raises(RuntimeError, match="before reset"):
        env.send(np.zeros(1, np.int64))
    env.reset()
    # Out of range would kill ALE's thread and hang recv.
    with pytest.raises(ValueError, match=r"action 6 of lane 0 is outside \[0, 5\]"):
        env.send(np.array([6]))
    with pytest.raises(RuntimeError, match="render=True"):
        env.render()
    env.send(np.zeros(1, np.int64))
    env.close()  # in mid-step
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


def test_protocols() -> None:
    assert set(PROTOCOLS) == {"dqn2013", "nature", "machado", "sb3"}
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.source and protocol.notes
        line = protocol.describe()
        assert "\n" not in line and line.startswith(f"{name}: skip 4") and protocol.source in line
    nature = PROTOCOLS["nature"]
    assert (nature.frame_skip, nature.noop_max, nature.life_loss) == (4, 30, True)
    assert (nature.evaluation_max_frames, nature.evaluation_epsilon) == (18_000, 0.05)
    assert PROTOCOLS["dqn2013"].for_game("space_invaders").frame_skip == 3
    assert PROTOCOLS["dqn2013"].for_game("breakout").frame_skip == 4
    machado = PROTOCOLS["machado"]
    assert (machado.sticky, machado.full_action_space, machado.life_loss) == (0.25, True, False)
    env = make(EnvConfig(env="SpaceInvaders", protocol="dqn2013", num_envs=1), seed=0)
    assert env.protocol is not None and env.protocol.frame_skip == 3
    env.close()
