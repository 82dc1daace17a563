"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_every_block_is_known_here() -> None:
    assert len(BLOCKS) == 3


def test_player_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shorter = BLOCKS[0].replace("50_000", "80")
    assert shorter != BLOCKS[0]
    names = {"observation": np.zeros(4, np.float32)}
    exec(shorter, names)
    assert names["action"] in (0, 1)
    names["player"].reset()  # type: ignore[attr-defined]


def test_replay_block() -> None:
    smaller = BLOCKS[1].replace("1_000_000", "1_000").replace("sample(32", "sample(4")
    lines = smaller.splitlines()
    names = {
        "first_frames": np.zeros((8, 1, 84, 84), np.uint8),
        "frames": np.ones((8, 1, 84, 84), np.uint8),
        "actions": np.zeros(8, np.int64),
        "rewards": np.ones(8, np.float32),
        "terminated": np.zeros(8, bool),
        "truncated": np.zeros(8, bool),
        "td_errors": torch.ones(4),
    }
    step = next(line for line in lines if line.startswith("replay.add"))
    exec(smaller.replace(step, f"for _ in range(5):\n    {step}"), names)
    batch = names["batch"]
    assert batch.observation.shape == (4, 4, 84, 84)  # type: ignore[attr-defined]
    assert batch.reward.tolist() == pytest.approx([1 + 0.99 + 0.99**2] * 4)  # type: ignore[attr-defined]


def test_stable_baselines3_block() -> None:
    pytest.importorskip("stable_baselines3", minversion="2.7")
    smaller = BLOCKS[2].replace("100_000", "1_000").replace("learn(1_000_000)", "learn(120)")
    assert smaller.count("1_000,") == smaller.count("learn(120)") == 1
    names: dict[str, Any] = {}
    exec(smaller, names)
    assert names["model"]._n_updates == 2
    assert names["model"].replay_buffer.n_steps == 3
