"""An encoder of one's own: trained by its module's name, evaluated and resumed by that alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vision
from agents import start as begin
from agents.evaluate import evaluate_run
from examples.custom_encoder import Strided
from vision import registry

NAME = "examples.custom_encoder:Strided"
HERE = "tests.examples.test_custom_encoder"
QUICK: dict[str, Any] = {
    "env": "examples.custom_env:Catch", "encoder_width": 0.25, "hidden": 8, "num_envs": 2,
    "steps": 200, "learning_starts": 64, "replay_capacity": 500, "eval_episodes": 1, "threads": 1,
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is gone after it."""
    vision.names()  # ours are registered before
    monkeypatch.setattr(registry, "_ENCODERS", dict(registry._ENCODERS))


class Bare(vision.Encoder):
    """Says nothing of what comes out of it."""


class NoWidth(vision.Encoder):
    """Of one size alone."""

    def __init__(self, observation_shape: tuple[int, ...]) -> None:
        super().__init__(observation_shape)
        self.channels, self.strides = (4,), (8,)
        self.layer = nn.Conv2d(observation_shape[0], 4, 8, stride=8)
        self.set_head("pool", *(size // 8 for size in observation_shape[1:]))

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        return [self.layer(self.prepare(observation))]


class Others(Strided):
    """Hands on what it doesn't know."""

    def __init__(self, observation_shape: tuple[int, ...], **options: Any) -> None:
        super().__init__(observation_shape, **options)


class Wrong(Strided):
    """Says other channels than it gives."""

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__(observation_shape, width)
        self.channels = (*self.channels[:2], 7)


class Raises(Strided):
    """Fails when it sees."""

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        raise KeyError("nope")


class Plain(nn.Module):
    """No encoder."""


def create(out: Path, encoder: str, **options: Any) -> begin.Session:
    return begin.create("dqn", "default", {**QUICK, "encoder": encoder, "out": str(out), **options})


def test_a_run_is_evaluated_and_resumed_where_nobody_registered_it(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        run = create(tmp_path, NAME)
    run.run(console=False)
    run.close()
    assert isinstance(run.agent.online.encoder, Strided)  # type: ignore[attr-defined]
    folder = str(run.run_dir)
    for words in (
        ["eval", folder, "--episodes", "1"],
        ["train", "--resume", folder, "--steps", "300"],
    ):
        command = [sys.executable, "-m", "agents", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_one_that_hands_options_on_has_a_width(tmp_path: Path) -> None:
    run = create(tmp_path, f"{HERE}:Others")
    assert run.agent.online.encoder.channels == (4, 8, 8)  # type: ignore[attr-defined]
    run.close()


def test_one_without_a_width_has_its_own(tmp_path: Path) -> None:
    name = f"{HERE}:NoWidth"
    run = create(tmp_path, name, encoder_width=1.0)
    run.run(console=False)
    run.close()
    assert len(evaluate_run(run.run_dir, episodes=1)["scores"]) == 1
    with pytest.raises(ValueError, match=r"has one width alone, and width is 0.25: give 1"):
        create(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"{HERE}:Bare", "sets no feature_dim and no channels and no"),
        (f"{HERE}:Bar", "did you mean Bare"),
        ("examples.custom_env:play", "'examples.custom_env:play' can't be made: AttributeError"),
        ("no.such:Encoder", "no module 'no'"),
        (f"{HERE}:Wrong", r"gives channels \[16, 32, 32\], and says \[16, 32, 7\]"),
        (f"{HERE}:Raises", "can't be made: KeyError: 'nope'"),
        (f"{HERE}:Plain", "must be a vision.Encoder, and is none"),
    ],
)
def test_what_is_no_encoder_is_one_line(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        create(tmp_path, name, encoder_width=1.0)
