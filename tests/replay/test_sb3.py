"""stable-baselines3's DQN over this replay: what it samples, how it learns, what it refuses."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from tests.support import TaggedEnv

pytest.importorskip("stable_baselines3", minversion="2.7")

from stable_baselines3 import DQN  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.vec_env import (  # noqa: E402
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
)

from replay.sb3 import (  # noqa: E402
    PrioritizedDQN,
    PrioritizedReplayBuffer,
    PrioritizedSamples,
    q_learning_errors,
)

HOUSE = Path(__file__).parents[2]
GAMMA = 0.9
ENDS = (
    ((5, "terminated"), (7, "truncated"), (1, "terminated"), (2, "truncated")),
    ((4, "truncated"), (9, "terminated")),
    ((30, "terminated"), (1, "truncated")),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------- what a batch holds, exactly


@dataclass
class Slot:
    """A frame that an environment gave, and the step that led to it."""

    observation: np.ndarray
    step: int
    action: int = 0
    reward: float = 0.0
    end: str = ""


class Logged(TaggedEnv):
    """A TaggedEnv that writes down all it says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.log: list[Slot] = []

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(**options)
        if self.log and self.log[-1].step == 0:
            self.log.pop()  # an episode without a step
        if self.log and not self.log[-1].end:
            self.log[-1].end = "truncated"
        self.log.append(Slot(observation.copy(), 0))
        return observation, info

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        end = "terminated" if terminated else "truncated" if truncated else ""
        slot = Slot(observation.copy(), self.step_number, int(action), reward, end)
        self.log.append(slot)
        return observation, reward, terminated, truncated, info


class Transition(NamedTuple):
    observation: np.ndarray
    action: int
    next_observation: np.ndarray
    done: float
    reward: float
    discount: float


@dataclass(frozen=True)
class Layout:
    """How frames become observations."""

    env: dict[str, Any]
    wrap: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]
    wrap_all: Callable[[VecEnv], VecEnv]
    frame: Callable[[np.ndarray], np.ndarray]
    stack: int = 1
    axis: int = 0
    zeros: bool = True

    def newest(self, observation: np.ndarray) -> np.ndarray:
        """The newest frame (C, H, W) in a stack."""
        last = np.split(observation, self.stack, self.axis)[-1]
        return last if last.ndim == 3 else last[None]

    def stacked(self, log: list[Slot], at: int) -> np.ndarray:
        """The observation at slot `at`, by the wrappers' definitions."""
        frames = []
        for back in range(self.stack - 1, -1, -1):
            if back <= log[at].step:
                frames.append(self.frame(log[at - back].observation))
            else:
                first = self.frame(log[at - log[at].step].observation)
                frames.append(np.zeros_like(first) if self.zeros else first)
        return np.concatenate(frames, self.axis)


def channels_first(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 0, 1)


LAYOUTS = {
    "one frame": Layout({}, lambda e: e, lambda v: v, channels_first),
    "grey": Layout({}, lambda e: e, lambda v: VecFrameStack(v, 4), channels_first, 4),
    "colour": Layout(
        {"channels": 3}, lambda e: e, lambda v: VecFrameStack(v, 2), channels_first, 2
    ),
    "last axis": Layout(
        {"layout": "HW"}, lambda e: e, lambda v: VecFrameStack(v, 3), lambda f: f, 3, -1
    ),
    "repeated": Layout(
        {"layout": "HW"},
        lambda e: FrameStackObservation(e, 3),
        lambda v: v,
        lambda f: f[None],
        3,
        zeros=False,
    ),  # fmt: skip
}


