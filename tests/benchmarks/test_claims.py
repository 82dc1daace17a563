"""The papers' claims: their images and statistics, and every command from end to end."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.claims import shared
from benchmarks.claims.shared import CLASSES, shapeset, verdict
from benchmarks.harness import half_interval

SYSTEMS = {
    "glorot": {"standard", "normalised"},
    "batchnorm": {"without", "with BatchNorm"},
    "vgg": {"A", "A-LRN", "B", "D", "E"},
    "resnet": {"plain", "resnet"},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_command_from_end_to_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.claims.{name}")
    if hasattr(module, "TEST_IMAGES"):
        monkeypatch.setattr(module, "TEST_IMAGES", 20)
    else:
        monkeypatch.setattr(module, "IMAGES", 64)
    picture, figures = tmp_path / "claim.png", tmp_path / "claim.json"
    words = ["--steps", "2", "--seeds", "2", "--picture", str(picture), "--json", str(figures)]
    monkeypatch.setattr(sys, "argv", [name, *words])
    module.main()
    rows = json.loads(figures.read_text())["rows"]
    assert {row["system"] for row in rows} == SYSTEMS[name]
    assert all(np.isfinite(row["value"]) and row["interval"] >= 0 for row in rows if row["unit"])
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 60_000
    told = capsys.readouterr().out
    assert " here: " in told or "does not hold at this scale: " in told


def test_a_seed_is_a_set_of_images_of_every_class() -> None:
    data, again, other = shapeset(500, 1), shapeset(500, 1), shapeset(500, 2)
    assert torch.equal(data.pixels, again.pixels) and torch.equal(data.labels, again.labels)
    assert not torch.equal(data.pixels, other.pixels)
    assert data.pixels.shape == (500, 1, 32, 32) and data.pixels.dtype == torch.float32
    assert data.labels.unique().tolist() == list(range(len(CLASSES))) and len(CLASSES) == 9
    assert abs(data.pixels.mean()) < 0.2 and 0.8 < data.pixels.std() < 1.2
    # whatever is drawn stands out from its ground
    ranges = data.pixels.amax((1, 2, 3)) - data.pixels.amin((1, 2, 3))
    assert ranges.min() > 0.9
    # two shapes cover more than one
    bright = (data.pixels - data.pixels.amin((2, 3), keepdim=True) > 0.5).float().mean((1, 2, 3))
    assert bright[data.labels >= 3].mean() > 1.4 * bright[data.labels < 3].mean()


def test_the_second_shape_leaves_half_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, half = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    whole[2:6], half[4:6] = 255, 255
    masks = [whole, whole, half]  # the second covers all of the first, and is drawn again
    monkeypatch.setattr(shared, "_draw", lambda *_: masks.pop(0))
    monkeypatch.setattr(shared, "CLASSES", [(0, 1)])
    picture = shapeset(1, 0, 8).pixels[0, 0]
    assert not masks
    assert len(picture[:, 0].unique()) == 3
    assert (picture[2:4] != picture[4:6]).all()


def test_intervals_and_verdicts_by_hand() -> None:
    # mean 2, deviation 1, t of two degrees of freedom 4.3027
    assert half_interval([1, 2, 3]) == pytest.approx(4.3027 / 3**0.5)
    assert half_interval([1]) is None
    low, high = [1.0, 2.0, 3.0], [2.0, 3.1, 3.9]
    assert verdict("c", low, high) == "holds here: c (difference 1 ± 0.25)"
    assert verdict("c", high, low) == "does not hold at this scale: c (difference -1 ± 0.25)"
    assert verdict("c", low, [0.0, 9.0, 3.0]).startswith("undecided here: c")
    assert verdict("c", [1.0], [2.0]) == "undecided here: c (difference 1)"


@pytest.mark.parametrize("option", ["--steps", "--seeds"])
def test_nothing_is_no_number_of_steps_or_seeds(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vgg", option, "0"])
    with pytest.raises(SystemExit):
        shared.parse("A claim.", 1, 1, "x.png")
    assert f"{option} is 0; it must be at least 1" in capsys.readouterr().err
