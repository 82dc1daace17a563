"""The flow from environment to replay to learner, against what the frames say of themselves."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.loop import Tick, action_field, evaluate, observation_field, train
from envs.lanes import Lanes
from replay import Batch, PrioritizedReplay
from tests.support import End, TaggedEnv

ENDS: tuple[End, ...] = ((5, "terminated"), (7, "truncated"), (1, "terminated"), (12, "truncated"))
GAMMA = 0.9


class Recorder:
    """An agent that acts at random, keeps every batch, and gives made-up errors."""

    device = torch.device("cpu")
    generator = torch.Generator()
    report = ""
    beta = 1.0
    course = 0
    updates = 0

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.seen: list[Tensor] = []
        self.random = np.random.default_rng(0)

    def anneal(self, step: int, steps: int) -> dict[str, float]:
        return {"share": step / steps}

    def act(
        self,
        observation: Tensor,
        *,
        explore: bool = True,
        epsilon: float = 0.0,
        explorer: np.random.Generator | None = None,
    ) -> np.ndarray:
        self.seen.append(observation.clone())
        return self.random.integers(0, 3, len(observation))

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        self.batches.append(batch)
        return {"loss": torch.zeros(())}, torch.from_numpy(self.random.random(len(batch.reward)))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def lanes(count: int) -> Lanes:
    make = [partial(TaggedEnv, env=i, ends=ENDS[i % 4 :] + ENDS[: i % 4]) for i in range(count)]
    return Lanes(make, seed=0, stack=4)


def run(count: int, capacity: int, n_step: int, steps: int) -> tuple[Recorder, list[Tick]]:
    env = lanes(count)
    agent = Recorder()
    replay = PrioritizedReplay(
        capacity, observation_field(env), action_field(env), lanes=count, n_step=n_step, gamma=GAMMA
    )
    replay.reset(env.reset())
    try:
        ticks = train(
            agent, env, replay, steps=steps, batch_size=16, update_every=4.0, learning_starts=16
        )
        return agent, list(ticks)
    finally:
        env.close()


def check_stack(stack: np.ndarray) -> tuple[int, int, int, int]:
    """The newest frame's tag, once the older ones are what they must be."""
    tags = [TaggedEnv.read(frame[None]) for frame in stack]
    newest = tags[-1]
    for back, tag in enumerate(reversed(tags)):
        expected = newest.step - min(back, newest.step)
        assert (tag.env, tag.episode, tag.step) == (newest.env, newest.episode, expected)
    return tuple(newest)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("count", "capacity"), [(1, 40), (2, 10_000), (5, 131), (16, 700)])
def test_every_sample_is_what_the_environment_did(count: int, capacity: int, n_step: int) -> None:
    agent, _ = run(count, capacity, n_step, steps=1_600)
    kinds = set()
    for batch in agent.batches:
        assert isinstance(batch.observation, Tensor) and isinstance(batch.next_observation, Tensor)
        for i in range(len(batch.reward)):
            env, episode, step, _ = check_stack(batch.observation[i].numpy())
            env2, episode2, step2, action = check_stack(batch.next_observation[i].numpy())
            length, end = ENDS[(env + episode) % 4]
            taken = min(n_step, length - step)
            assert taken >= 1, "a transition out of a final frame"
            assert (env2, episode2, step2) == (env, episode, step + taken)
            if taken == 1:
                assert action == batch.action[i]
            reward = sum(GAMMA**k * (episode + (step + 1 + k) / 1000) for k in range(taken))
            assert batch.reward[i].item() == pytest.approx(reward, rel=1e-5)
            over = step + taken == length and end == "terminated"
            assert batch.discount[i].item() == pytest.approx(0.0 if over else GAMMA**taken)
            kinds.add((end, step + taken == length))
    assert len(kinds) == 4  # both ends, and the middles of both kinds of episode, were sampled


def test_the_acting_observation_is_the_newest_stack_of_each_lane() -> None:
    agent, ticks = run(3, 500, 2, steps=240)
    for seen in agent.seen:
        assert [check_stack(stack.numpy())[0] for stack in seen] == [0, 1, 2]
    lengths = [(e.lane, e.length) for tick in ticks for e in tick.episodes]
    assert [length for lane, length in lengths if lane == 0][:5] == [5, 7, 1, 12, 5]


def test_updates_keep_the_ratio_and_wait_for_the_start() -> None:
    agent, ticks = run(2, 500, 1, steps=400)
    first = next(i for i, tick in enumerate(ticks) if tick.updates)
    # 2 steps a tick, one update every 4: an update every second tick once 16 frames are held
    assert ticks[-1].updates == 1 + (len(ticks) - 1 - first) // 2
    assert 16 <= ticks[first].step + 2 <= 24
    assert len(agent.batches) == ticks[-1].updates


def test_same_seed_same_samples() -> None:
    first, second = (run(4, 200, 3, steps=600)[0] for _ in range(2))
    assert len(first.batches) == len(second.batches) > 50
    for a, b in zip(first.batches, second.batches, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.reward, b.reward)


@pytest.mark.parametrize(("episodes", "count"), [(7, 3), (3, 3), (8, 2)])
def test_evaluation_takes_as_many_episodes_from_each_lane(episodes: int, count: int) -> None:
    env = lanes(count)
    try:
        played = list(chain.from_iterable(evaluate(Recorder(), env, episodes)))
    finally:
        env.close()
    assert len(played) == episodes
    share = [sum(e.lane == lane for e in played) for lane in range(count)]
    assert max(share) - min(share) <= 1
    for lane in range(count):
        expected = [ENDS[(lane + k) % 4][0] for k in range(share[lane])]
        assert [e.length for e in played if e.lane == lane] == expected
