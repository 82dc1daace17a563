"""Continuous control through a camera: trained on a rig, run on its camera, filmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest

from agents import cli
from agents.start import create
from envs.camera import CameraEnv, View
from envs.camera.sim import Sim
from tests.envs.test_camera_actions import message
from tests.sim import playing

LOW, HIGH = np.array([-2, 0.5], np.float32), np.array([2, 4], np.float32)


class Lamps(gymnasium.Env[np.ndarray, np.ndarray]):
    """Two lamps; an action sets their levels, bounds as above."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (32, 40, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(LOW, HIGH)
        self.render_mode, self.steps = render_mode, 0
        self.levels = np.zeros(2)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return self.render(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.levels = (action - LOW) / (HIGH - LOW)
        return self.render(), 0.0, False, False, {}

    def render(self) -> np.ndarray:
        picture = np.zeros((32, 40, 3), np.uint8)
        picture[:16] = self.levels[0] * 250
        picture[16:] = self.levels[1] * 250
        picture[:, :8] = self.steps % 2 * 40  # a sensor's noise
        return picture


class Rig(CameraEnv):
    """Lamps, seen by a camera and set over the network."""

    at = ("", "")

    def __init__(self, render_mode: str | None = None) -> None:
        from tests.agents import test_rig_continuous  # the module that the name imports

        super().__init__(
            *test_rig_continuous.Rig.at, actions=gymnasium.spaces.Box(LOW, HIGH),
            view=View(grey=True, resize=(16, 20)), rate=100, max_steps=8,
            reward=lambda picture, _: float(picture.mean()) / 255, render_mode=render_mode,
        )  # fmt: skip


@pytest.fixture
def sim() -> Iterator[Sim]:
    with playing("tests.agents.test_rig_continuous:Lamps", rate=100) as sim:
        yield sim


def test_ddpg_learns_and_acts_through_a_camera(
    sim: Sim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.agents import test_rig_continuous

    monkeypatch.setattr(test_rig_continuous.Rig, "at", (sim.stream, sim.actions))
    session = create("ddpg", None, {
        "env": "tests.agents.test_rig_continuous:Rig", "steps": 40, "learning_starts": 20,
        "replay_capacity": 100, "eval_episodes": 1, "encoder_width": 0.1, "hidden": 16,
        "batch_size": 8, "random_steps": 10, "precision": "fp32", "out": str(tmp_path),
    })  # fmt: skip
    assert session.config.env.action_repeat == 1  # the preset's 2 would halve the rig's rate
    result = session.run(console=False)
    session.close()
    assert session.updates > 0 and result["lengths"] == [8]
    # steps of training and evaluation, and nothing that the rig's bounds refuse
    assert sim.inbox.counts["taken"] >= 48 and not sim.inbox.counts["action"]

    capfd.readouterr()
    film, run = tmp_path / "film.mp4", ["run", str(session.run_dir), "--camera", sim.stream]
    words = [*run, "--rate", "0", "--max-seconds", "1", "--safe-action"]
    assert cli.main([*words, "zero", "--record", str(film), "--explain"]) == 0
    captured = capfd.readouterr()
    messages = [json.loads(line) for line in captured.out.splitlines()]
    moved = np.array([m["action"] for m in messages])
    assert len(moved) > 5 and (moved >= LOW).all() and (moved <= HIGH).all()
    assert messages[-1]["safe"] and moved[-1].tolist() == [0, 0.5]  # as near to 0 as it goes
    assert "not whole" not in captured.err
    with av.open(str(film)) as written:
        frame = next(written.decode(video=0))
    assert frame.width > 1.5 * frame.height  # the picture, and beside it the action

    # its answers set the lamps as it says
    assert cli.main([*run, "--sink", sim.actions, "--rate", "50", "--max-seconds", "0.5"]) == 0
    assert not sim.inbox.counts["action"]
    assert cli.main([*words, "1.5,0.75"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["action"] == [1.5, 0.75]
    for given, told in (
        ("1", "safe_action is 1; this agent's actions are 2 floats: give as many"),
        ("1.5,0.25", "safe_action[1] is 0.25; this agent's lies in [0.5, 4]"),
        ("1,x", "safe_action is '1,x'; expected hold, zero, an action's number, or floats"),
    ):
        assert cli.main([*words, given]) == 2
        assert capfd.readouterr().err.splitlines()[-1].startswith(f"agents: {told}")


def test_floats_that_a_rig_is_sent_are_what_it_is_told(sim: Sim) -> None:
    sim.inbox.take(json.dumps(message(action=[-2.0, 4.0])).encode())
    assert sim.inbox.newest().tolist() == [[-1, 1]]
