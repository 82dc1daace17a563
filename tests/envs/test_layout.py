"""Observations of any layout become (C, H, W) or (D,), or are refused."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.layout import Checker, layout


def box(*shape: int, dtype: type = np.uint8) -> spaces.Box:
    return spaces.Box(0, 255 if dtype is np.uint8 else 1, shape, dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        ((84, 84), (1, 84, 84)),
        ((210, 160, 3), (3, 210, 160)),
        ((3, 210, 160), (3, 210, 160)),
        ((1, 84, 84), (1, 84, 84)),
        ((84, 84, 1), (1, 84, 84)),
        ((10, 10, 6), (6, 10, 10)),
        ((12, 64, 48), (12, 64, 48)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
def test_images(shape: tuple[int, ...], frame: tuple[int, ...], dtype: type) -> None:
    made = layout(box(*shape, dtype=dtype), "env")
    assert made.frame.shape == frame
    assert made.frame.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    picture = np.arange(np.prod(shape)).reshape(shape)
    converted = made.convert(picture)
    assert converted.shape == frame
    if len(shape) == 3 and shape != frame:  # channels last: pixel (y, x) of channel c
        assert converted[0, 2, 1] == picture[2, 1, 0]
        assert converted[-1, 0, 3] == picture[0, 3, -1]
    else:
        assert (converted.reshape(-1) == picture.reshape(-1)).all()


def test_a_small_grey_image_is_an_image_if_uint8() -> None:
    assert layout(box(5, 7), "env").frame.shape == (1, 5, 7)


def test_vectors_become_float32() -> None:
    made = layout(box(128), "env")
    assert (made.frame.shape, made.frame.dtype) == ((128,), np.float32)
    assert layout(spaces.Box(-1, 1, ()), "env").frame.shape == (1,)


def test_bounds_turn_with_the_image() -> None:
    low = np.zeros((16, 20, 3), np.float64)
    low[:, :, 2] = 0.25
    made = layout(spaces.Box(low, np.ones_like(low), dtype=np.float64), "env")
    assert (made.frame.low[2] == 0.25).all() and (made.frame.low[:2] == 0).all()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (box(10, 10, 10), "(C, H, W) and (H, W, C) are both possible"),
        (box(3, 84, 3), "both possible"),
        (box(4, 84, 3), "both possible"),
        (box(5, 5, dtype=np.float32), "FlattenObservation"),
        (box(4, 84, 84, 3), "frame_stack does it"),
        (spaces.Discrete(16), "FlattenObservation"),
        (spaces.Dict({"a": box(3)}), "FlattenObservation"),
        (spaces.Tuple((box(3), box(3))), "FlattenObservation"),
        (spaces.Text(5), "FlattenObservation"),
        (box(0, 4, 3), "an axis is empty"),
        (spaces.Box(0, 255, (20, 20, 3)), "float32 images in [0, 255]; expected uint8, or floats"),
        (spaces.Box(-1, 1, (20, 20, 3)), "float32 images in [-1, 1]; expected uint8, or floats"),
    ],
)
def test_refusals_name_the_way_out(space: gymnasium.Space, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError) as error:
        layout(space, "MyEnv-v0")
    assert message in str(error.value)
    assert "'MyEnv-v0'" in str(error.value)
    assert "\n" not in str(error.value)


def test_checker_lets_good_observations_pass() -> None:
    check = Checker(spaces.Box(-1.0, 1.0, (2,), np.float32))
    check.observation(np.array([1.0, -1.0]))  # float64 for float32 is common, and harmless
    check.observation([0, 1])
    check.observation(np.float32([1.000001, 0]))  # rounding
    free = Checker(spaces.Box(-np.inf, np.inf, (1,), np.float64))
    free.observation(np.array([1e30]))
    with pytest.raises(ValueError, match=r"is 1e\+59; expected a finite float32 in \[-inf, inf\]"):
        free.observation(np.array([1e59]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.float32([0, np.nan]), r"observation\[1\] is nan; expected a finite value in \[-1, 1\]"),
        (np.float32([1.1, 0]), r"observation\[0\] is 1.1"),
        (np.float32([0, -np.inf]), "is -inf"),
        (np.zeros(3, np.float32), r"shape \(3,\); expected \(2,\)"),
        (np.array(["a", "b"]), "expected float32"),
        (None, "shape"),
    ],
)
def test_checker_names_the_fault(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checker(spaces.Box(-1.0, 1.0, (2,), np.float32)).observation(bad)


def test_checker_of_images_and_infinite_bounds() -> None:
    with pytest.raises(ValueError, match="observation is float64; expected uint8"):
        Checker(box(4, 4)).observation(np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"\[0, 0\] is 9; expected .* \[0, 1\]"):
        Checker(spaces.Box(0, 1, (4, 4), np.uint8)).observation(np.full((4, 4), 9, np.uint8))
    free = Checker(spaces.Box(-np.inf, np.inf, (1,), np.float64))
    for value in (np.inf, np.nan, 1e300):  # 1e300 is infinite as float32
        with pytest.raises(ValueError, match=r"expected a finite (value|float32) in \[-inf"):
            free.observation(np.array([value]))


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf, 1e39, None, "1", np.zeros(2)])
def test_checker_refuses_rewards(reward: object) -> None:
    with pytest.raises(ValueError, match="reward is"):
        Checker.reward(reward)


def test_checker_takes_any_one_number() -> None:
    assert Checker.reward(np.float64(2.5)) == 2.5
    assert Checker.reward(np.array([3])) == 3.0
    assert Checker.reward(True) == 1.0
