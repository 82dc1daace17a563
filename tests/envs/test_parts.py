"""Observations of several parts: named, checked and shown as frames, or refused in one line."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.check import check
from envs.lanes import Lanes
from envs.parts import Parts
from envs.vector import EnvFault
from tests.support import PartsEnv, Tag, TaggedEnv

IMAGE = spaces.Box(0, 255, (8, 9, 3), np.uint8)
STATE = spaces.Box(-1, 1, (2,), np.float64)
GOOD = spaces.Dict(
    {"top": IMAGE, "arm": spaces.Dict({"state": STATE, "tool": spaces.Discrete(3, start=-1)})}
)


def good(**change: Any) -> dict[str, Any]:
    arm = {"state": np.array([0.5, -1]), "tool": np.int64(1)}
    return {"top": np.arange(216, dtype=np.uint8).reshape(8, 9, 3), "arm": {**arm, **change}}


def test_parts_are_named_by_path_and_sorted() -> None:
    parts = Parts(GOOD, "env")
    assert isinstance(parts.space, spaces.Dict)
    shapes = {part: (box.shape, box.dtype) for part, box in parts.space.items()}
    assert list(shapes.items()) == [
        ("arm/state", ((2,), np.float32)),
        ("arm/tool", ((3,), np.float32)),
        ("top", ((3, 8, 9), np.uint8)),
    ]
    assert {part: str(own.space) for part, own in parts.discrete.items()} == {
        "arm/tool": "Discrete(3, start=-1)"
    }
    assert parts.stack(0) == {"arm/state": 1, "arm/tool": 1, "top": 4}
    assert parts.stack(2) == {"arm/state": 2, "arm/tool": 2, "top": 2}
    frame = parts.read(good())
    assert isinstance(frame, dict)
    assert frame["arm/tool"].tolist() == [0, 0, 1] and frame["arm/state"].tolist() == [0.5, -1]
    assert frame["top"].shape == (3, 8, 9) and frame["top"][2, 1, 4] == 41  # (1 * 9 + 4) * 3 + 2
    flat = {"top": good()["top"], **{f"arm/{name}": v for name, v in good()["arm"].items()}}
    assert all(np.array_equal(frame[part], value) for part, value in parts.read(flat).items())  # type: ignore[union-attr]


def test_one_part_without_a_name_stays_as_it_was() -> None:
    parts = Parts(IMAGE, "env")
    assert parts.space == spaces.Box(0, 255, (3, 8, 9), np.uint8)
    assert parts.stack(0) == 4 and parts.discrete == {}
    assert isinstance(parts.read(np.zeros((8, 9, 3), np.uint8)), np.ndarray)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(3), "observation is ndarray; expected a dict of arm/state, arm/tool, top"),
        ({"top": good()["top"]}, "observation lacks 'arm/state'"),
        ({**good(), "topp": 1}, "observation holds 'topp', .* did you mean 'top'"),
        (good(state=np.array([0, 3.0])), r"observation\['arm/state'\]\[1\] is 3.0"),
        (good(state=np.zeros(3)), r"observation\['arm/state'\] has shape \(3,\)"),
        (good(tool=2), r"observation\['arm/tool'\] is 2; .* in \[-1, 1\]"),
        (good(tool=0.5), r"observation\['arm/tool'\] is 0.5"),
        ({**good(), "top": np.zeros((8, 9, 3))}, r"observation\['top'\] is float64"),
    ],
)
def test_what_does_not_fit_is_named(observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Parts(GOOD, "env").read(observation)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"a": spaces.Text(3)},
            r"observations\['a'\] of 'env' are Text.*such vectors or a Dict.*TransformOb",
        ),
        ({"a": spaces.Dict({"b": spaces.Text(3)})}, r"observations\['a/b'\] of 'env'"),
        ({"a": spaces.Tuple([STATE, IMAGE])}, r"observations\['a'\] of 'env' are Tuple"),
        ({"a": spaces.Tuple([STATE, spaces.Text(3)])}, r"observations\['a/1'\] of 'env' are Text"),
        ({"a": spaces.Box(0, 1, (5, 5), np.float32)}, r"observations\['a'\] of 'env' have shape"),
        ({"a": STATE, "b": spaces.Box(0, 255, (4, 8, 4), np.uint8)}, "both possible"),
        ({}, "a Dict without parts"),
        ({"a/b": STATE, "a": spaces.Dict({"b": STATE})}, "two parts called 'a/b'"),
        ({1: STATE}, "a part called 1"),
    ],
)
def test_spaces_that_no_agent_sees(space: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Parts(spaces.Dict(space), "env")
    assert "\n" not in str(caught.value)


def test_lanes_show_each_part_of_the_same_moment() -> None:
    lanes = Lanes([lambda i=i: PartsEnv(env=i) for i in range(3)], seed=0)  # type: ignore[misc]
    try:
        assert lanes.stack == {"arm/pose": 1, "arm/wrist": 4, "camera": 4, "goal": 1}
        frames, action, kept = lanes.reset(), np.full(3, -1), None
        for turn in range(20):
            assert isinstance(frames, dict)
            for i in range(3):
                tag = Tag(*(int(v) for v in frames["arm/pose"][i]))
                assert tag.env == i and tag.action in (action[i], -1)
                assert TaggedEnv.read(frames["camera"][i]) == tag
                assert np.array_equal(frames["arm/wrist"][i], TaggedEnv.frame(tag, (15, 17), 3))
                assert frames["goal"][i].argmax() + 2 == PartsEnv.goal(tag)
                assert frames["goal"][i].sum() == 1
            if kept is not None:  # the caller's frames outlive the next step's making
                assert np.array_equal(kept[0]["camera"], kept[1])
            action = np.arange(3) % 2 + turn % 2
            lanes.send(action)
            kept = (frames, frames["camera"].copy())
            frames = lanes.recv().frame
    finally:
        lanes.close()


class Broken(PartsEnv):
    """Forgets a part after a while."""

    def _observe(self) -> Any:
        seen = super()._observe()
        if self.step_number == 3:
            del seen["arm"]["pose"]
        return seen


def test_a_part_that_goes_missing_is_a_fault_of_that_lane() -> None:
    lanes = Lanes([Broken], seed=0, name="broken")
    try:
        lanes.reset()
        message = r"lane 0 of 'broken', step\(action=0\): .* lacks 'arm/pose'"
        with pytest.raises(EnvFault, match=message):
            for _ in range(4):
                lanes.send(np.zeros(1, int))
                lanes.recv()
    finally:
        lanes.close()


class Unseeded(PartsEnv):
    """One part of it is drawn from elsewhere."""

    def _observe(self) -> Any:
        seen = super()._observe()
        seen["arm"]["pose"][3] = np.random.random()
        return seen


def test_check_tells_of_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [(f.kind, f.text) for f in check("tests.support:PartsEnv")]
    texts = "\n".join(text for _, text in findings)
    assert all(kind != "wrong" for kind, _ in findings), texts
    assert "observations['camera'] are images: (16, 20, 1) uint8, to the agent (1, 16, 20)" in texts
    assert "observations['arm/pose'] reach 65536" in texts
    assert "observations['goal'] are one of 5 values, to the agent one-hot" in texts
    for name, message in (("Broken", "lacks 'arm/pose'"), ("Unseeded", "gave two first obs")):
        wrong = [f.text for f in check(f"tests.envs.test_parts:{name}") if f.kind == "wrong"]
        assert len(wrong) == 1 and message in wrong[0]


def test_gymnasium_finds_the_test_environment_sound() -> None:
    env: gymnasium.Env[Any, Any] = PartsEnv()
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
