"""The reward of a goal picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vision import GoalReward


def scene(row: int, column: int) -> np.ndarray:
    picture = np.full((64, 64, 3), 30, np.uint8)
    picture[row : row + 16, column : column + 16] = (220, 120, 40)
    return picture


@pytest.mark.parametrize("encoder", ["nature", "resnet18"])
def test_nearer_is_better_and_the_goal_is_best(encoder: str) -> None:
    reward = GoalReward(scene(40, 40), encoder, width=0.5)
    found = [reward(scene(40, column), 0) for column in (40, 36, 0)]
    assert found[0] == pytest.approx(0, abs=1e-5)
    assert found == sorted(found, reverse=True) and found[1] < -1e-4
    assert reward.distance(scene(40, 0)) == pytest.approx(-found[2])
    assert GoalReward(scene(40, 40), encoder, width=0.5, scale=3)(scene(40, 0)) == pytest.approx(
        3 * found[2], rel=1e-4
    )


def test_it_draws_from_its_own_seed_and_leaves_the_callers_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (GoalReward(scene(8, 8), "nature", seed=s) for s in (1, 1, 2))
    assert torch.rand(1) == expected
    picture = scene(30, 8)
    assert first(picture) == again(picture) != other(picture)


def test_a_file_and_grey_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "goal.png"), scene(8, 8)[:, :, ::-1])
    from_file, given = (
        GoalReward(tmp_path / "goal.png", "nature"),
        GoalReward(scene(8, 8), "nature"),
    )
    assert from_file(scene(20, 8)) == pytest.approx(given(scene(20, 8)))
    grey = GoalReward(scene(8, 8)[:, :, 0], "nature")
    assert grey(scene(8, 8)[:, :, 0]) == pytest.approx(0, abs=1e-5)


def test_bad_pictures_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "goal.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="goal.png is no image that OpenCV can decode"):
        GoalReward(tmp_path / "goal.png")
    with pytest.raises(ValueError, match=r"a picture is float64 of shape \(4, 4\); expected uint8"):
        GoalReward(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="the goal's features in 'vgg11' are all zero"):
        GoalReward(np.zeros((64, 64, 3), np.uint8), "vgg11", width=0.1)
    with pytest.raises(ValueError, match=r"has shape \(32, 32, 3\); the goal's has \(64, 64, 3\)"):
        GoalReward(scene(0, 0), "nature")(scene(0, 0)[:32, :32])