def expected(log: list[Slot], layout: Layout, rows: int, n: int) -> dict[int, Transition]:
    """Every transition that `rows` newest slots hold, by the slot it starts at."""
    if log[-1].step == 0:
        log = log[:-1]  # the buffer sees it with the next step
    found = {}
    for at, slot in enumerate(log):
        ahead = []
        for later in log[at + 1 : at + 1 + n]:
            ahead.append(later)
            if later.end:
                break
        whole = len(ahead) == n or (ahead and ahead[-1].end)
        oldest = at - min(layout.stack - 1, slot.step)
        if slot.end or not whole or oldest < len(log) - rows:
            continue
        found[at] = Transition(
            layout.stacked(log, at),
            ahead[0].action,
            layout.stacked(log, at + len(ahead)),
            float(ahead[-1].end == "terminated"),
            sum(GAMMA**k * later.reward for k, later in enumerate(ahead)),
            GAMMA ** len(ahead),
        )
    return found


def collect(layout: Layout, envs: int, n: int, **options: Any) -> tuple[DQN, list[Logged]]:
    """SB3's DQN after two `learn`s on TaggedEnvs, of which the second resets in mid-episode."""
    logged = [Logged(env=i, ends=ENDS[i], **{"size": (8, 9), **layout.env}) for i in range(envs)]
    venv = layout.wrap_all(DummyVecEnv([lambda e=e: layout.wrap(e) for e in logged]))
    kwargs = {"alpha": 0, "n_steps": n, "gamma": GAMMA, **options}
    model = DQN(
        "MlpPolicy", venv, buffer_size=30 * envs, learning_starts=10**6, gamma=GAMMA, seed=1,
        replay_buffer_class=PrioritizedReplayBuffer, device="cpu",
        replay_buffer_kwargs={
            "frame_stack": layout.stack, "stack_axis": layout.axis, **kwargs
        },
    )  # fmt: skip
    model.learn(48 * envs)
    model.learn(15 * envs)
    return model, logged


def buffer_of(model: DQN) -> PrioritizedReplayBuffer:
    assert isinstance(model.replay_buffer, PrioritizedReplayBuffer)
    return model.replay_buffer


def everything(buffer: PrioritizedReplayBuffer) -> PrioritizedSamples:
    """A batch that holds every transition: strata a quarter of a leaf wide."""
    return buffer.sample_weighted(4 * buffer.replay.sampleable, 0.0)


@pytest.mark.parametrize("n", (1, 3))
@pytest.mark.parametrize("envs", (1, 3))
@pytest.mark.parametrize("name", LAYOUTS)
def test_samples_are_what_the_environments_said(name: str, envs: int, n: int) -> None:
    layout = LAYOUTS[name]
    model, logged = collect(layout, envs, n)
    truth = [expected(env.log, layout, 30, n) for env in logged]
    batch = everything(buffer_of(model))
    seen = set()
    for i in range(len(batch.actions)):
        tag = TaggedEnv.read(layout.newest(batch.observations[i].numpy()))
        log = logged[tag.env].log
        at = next(
            at
            for at, slot in enumerate(log)
            if TaggedEnv.read(layout.newest(layout.stacked(log, at))) == tag
        )
        want = truth[tag.env][at]
        np.testing.assert_array_equal(batch.observations[i], want.observation)
        np.testing.assert_array_equal(batch.next_observations[i], want.next_observation)
        assert batch.actions[i].tolist() == [want.action]
        assert batch.dones[i].tolist() == [want.done]
        assert batch.rewards[i].tolist() == pytest.approx([want.reward])
        assert batch.discounts[i].tolist() == pytest.approx([want.discount * (1 - want.done)])
        seen.add((tag.env, at))
    assert seen == {(env, at) for env, found in enumerate(truth) for at in found}
    assert any(len(env.log) > 30 for env in logged)
    ends = {want.done for found in truth for want in found.values()}
    assert ends == ({0.0, 1.0})


def test_a_timeout_can_count_as_termination() -> None:
    model, logged = collect(LAYOUTS["grey"], 1, 1, handle_timeout_termination=False)
    batch = everything(buffer_of(model))
    over = sum(bool(slot.end) for slot in logged[0].log[-30:])
    rows = {int(row): float(done) for row, done in zip(batch.indices, batch.dones, strict=True)}
    cut_by_learn = 1
    assert sum(rows.values()) == over - cut_by_learn


