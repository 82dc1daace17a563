"""A policy as a file: for torch alone, or as ONNX, and equal to the agent that it came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

import vision
from agents import cli
from agents import export as exporting
from agents import start as begin
from agents.export import NOTES, export
from agents.player import load

ENVS = "tests.agents.test_export:"
QUICK: dict[str, Any] = {
    "encoder_width": 0.2, "hidden": 8, "num_envs": 2, "steps": 120, "learning_starts": 64,
    "replay_capacity": 500, "eval_episodes": 1, "threads": 1,
}  # fmt: skip


class Arm(gymnasium.Env[Any, np.ndarray]):
    """Two cameras' pictures and a vector; continuous actions in bounds of their own."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            left=spaces.Box(0, 255, (24, 20, 3), np.uint8), joints=spaces.Box(-1, 1, (4,))
        )
        self.action_space = spaces.Box(np.array([[-3.0], [10]]), np.array([[0.0], [20]]))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observation_space.sample(), 0.0, self.t == 9, False, {}


class Steps(Arm):
    """A picture; discrete actions from 5 on."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.action_space = spaces.Discrete(3, start=5)


class Named(Steps):
    """Parts with an output's names."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict(
            action=spaces.Box(-1, 1, (2,)), values=spaces.Discrete(3)
        )


class Branches(vision.Encoder):
    """Asks the data which way to go, which no program can follow."""

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__(observation_shape, width)
        self.channels, self.strides = (4,), (8,)
        self.layer = nn.Conv2d(observation_shape[0], 4, 8, stride=8)
        self.set_head("pool", *(size // 8 for size in observation_shape[1:]))

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        x = self.layer(self.prepare(observation))
        return [x if float(x.mean()) > 0 else -x]


def ran(path: Path, observation: Any) -> tuple[Tensor, ...]:
    """What a file's program gives."""
    return exporting._run(path.read_bytes(), path.suffix, observation)


def run(tmp_path: Path, algorithm: str, env: str, **options: Any) -> Path:
    made = {**QUICK, "env": ENVS + env, "out": str(tmp_path), **options}
    session = begin.create(algorithm, None, made)
    session.run(console=False)
    session.close()
    return session.run_dir


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("noisy", [False, True])
def test_discrete_actions_and_their_values(tmp_path: Path, suffix: str, noisy: bool) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    folder = run(tmp_path, "dqn", "Steps", noisy=noisy)
    path = tmp_path / f"policy{suffix}"
    notes = export(folder, path)
    assert notes["observation"] == {"shape": ["batch", 4, 36, 36], "dtype": "uint8", "stack": 4}
    assert notes["action"] == {"shape": ["batch"], "dtype": "int64"}
    assert notes["actions"] == ["5", "6", "7"] and notes["step"] == 120
    assert notes["spaces"]["the action"] == "3 choices from 5: 5, 6, 7"
    player = load(folder)
    env, chosen = Steps(), set()
    observation, _ = env.reset(seed=3)
    player.reset()
    for _ in range(8):
        action = player.act(observation)
        found, values = ran(path, player.seen)
        assert found.tolist() == [action] and values.shape == (1, 3)
        chosen.add(action)
        observation = env.step(action)[0]
    for count in (1, 5):  # of any number at a time
        many = torch.randint(0, 256, (count, 4, 36, 36), dtype=torch.uint8)
        assert ran(path, many)[1].shape == (count, 3)
    assert chosen <= {5, 6, 7} and sorted(p.name for p in tmp_path.glob("*policy*")) == [path.name]


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_continuous_actions_in_their_own_bounds(tmp_path: Path, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    folder = run(tmp_path, "ddpg", "Arm")
    path = tmp_path / f"policy{suffix}"
    notes = export(folder, path)
    assert notes["action"] == {"shape": ["batch", 2, 1], "dtype": "float32"}
    assert set(notes["observation"]) == {"left", "joints"} and "values" not in notes
    player = load(folder)
    env = Arm()
    observation, _ = env.reset(seed=3)
    player.reset()
    for _ in range(5):
        action = player.act(observation)
        (found,) = ran(path, player.seen)
        np.testing.assert_allclose(found[0].numpy(), action, rtol=2e-2, atol=2e-2)
        observation = env.step(action)[0]


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_parts_may_have_an_outputs_name(tmp_path: Path, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    folder = run(tmp_path, "dqn", "Named", encoder="mlp")
    notes = export(folder, tmp_path / f"policy{suffix}")
    assert set(notes["inputs"]) == {"observation/action", "observation/values"}


def test_torch_alone_runs_it_and_the_notes_lie_in_it(tmp_path: Path) -> None:
    folder = run(tmp_path, "dqn", "Steps")
    path = tmp_path / "policy.pt2"
    notes = export(folder, path)
    code = f"""
import sys, json, torch
files = {{{NOTES!r}: ""}}
program = torch.export.load({str(path)!r}, extra_files=files)
action, values = program.module()(torch.zeros(2, 4, 36, 36, dtype=torch.uint8))
assert action.shape == (2,) and values.shape == (2, 3)
ours = {{"agents", "replay", "vision", "envs", "configs"}}
assert not ours & {{name.partition(".")[0] for name in sys.modules}}
print(files[{NOTES!r}])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == notes


def test_the_command_tells_what_goes_in_and_comes_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = str(run(tmp_path, "dqn", "Steps")), str(tmp_path / "policy.pt2")
    assert cli.main(["export", folder, path]) == 0
    told = capsys.readouterr().out
    assert 'observation   {"shape": ["batch", 4, 36, 36], "dtype": "uint8", "stack": 4}' in told
    assert Path(path).is_file()
    assert cli.main(["export", folder, str(tmp_path / "policy.pt")]) == 2
    assert cli.main(["export", folder, path, "--best"]) == 2
    (tmp_path / "folder.pt2").mkdir()
    assert cli.main(["export", folder, str(tmp_path / "folder.pt2")]) == 2
    assert cli.main(["export", folder, str(tmp_path / "no" / "policy.pt2")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "must end in .pt2 or .onnx" in lines[0] and "holds no best agent" in lines[1]
    assert "which is a folder" in lines[2] and "there is no folder" in lines[3]


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, "dqn", "Steps")
    with pytest.raises(ValueError, match=r"policy.bin' must end in .pt2 or .onnx"):
        export(folder, tmp_path / "policy.bin")
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="the program gives other numbers than the agent"):
        export(folder, tmp_path / "policy.pt2")
    own = run(tmp_path, "dqn", "Steps", encoder=f"{__name__}:Branches", encoder_width=1.0)
    capfd.readouterr()
    with pytest.raises(ValueError, match=r"this agent can't be exported: .+: \w+: .+") as told:
        export(own, tmp_path / "policy.pt2")
    assert "\n" not in str(told.value)
    assert "def forward" not in "".join(capfd.readouterr())
    assert not list(tmp_path.glob("*policy*"))
