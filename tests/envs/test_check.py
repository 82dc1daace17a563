"""The check of environments finds each fault that it speaks of, and none in sound ones."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.check import check


class Sound(gymnasium.Env[np.ndarray, int]):
    """Walks on a line; a subclass breaks one thing."""

    observation_space: gymnasium.Space[Any] = spaces.Box(-5, 5, (2,), np.float32)
    action_space: gymnasium.Space[Any] = spaces.Discrete(2)
    length = 20
    reward: Any = 0.5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.count = float(self.np_random.uniform(-1, 1)), 0
        return self.seen(), {}

    def step(self, action: int) -> Any:
        self.place = float(np.clip(self.place + 0.1 * (2 * action - 1), -1, 1))
        self.count += 1
        return self.seen(), self.reward, self.count == self.length, False, {}

    def seen(self) -> Any:
        return np.array([self.place, self.count / self.length], np.float32)


class Unseeded(Sound):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.place, self.count = float(np.random.uniform(-1, 1)), 0
        return self.seen(), {}


class Leftover(Sound):
    steps = 0

    def seen(self) -> Any:
        self.steps += 1
        return np.array([self.place, (self.steps % 11) / 11], np.float32)


class Drifting(Sound):
    gusts = 0

    def step(self, action: int) -> Any:
        self.gusts += 1
        self.place += 0.01 * (self.gusts % 7)
        return super().step(action)


class OldReset(Sound):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed)[0]


class OldStep(Sound):
    def step(self, action: int) -> Any:
        observation, reward, done, _, info = super().step(action)
        return observation, reward, done, info


class NoBool(Sound):
    def step(self, action: int) -> Any:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, 0.0, False, info


class NoInfo(Sound):
    def step(self, action: int) -> Any:
        return (*super().step(action)[:4], None)


class Outside(Sound):
    def seen(self) -> Any:
        return np.array([7.0, 0], np.float32)


class Raises(Sound):
    def step(self, action: int) -> Any:
        raise KeyError("motor")


class Endless(Sound):
    length = 10**9


class Poor(Sound):
    reward = 0.0


class Rich(Sound):
    reward = 500.0


class NaNs(Sound):
    reward = float("nan")


class Hot(Sound):
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(int(action[0] > 0))


class RichAndHot(Hot):
    reward = 500.0


class Dim(Sound):
    observation_space = spaces.Box(-np.inf, np.inf, (40, 40, 3), np.float32)

    def reset(self, **_: Any) -> Any:
        return np.full((40, 40, 3), 3, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.full((40, 40, 3), 3, np.float32), 0.0, True, False, {}


class Signals(Sound):
    def __init__(self) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class Loops(Sound):
    def step(self, action: Any) -> Any:
        asyncio.get_event_loop()
        return super().step(action)


class Wordy(Sound):
    def step(self, action: int) -> Any:
        raise RuntimeError("motor\n  fault " + "x" * 300)


class Stopped(Sound):
    length = 10**9
    closed = 0

    def close(self) -> None:
        Stopped.closed = threading.get_ident()


class DimPart(Dim):
    observation_space = spaces.Dict(cam=Dim.observation_space)

    def reset(self, **_: Any) -> Any:
        return {"cam": super().reset()[0]}, {}

    def step(self, action: Any) -> Any:
        return {"cam": super().reset()[0]}, 0.0, True, False, {}


class Wide(Sound):
    observation_space = spaces.Box(-500, 500, (2,), np.float32)


def normal() -> Any:
    return gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.NormalizeObservation(Sound()))


class Grey(Sound):
    observation_space = spaces.Box(0, 255, (20, 24), np.uint8)

    def seen(self) -> Any:
        return np.full((20, 24), 100 * (1 + self.place), np.uint8)


def stacked(size: int) -> Any:
    return gymnasium.wrappers.FrameStackObservation(Grey(), size)


def stacked_by_three() -> Any:
    return stacked(3)


def stacked_by_four() -> Any:
    return stacked(4)


class Words(Sound):
    observation_space = spaces.Text(5)


def findings(kind: Callable[..., Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ok": [], "note": [], "wrong": []}
    for finding in check(f"{__name__}:{kind.__name__}"):
        found[finding.kind].append(finding.text)
        assert "\n" not in finding.text
    return found


def test_nothing_is_said_of_sound_ones() -> None:
    found = findings(Sound)
    (note,) = found["note"]
    assert not any("--frame-stack" in note for note in findings(Grey)["note"])
    assert not found["wrong"] and "begins its episodes anew" in note and len(found["ok"]) == 5


@pytest.mark.parametrize("name", ["CartPole-v1", "examples.custom_env:Catch", "Breakout"])
def test_known_ones_pass(name: str) -> None:
    kinds = [finding.kind for finding in check(name)]
    assert kinds and "wrong" not in kinds


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Unseeded, "gave two first observations"),
        (Leftover, "two first observations"),
        (Drifting, "set every variable anew in reset"),
        (OldReset, r"returned ndarray; expected \(observation, info\)"),
        (OldStep, "returned a tuple of 4; expected"),
        (NoBool, "returned 0.0 for terminated; expected True or False"),
        (Outside, r"observation\[0\] is 7.0; expected a finite value in \[-5, 5\]"),
        (Raises, "raised KeyError: 'motor'"),
        (Wordy, r"raised RuntimeError: motor fault x{185}\.\.\.$"),
        (Loops, "no current event loop .* stepped in a thread of their own"),
        (NoInfo, "returned NoneType for info; expected a dict"),
        (NaNs, "reward is nan"),
        (Words, "expected a Box"),
        (DimPart, r"observations\['cam'\] of 'tests\.envs\.test_check:DimPart' are float32 images"),
        (
            Dim,
            r"^observations of '.*:Dim' are float32 images with values in \[3, 3\]; expected "
            r"uint8, or floats in \[0, 1\]",
        ),
    ],
)
def test_each_fault_is_named(kind: type[Any], text: str) -> None:
    found = findings(kind)
    assert len(found["wrong"]) == 1
    with pytest.raises(ValueError, match=text):
        raise ValueError(found["wrong"][0])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Endless, "no episode ended in 2,000 steps"),
        (Poor, "no reward at all"),
        (Rich, "rewards reach 500"),
        (Wide, "observations reach 500; .*RescaleObservation, or TransformObservation"),
        (normal, "^NormalizeReward scales by statistics .* no checkpoint holds and eval"),
        (normal, "^NormalizeObservation scales by .* fixed numbers .*RescaleObservation"),
        (stacked_by_three, "images have 3 channels; .* 4 times 3: --frame-stack 1 turns ours off"),
        (stacked_by_four, "images have 4 channels"),
    ],
)
def test_what_may_be_as_intended_is_a_note(kind: Callable[..., Any], text: str) -> None:
    found = findings(kind)
    assert not found["wrong"]
    assert any(re.search(text, note) for note in found["note"])


def test_continuous_actions_are_fine() -> None:
    assert any("actions are continuous" in text for text in findings(Hot)["ok"])


def test_distributions_are_spoken_of_only_where_dqn_learns_them() -> None:
    assert any("--v-max" in note for note in findings(Rich)["note"])
    assert not any("--v-max" in note for note in findings(RichAndHot)["note"])


def test_it_works_in_a_thread_as_training_does() -> None:
    with pytest.raises(ValueError, match="only works in main thread.* in a thread of their own"):
        list(check(f"{__name__}:Signals"))


def test_stopping_closes_the_environment_in_its_thread() -> None:
    checking = check(f"{__name__}:Stopped")
    next(checking)
    checking.close()
    assert Stopped.closed not in (0, threading.get_ident())


class NoSpaces(gymnasium.Env[Any, Any]):
    pass


def test_missing_spaces_are_named() -> None:
    with pytest.raises(ValueError, match=r"NoSpaces' has no observation_space: set one of"):
        list(check(f"{__name__}:NoSpaces"))