def test_an_episode_that_ends_where_the_next_begins_loses_no_step() -> None:
    buffer = PrioritizedReplayBuffer(100, spaces.Discrete(5), spaces.Discrete(2), "cpu", alpha=0)
    still = np.array([3])
    for i in range(12):
        over = np.array([i % 3 == 2])
        buffer.add(still, still, np.array([1]), np.array([i]), over, [{}])
    batch = everything(buffer)
    assert {int(reward) for reward in batch.rewards} == set(range(12))
    assert {int(reward) for reward in batch.rewards[batch.dones == 1]} == {2, 5, 8, 11}
    assert batch.observations.shape == (48, 1) and (batch.observations == 3).all()


def test_counters_say_what_is_held() -> None:
    model, logged = collect(LAYOUTS["grey"], 3, 1)
    buffer = buffer_of(model)
    assert (buffer.full, buffer.size(), buffer.buffer_size) == (True, 30, 30)
    buffer.reset()
    assert (buffer.full, buffer.size(), buffer.pos) == (False, 0, 0)


def test_a_frame_is_stored_once() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = PrioritizedReplayBuffer(
        10_000, space, spaces.Discrete(4), "cpu", n_envs=8, frame_stack=4
    )
    assert buffer.replay.bytes_per_transition < 84 * 84 + 40


# ------------------------------------------------------------------------------ VecNormalize


