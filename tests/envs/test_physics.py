"""Simulations go on exactly where their state was taken, in another process's environment, too."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from envs import dmc
from envs.config import EnvConfig
from envs.make import make

pytest.importorskip("mujoco")
needs_dmc = pytest.mark.skipif(not dmc.installed(), reason="needs dm_control")


def drive(lanes: Any, steps: int, seed: int) -> list[bytes]:
    random, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        lanes.send(random.uniform(-1, 1, (lanes.num_envs, *lanes.actions.space.shape)))
        seen.append(b"".join(np.ascontiguousarray(part).tobytes() for part in lanes.recv()[:4]))
    return seen


def check(config: EnvConfig, before: int, after: int) -> None:
    whole, resumed = make(config, seed=4), make(config, seed=5)
    whole.reset()
    drive(whole, before, seed=1)
    resumed.set_state(json.loads(json.dumps(whole.get_state())))
    assert drive(whole, after, seed=2) == drive(resumed, after, seed=2)
    whole.close()
    resumed.close()


# Ant and Humanoid read positions that a step leaves behind; episodes of some end within the steps
@pytest.mark.parametrize(
    "name",
    ["Ant", "HalfCheetah", "Hopper", "Humanoid", "InvertedDoublePendulum", "Pusher", "Reacher",
     "Swimmer", "Walker2d"],
)  # fmt: skip
def test_gymnasiums_environments(name: str) -> None:
    check(EnvConfig(env=f"{name}-v5", num_envs=2), 33, 60)


# finger, reacher and point_mass alter their models, each episode anew; steps beyond the 1,000th
@needs_dmc
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("cartpole-swingup", 33, 40),
        ("finger-turn_hard", 33, 40),
        ("point_mass-hard", 33, 40),
        ("reacher-easy", 990, 40),
        ("walker-walk", 33, 40),
    ],
)
def test_tasks_of_dm_control(name: str, before: int, after: int) -> None:
    check(EnvConfig(env=f"dmc/{name}", num_envs=1), before, after)


@needs_dmc
def test_pictures_with_held_actions() -> None:
    config = EnvConfig(
        env="dmc/finger-spin", num_envs=1, pixels=True, size=24, action_repeat=2, frame_stack=2
    )
    check(config, 20, 20)


@needs_dmc
def test_a_model_that_no_seed_repeats_has_no_state() -> None:
    lanes = make(EnvConfig(env="dmc/lqr-lqr_2_1", num_envs=1), seed=0)
    lanes.reset()
    assert lanes.get_state() is None
    lanes.close()
