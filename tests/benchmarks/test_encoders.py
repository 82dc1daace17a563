"""The comparison of encoders: what it counts as memory, and that it runs as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.encoders import held

MIB = 2**20


def test_memory_is_weights_gradients_and_what_the_backward_needs() -> None:
    """A layer keeps its input, a ReLU in between its output; equal storages count once."""
    rows, wide = 1024, 256
    net = nn.Sequential(nn.Linear(wide, wide, bias=False), nn.ReLU(), nn.Linear(wide, wide))
    floats = 2 * (2 * wide * wide + wide) + 2 * rows * wide
    assert held(net, torch.rand(rows, wide)) == 4 * floats / MIB


def test_it_prints_a_table_and_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.encoders", "--names", "drq", "--repeats", "1",
               "--batch", "1", "--json", str(path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "drq at 84x84, update" in done.stdout
    rows = {row["case"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["drq at 84x84, memory"]["unit"] == "MiB"
    assert all(row["value"] > 0 and row["system"] == "sightline" for row in rows.values())