class Walk(gymnasium.Env[np.ndarray, np.int64]):
    """A random walk with vector observations and uneven rewards."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**options)
        self.at = self.np_random.normal(size=3).astype(np.float32)
        return self.at, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at = self.at + self.np_random.normal(size=3).astype(np.float32)
        reward = float(self.at[0]) * (100.0 if self.np_random.random() < 0.1 else 1.0)
        return self.at, reward, bool(abs(self.at[1]) > 4), False, {}


def walk(wrap: Callable[[VecEnv], VecEnv], **options: Any) -> DQN:
    model = DQN(
        "MlpPolicy", wrap(DummyVecEnv([lambda: TimeLimit(Walk(), 9)] * 2)), learning_starts=10**6,
        buffer_size=500, seed=3, replay_buffer_class=PrioritizedReplayBuffer, device="cpu",
        replay_buffer_kwargs={"alpha": 0, **options},
    )  # fmt: skip
    return model.learn(200)


@pytest.mark.parametrize("stack", (1, 3))
def test_normalization_is_as_of_now(stack: int) -> None:
    def wrap(venv: VecEnv) -> VecEnv:
        return VecNormalize(VecFrameStack(venv, stack), clip_obs=1.0, clip_reward=0.5)

    model = walk(wrap, frame_stack=stack)
    buffer, env = buffer_of(model), model.get_vec_normalize_env()
    assert env is not None
    state = buffer.__getstate__()
    raw = buffer.sample(64)
    buffer.__setstate__(state)
    batch = buffer.sample(64, env)
    for name in ("observations", "next_observations"):
        want = env.normalize_obs(getattr(raw, name).numpy())
        np.testing.assert_array_equal(getattr(batch, name), want)
    np.testing.assert_allclose(batch.rewards, env.normalize_reward(raw.rewards.numpy()), rtol=1e-6)
    assert (batch.rewards.abs() == 0.5).any() and (batch.rewards.abs() < 0.5).any()
    torch.testing.assert_close(batch.actions, raw.actions)


def test_n_step_rewards_are_normalized_too() -> None:
    model = walk(lambda v: VecNormalize(v, clip_reward=1e9, gamma=0.5), n_steps=3, gamma=0.5)
    buffer, env = buffer_of(model), model.get_vec_normalize_env()
    assert env is not None
    state = buffer.__getstate__()
    raw = buffer.sample(64)
    buffer.__setstate__(state)
    np.testing.assert_allclose(
        buffer.sample(64, env).rewards, env.normalize_reward(raw.rewards.numpy()), rtol=1e-5
    )
    env.clip_reward = 1e-3
    assert buffer.sample(64, env).rewards.abs().max() == pytest.approx(1.75e-3)


# ---------------------------------------------------------------------------------- learning


class Catch(gymnasium.Env[np.ndarray, np.int64]):
    """A ball falls through a board of 7 rows and 5 columns; 1 for catching it, else -1.

    Osband et al. 2020 (bsuite), appendix A.
    """

    observation_space = spaces.Box(0, 255, (7, 5, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**options)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(5)), 2
        return self._draw(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, 4))
        self.row += 1
        over = self.row == 6
        reward = (1.0 if self.paddle == self.ball else -1.0) if over else 0.0
        return self._draw(), reward, over, False, {}

    def _draw(self) -> np.ndarray:
        board = np.zeros((7, 5, 1), np.uint8)
        board[self.row, self.ball] = board[6, self.paddle] = 255
        return board


def catch(kind: type[DQN] = PrioritizedDQN, seed: int = 0, **options: Any) -> DQN:
    venv = VecFrameStack(DummyVecEnv([Catch] * 2), 2)
    settings = {
        "learning_starts": 200, "buffer_size": 5_000, "learning_rate": 1e-3, "train_freq": 2,
        "target_update_interval": 200, "exploration_fraction": 0.5, "gamma": GAMMA,
        "replay_buffer_class": PrioritizedReplayBuffer, "seed": seed, "device": "cpu",
    }  # fmt: skip
    return kind("MlpPolicy", venv, **{**settings, **options})


def score(model: DQN, episodes: int = 50) -> float:
    """Mean return of greedy play; chance gives about -0.6."""
    venv = VecFrameStack(DummyVecEnv([Catch]), 2)
    venv.seed(99)
    total, observation = 0.0, venv.reset()
    left = episodes
    while left:
        action, _ = model.predict(np.moveaxis(observation, -1, 1), deterministic=True)
        observation, reward, done, _ = venv.step(action)
        total += float(reward[0])
        left -= int(done[0])
    return total / episodes


def test_prioritized_dqn_learns_catch() -> None:
    model = catch(n_steps=3, replay_buffer_kwargs={"frame_stack": 2})
    assert score(model) < 0.3
    model.learn(8_000)
    assert score(model) > 0.9
    assert model.logger.name_to_value["train/beta"] == 1.0


def test_an_update_weighs_the_loss_and_refreshes_the_priorities() -> None:
    model = catch(
        n_steps=3, learning_starts=10**6, max_grad_norm=1e9,
        replay_buffer_kwargs={"frame_stack": 2, "alpha": 0.7, "beta": 0.4, "eps": 0.01},
    )  # fmt: skip
    model.learn(300)
    buffer = buffer_of(model)
    every = everything(buffer)
    buffer.update_priorities(every.indices, 0.1 + every.rewards + torch.rand(every.rewards.shape))
    model._current_progress_remaining = 0.5
    state = buffer.__getstate__()
    batch = buffer.sample_weighted(32, 0.7)
    buffer.__setstate__(state)
    assert batch.weights.min() < 0.9 and batch.weights.max() == 1

    errors, losses = [], []
    with torch.no_grad():
        online = model.q_net(batch.observations)
        target = model.q_net_target(batch.next_observations)
    for i in range(32):
        bootstrap = 0 if batch.dones[i] else GAMMA**3 * float(target[i].max())
        error = float(online[i, batch.actions[i]]) - float(batch.rewards[i]) - bootstrap
        huber = 0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5
        errors.append(error)
        losses.append(float(batch.weights[i]) * huber)
    torch.testing.assert_close(
        q_learning_errors(model.q_net, model.q_net_target, batch).flatten(),
        torch.tensor(errors),
    )
    before = [parameter.clone() for parameter in model.q_net.parameters()]
    model.train(gradient_steps=1, batch_size=32)
    values = model.logger.name_to_value
    assert values["train/beta"] == pytest.approx(0.7)
    assert values["train/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert not all(map(torch.equal, before, model.q_net.parameters()))
    store = buffer.replay.store
    slots = batch.indices.numpy() % (store.rows * store.lanes)
    np.testing.assert_allclose(store.priorities()[slots], np.abs(errors) + 0.01, rtol=1e-4)


def test_gradients_do_not_reach_the_target() -> None:
    model = catch(replay_buffer_kwargs={"frame_stack": 2}, learning_starts=10**6).learn(40)
    batch = buffer_of(model).sample_weighted(8, 1.0)
    q_learning_errors(model.q_net, model.q_net_target, batch).sum().backward()
    assert all(parameter.grad is None for parameter in model.q_net_target.parameters())
    assert any(parameter.grad is not None for parameter in model.q_net.parameters())


@pytest.mark.parametrize("n", (1, 3))
def test_plain_dqn_trains_uniformly(n: int) -> None:
    kwargs = {"frame_stack": 2, "alpha": 0, "n_steps": n, "gamma": GAMMA}
    model = catch(DQN, replay_buffer_kwargs=kwargs).learn(400)
    assert model._n_updates == 50
    assert (buffer_of(model).sample(4).discounts is None) == (n == 1)


def test_plain_dqn_with_priorities_is_refused() -> None:
    model = catch(DQN, replay_buffer_kwargs={"frame_stack": 2})
    with pytest.raises(ValueError, match="alpha is 0.6.*replay.sb3.PrioritizedDQN.*alpha=0"):
        model.learn(400)


def test_same_seed_same_run() -> None:
    def weights() -> torch.Tensor:
        model = catch(seed=5, replay_buffer_kwargs={"frame_stack": 2}).learn(400)
        return torch.nn.utils.parameters_to_vector(model.q_net.parameters())

    assert torch.equal(weights(), weights())


# ------------------------------------------------------------------------------ save and load


def same_batch(left: PrioritizedSamples, right: PrioritizedSamples) -> None:
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_model_and_its_replay_buffer_come_back(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*n_steps")
        model = catch(n_steps=3, replay_buffer_kwargs={"frame_stack": 2}).learn(400)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    again = PrioritizedDQN.load(tmp_path / "model", env=model.get_env(), device="cpu")
    assert buffer_of(again).n_steps == again.n_steps == 3
    again.load_replay_buffer(tmp_path / "memory")
    buffer = buffer_of(again)
    assert buffer.replay.sampleable == buffer_of(model).replay.sampleable
    same_batch(buffer.sample_weighted(32, 0.5), buffer_of(model).sample_weighted(32, 0.5))
    again.learn(100, reset_num_timesteps=False)
    assert again._n_updates > model._n_updates


def test_a_loaded_model_takes_other_steps_and_refuses_another_buffer(tmp_path: Path) -> None:
    model = catch(n_steps=3, replay_buffer_kwargs={"frame_stack": 2}).learn(300)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    env = model.get_env()
    other = PrioritizedDQN.load(tmp_path / "model", env=env, device="cpu", n_steps=5)
    assert buffer_of(other).n_steps == other.n_steps == 5
    kwargs = {"frame_stack": 2, "alpha": 0.3}
    other = PrioritizedDQN.load(tmp_path / "model", env=env, replay_buffer_kwargs=kwargs)
    assert buffer_of(other).n_steps == 3 and buffer_of(other).alpha == 0.3
    short = catch(n_steps=1, replay_buffer_kwargs={"frame_stack": 2})
    short.load_replay_buffer(tmp_path / "memory")
    with pytest.raises(ValueError, match="replay buffer's n_steps is 3, the model's 1"):
        short.learn(300)
    assert catch(replay_buffer_kwargs={"frame_stack": 2, "n_steps": 4}).n_steps == 4
    with pytest.raises(ValueError, match="n_steps is 2, and 4 in replay_buffer_kwargs"):
        catch(n_steps=2, replay_buffer_kwargs={"frame_stack": 2, "n_steps": 4})


def test_a_snapshot_comes_back_with_its_running_episodes_cut(tmp_path: Path) -> None:
    model, _ = collect(LAYOUTS["grey"], 3, 3)
    buffer = buffer_of(model)
    buffer.save(tmp_path / "first")
    buffer.save(tmp_path / "second", previous=tmp_path / "first")
    want = everything(buffer)
    buffer.reset()
    buffer.load(tmp_path / "second")
    same_batch(everything(buffer), want)
    before = buffer.replay.sampleable
    model.learn(3)
    assert buffer.replay.sampleable >= before - 3 * 2


# ---------------------------------------------------------------------------------- bad input


GREY = spaces.Box(0, 255, (4, 6, 6), np.uint8)
MOVES = spaces.Discrete(3)


def fresh(**options: Any) -> PrioritizedReplayBuffer:
    options = {"observation_space": GREY, "action_space": MOVES, "n_envs": 2, **options}
    return PrioritizedReplayBuffer(100, device="cpu", **options)


@pytest.mark.parametrize(
    ("options", "text"),
    (
        ({"optimize_memory_usage": True}, "optimize_memory_usage is for SB3's own buffer; leave"),
        ({"observation_space": spaces.Dict({"a": GREY})}, "observation_space is a Dict"),
        ({"action_space": spaces.Box(-1, 1, (2,))}, r"action_space is Box\(.*DQN's is Discrete"),
        ({"action_space": spaces.MultiDiscrete((2, 2))}, "action_space is MultiDiscrete"),
        ({"frame_stack": 3}, r"frame_stack is 3, by which axis 0 of .* \(4, 6, 6\) can't"),
        ({"frame_stack": 4, "stack_axis": -1}, "frame_stack is 4, by which axis -1"),
        ({"frame_stack": 0}, "frame_stack is 0; it must be a whole number"),
        ({"stack_axis": 1}, "stack_axis is 1; it is 0 or -1"),
        ({"alpha": 2}, r"alpha is 2; it must lie in \[0, 1\]"),
        ({"beta": -1}, r"beta is -1; it must lie in \[0, 1\]"),
        ({"n_steps": 0}, "n_step is 0"),
    ),
)
def test_a_bad_buffer_says_why(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        fresh(**options)
    assert "\n" not in str(caught.value)


def step(**changed: Any) -> dict[str, Any]:
    obs = np.zeros((2, 4, 6, 6), np.uint8)
    obs[:, 3] = 1
    after = np.roll(obs, -1, 1)
    after[:, 3] = 2
    given = {"obs": obs, "next_obs": after, "action": np.zeros((2, 1), np.int64)}
    given |= {"reward": np.zeros(2), "done": np.zeros(2, bool), "infos": [{}, {}]}
    return {**given, **changed}


@pytest.mark.parametrize(
    ("changed", "text"),
    (
        ({"obs": np.zeros((2, 6, 6, 4), np.uint8)}, r"obs has shape \(2, 6, 6, 4\); expected"),
        ({"next_obs": np.zeros((1, 4, 6, 6), np.uint8)}, "next_obs has shape"),
        ({"obs": np.zeros((2, 4, 6, 6), np.float32)}, "obs has dtype float32; expected uint8"),
        ({"action": np.zeros((2, 1), np.float32)}, "action has dtype float32; expected int64"),
        ({"action": np.zeros((2, 2), np.int64)}, r"action has shape \(2, 2\)"),
        ({"reward": np.array([0, np.nan])}, "reward is nan; it must be finite"),
        ({"done": np.zeros(3, bool)}, r"done has shape \(3,\)"),
        ({"done": np.array([0, np.nan])}, r"done is \[0.0, nan\]; each is True or False"),
        ({"action": np.array([[0], [9]])}, "action is 9, and the space Discrete"),
        ({"infos": [{}]}, "infos holds 1 dicts; expected 2"),
    ),
)
def test_a_bad_step_says_why(changed: dict[str, Any], text: str) -> None:
    buffer = fresh(frame_stack=4)
    with pytest.raises(ValueError, match=text) as caught:
        buffer.add(**step(**changed))
    assert "\n" not in str(caught.value) and not buffer.replay.store.written.any()
    buffer.add(**step())
    assert buffer.replay.sampleable == 2


def climb(*levels: int) -> dict[str, Any]:
    """A step between stacks of flat frames, whose levels follow one another."""
    flat = np.array(levels, np.uint8)[:, None, None] * np.ones((6, 6), np.uint8)
    return step(obs=np.stack([flat[:-1]] * 2), next_obs=np.stack([flat[1:]] * 2))


def test_an_episode_must_begin_at_its_beginning() -> None:
    buffer = fresh(frame_stack=4)
    with pytest.raises(ValueError, match="steps were left out"):
        buffer.add(**climb(1, 2, 3, 4, 5))
    buffer.add(**climb(0, 0, 0, 4, 5))
    buffer.add(**climb(0, 0, 4, 5, 6))
    buffer.add(**climb(7, 7, 7, 7, 8))
    assert buffer.replay.sampleable == 6


def test_what_followed_a_snapshot_does_not_continue_it(tmp_path: Path) -> None:
    buffer = fresh(frame_stack=4)
    buffer.add(**climb(0, 0, 0, 1, 2))
    buffer.save(tmp_path)
    buffer.add(**climb(0, 0, 1, 2, 3))
    buffer.load(tmp_path)
    with pytest.raises(ValueError, match="steps were left out"):
        buffer.add(**climb(0, 1, 2, 3, 4))
    buffer.add(**climb(0, 0, 0, 1, 2))
    assert buffer.replay.sampleable == 4


@pytest.mark.parametrize("stack", (2, 4))
def test_a_wrong_frame_stack_is_found_at_the_first_step(stack: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 2, 4, 6, 6), dtype=np.uint8)
    with pytest.raises(ValueError, match=f"environment 0 .* frame_stack {stack} along stack_axis"):
        fresh(frame_stack=stack).add(**step(obs=noise[0], next_obs=noise[1]))
    if stack == 2:
        with pytest.raises(ValueError, match="frame_stack 2"):
            fresh(frame_stack=2).add(**step())


def test_a_step_left_out_is_found_and_a_reset_heals_it() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 13

    model, _ = collect(LAYOUTS["grey"], 3, 1)
    model.learn(300, callback=Stop())
    with pytest.raises(ValueError, match=r"steps were left out, and model.set_env\(env\)"):
        model.learn(30, reset_num_timesteps=False)
    venv = model.get_env()
    assert venv is not None
    model.set_env(venv)
    model.learn(30, reset_num_timesteps=False)


def test_learning_too_early_says_so() -> None:
    model = catch(n_steps=9, learning_starts=0, replay_buffer_kwargs={"frame_stack": 2})
    with pytest.raises(ValueError, match="no transition of 9 steps .* learning_starts to 18"):
        model.learn(100)


def test_prioritized_dqn_wants_its_own_buffer_and_gamma() -> None:
    from stable_baselines3.common.buffers import ReplayBuffer

    with pytest.raises(TypeError, match="is a ReplayBuffer; PrioritizedDQN needs Prioritized"):
        catch(replay_buffer_class=ReplayBuffer)
    with pytest.raises(ValueError, match="gamma is 0.5, the model's 0.9"):
        catch(replay_buffer_kwargs={"gamma": 0.5})


def test_without_stable_baselines3_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None; import replay.sb3"
    found = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True)
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: replay.sb3 needs stable-baselines3; pip install")
    assert "During handling" not in found.stderr
