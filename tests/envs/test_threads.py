"""Lanes in several threads: the same results, each lane in one thread, faster where steps wait."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs.config import EnvConfig
from envs.lanes import Lanes
from envs.make import make
from envs.vector import EnvFault
from tests.support import TaggedEnv

ENDS = [((3, "terminated"),), ((2, "truncated"), (5, "terminated")), ((4, "truncated"),)]


class Slow(TaggedEnv):
    """Waits longer the lower its number, and remembers the threads that it was used in."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads = {threading.get_ident()}

    def reset(self, **options: Any) -> Any:
        self.threads.add(threading.get_ident())
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.threads.add(threading.get_ident())
        time.sleep(0.001 * (7 - (self.number or 0)))
        return super().step(action)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        super().close()


def course(lanes: Any, steps: int) -> list[Any]:
    rng, seen = np.random.default_rng(0), []
    for _ in range(steps):
        if hasattr(lanes.actions.space, "n"):
            lanes.send(rng.integers(0, lanes.actions.space.n, lanes.num_envs))
        else:
            lanes.send(rng.uniform(-1, 1, (lanes.num_envs, *lanes.actions.space.shape)))
        step = lanes.recv()
        seen.append(([np.array(part).tobytes() for part in step[:4]], step[4:]))
    return seen


@pytest.mark.parametrize("threads", [2, 3, 99])
def test_nothing_depends_on_their_number(threads: int) -> None:
    found = []
    for count in (1, threads):
        envs: list[Slow] = []

        def build(lane: int, envs: list[Slow] = envs) -> Slow:
            envs.append(Slow(env=lane, ends=ENDS[lane % 3]))  # type: ignore[arg-type]
            return envs[-1]

        lanes = Lanes([partial(build, lane) for lane in range(7)], seed=3, threads=count)
        first = np.array(lanes.reset())
        before = course(lanes, 10)
        state = json.loads(json.dumps(lanes.get_state()))
        after = course(lanes, 10)
        lanes.set_state(state)
        assert course(lanes, 10) == after
        lanes.close()
        found.append((first.tobytes(), before, state, after))
        used = [env.threads for env in envs]
        assert all(len(own) == 1 for own in used)
        assert len(set.union(*used)) == min(count, 7)
        assert threading.get_ident() not in set.union(*used)
        assert all(env.closed for env in envs)
    assert found[0] == found[1]


class Fails(Slow):
    def step(self, action: Any) -> Any:
        if (self.number or 0) >= 2:
            raise OSError(f"rig {self.number}")
        return super().step(action)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_lanes_fault_is_told(threads: int) -> None:
    lanes = Lanes([partial(Fails, env=i) for i in range(5)], seed=0, threads=threads)
    lanes.reset()
    lanes.send(np.zeros(5, np.int64))
    with pytest.raises(EnvFault, match=r"^lane 2 of '', step\(action=0\): OSError: rig 2$"):
        lanes.recv()
    lanes.close()


class Waits(TaggedEnv):
    def step(self, action: Any) -> Any:
        time.sleep(0.02)
        return super().step(action)


def test_waits_overlap() -> None:
    config = EnvConfig(env=f"{__name__}:Waits", num_envs=6, env_threads=6)
    lanes = make(config, seed=0)
    lanes.reset()
    start = time.perf_counter()
    course(lanes, 3)
    assert time.perf_counter() - start < 0.27  # one after the other takes 0.36 s
    lanes.close()


def test_pictures_that_threads_may_spoil_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EnvConfig(env="CartPole-v1", num_envs=2, env_threads=2)
    with pytest.raises(ValueError, match="env_threads is 2; 'CartPole-v1' draws its pictures itse"):
        make(replace(config, pixels=True), seed=0)
    make(config, seed=0).close()
    module = gymnasium.make("CartPole-v1").unwrapped.__module__  # where CarRacing is not installed
    monkeypatch.setattr(sys.modules["envs.make"], "_DRAWS_IN_STEPS", module)
    with pytest.raises(ValueError, match="draws its pictures itself"):
        make(config, seed=0)


@pytest.mark.parametrize("env", ["HalfCheetah", "dmc/cartpole-swingup"])
@pytest.mark.parametrize("pixels", [False, True])
def test_simulators_and_their_pictures_stay_as_they_are(env: str, pixels: bool) -> None:
    pytest.importorskip("dm_control" if env.startswith("dmc") else "mujoco")
    found = []
    for threads in (1, 2, 3):
        config = EnvConfig(env=env, num_envs=4, pixels=pixels, size=32, env_threads=threads)
        lanes = make(config, seed=5, render=True)
        first = np.array(lanes.reset()).tobytes()
        seen = course(lanes, 25)
        found.append((first, seen, lanes.render().tobytes(), course(lanes, 2)))
        lanes.close()
    assert found[0] == found[1] == found[2]
