"""What is wrong with an environment, in plain words, before an agent is trained on it."""

from __future__ import annotations

import copy
import json
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, NormalizeObservation, NormalizeReward

from envs.actions import actions
from envs.config import EnvConfig
from envs.lanes import RETURNED, kind
from envs.layout import Checker
from envs.make import make, make_one
from envs.names import EnvName, resolve
from envs.parts import Parts, leaves
from envs.state import get_state, set_state, wrappers
from envs.vector import Frame, told

STEPS, RIG_STEPS = 2_000, 200
"""Random steps that an environment is tried for; fewer where time is real."""
REPEATED = 50
"""Steps of them that are played twice, from one seed."""
CLOSING = 2.0
"""Seconds that an environment gets to close, where the check is stopped."""


class Finding(NamedTuple):
    """One thing that the check saw."""

    kind: Literal["ok", "note", "wrong"]
    """wrong stops training or spoils it; a note may be as intended."""
    text: str


def check(name: str, seed: int = 0, env_args: str = "") -> Iterator[Finding]:
    """Try the environment `name` with random actions; yields findings as they come.

    `env_args` as of EnvConfig.

    Looks at spaces, shapes and types, what reset and step return, seeding, ends of episodes,
    rewards, and whether its state can be put back. Stops at the first thing that is wrong beyond
    going on. All happens in a thread of its own, as in training. Raises ValueError for a name that
    stands for nothing.
    """
    found = resolve(name)
    if found.kind == "atari":
        if env_args:
            make(EnvConfig(env=name, env_args=env_args), seed=seed)  # which refuses them
        yield Finding("ok", f"{name} is an Atari game, which ALE has checked")
        return
    findings = _findings(found, EnvConfig(env=name, env_args=env_args), seed)
    seen: SimpleQueue[Finding | BaseException | None] = SimpleQueue()
    stop = Event()

    def work() -> None:
        try:
            for finding in findings:
                if stop.is_set():
                    break
                if finding is not None:
                    seen.put(finding)
            findings.close()  # stopped: its environment is closed here, where it was made
            seen.put(None)
        except BaseException as error:
            seen.put(error)

    # a daemon, or an environment that hangs would keep the process that was told to end
    worker = Thread(target=work, name="envs_0", daemon=True)
    worker.start()
    try:
        while (one := seen.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            yield one
    finally:
        stop.set()
        worker.join(CLOSING)


_Findings = Generator[Finding | None, None, None]
"""What is found, and None now and then, where it may be stopped."""


def _findings(found: EnvName, config: EnvConfig, seed: int) -> _Findings:
    env = make_one(found, config, render=False)
    try:
        parts = yield from _spaces(env, config.env)
        yield from _wrappers(env, parts)
        steps = STEPS
        if _is_rig(env):
            steps = RIG_STEPS
            seconds = (steps + 2 * REPEATED) / env.metadata["render_fps"]
            yield Finding(
                "note", f"random actions go to the rig now, for about {seconds:.0f} s; Ctrl-C stops"
            )
        yield from _play(env, parts, seed, steps)
        repeats = True
        for finding in _seeding(env, parts, seed):
            yield finding
            repeats &= finding.kind != "wrong"
        if repeats:  # what never comes again can't be told from what wasn't put back
            yield from _restoring(env, parts, seed)
    except _Wrong as wrong:
        yield Finding("wrong", str(wrong))
    except GeneratorExit:
        env.close()
        raise
    try:
        _call("close()", env.close)
    except _Wrong as wrong:
        yield Finding("wrong", str(wrong))


class _Wrong(Exception):
    """What ends the check."""


def _spaces(env: gymnasium.Env[Any, Any], name: str) -> Generator[Finding, None, Parts]:
    try:
        parts = Parts(env.observation_space, name)
        taken = actions(env.action_space, name).space
    except ValueError as error:
        raise _Wrong(str(error)) from None
    if isinstance(parts.space, spaces.Dict):
        own = dict(leaves(env.observation_space, name))  # type: ignore[arg-type]
        for part, frame in parts.space.items():
            yield from _part(f"observations[{part!r}]", own[part], frame)
    else:
        yield from _part("observations", env.observation_space, parts.space)
    if isinstance(taken, gymnasium.spaces.Discrete):
        yield Finding("ok", f"actions are discrete: {taken.n}")
    else:
        yield Finding("ok", f"actions are continuous ({env.action_space}): ddpg takes them")
    return parts


def _part(called: str, own: gymnasium.Space[Any], frame: gymnasium.Space[Any]) -> Iterator[Finding]:
    """What the agent sees of observations, or of one part of them."""
    assert isinstance(frame, spaces.Box)
    if isinstance(own, spaces.Discrete):
        yield Finding("ok", f"{called} are one of {own.n} values, to the agent one-hot")
        return
    if not isinstance(own, spaces.Box):
        yield Finding("ok", f"{called} are {own}, to the agent a vector of {frame.shape[0]}")
        return
    what = "images" if len(frame.shape) == 3 else "vectors"
    seen = f"{own.shape} {own.dtype}, to the agent {frame.shape}"
    yield Finding("ok", f"{called} are {what}: {seen}")
    if what == "vectors" and np.issubdtype(own.dtype, np.floating):
        width = float(np.max(np.where(np.isfinite(frame.high), np.abs(frame.high), 0)))
        if width > 100:
            yield Finding(
                "note",
                f"{called} reach {width:g}; networks learn best from values around 1 "
                "(gymnasium.wrappers.RescaleObservation, or TransformObservation)",
            )


def _wrappers(env: gymnasium.Env[Any, Any], parts: Parts) -> Iterator[Finding]:
    """What is around it that a run can't keep, or does itself."""
    for wrapper in wrappers(env):
        if isinstance(wrapper, NormalizeObservation | NormalizeReward):
            yield Finding(
                "note",
                f"{type(wrapper).__name__} scales by statistics of what it has seen, which no "
                "checkpoint holds and evaluations begin anew: scale by fixed numbers "
                "(gymnasium.wrappers.RescaleObservation, TransformObservation, TransformReward)",
            )
    frames = parts.space.values() if isinstance(parts.space, spaces.Dict) else [parts.space]
    images = [frame.shape[0] for frame in frames if frame.shape and len(frame.shape) == 3]
    stacked = any(isinstance(wrapper, FrameStackObservation) for wrapper in wrappers(env))
    if images and (stacked or not {1, 3}.issuperset(images)):
        channels = max(images)
        yield Finding(
            "note",
            f"images have {channels} channels; where these are stacked frames, they are stacked "
            f"again, 4 times {channels}: --frame-stack 1 turns ours off",
        )


def _is_rig(env: gymnasium.Env[Any, Any]) -> bool:
    from envs.camera import CameraEnv

    return isinstance(env.unwrapped, CameraEnv)


def _play(env: gymnasium.Env[Any, Any], parts: Parts, seed: int, steps: int) -> _Findings:
    env.action_space.seed(seed)
    rewards, lengths, length = [], [], 0
    _reset(env, parts, seed)
    for _ in range(steps):
        action = env.action_space.sample()
        frame, reward, terminated, truncated = _step(env, parts, action)
        _require_unit(frame, parts.name)
        rewards.append(reward)
        length += 1
        if terminated or truncated:
            lengths.append(length)
            length = 0
            _reset(env, parts, None)
        yield None
    yield Finding("ok", f"{steps:,} random steps returned what the spaces announce")
    greatest = float(np.abs(rewards).max())
    if lengths:
        mean = float(np.mean(lengths))
        yield Finding("ok", f"{len(lengths)} episodes ended, after {mean:.0f} steps on average")
    else:
        yield Finding(
            "note",
            f"no episode ended in {steps:,} steps; --max-episode-steps cuts them off in training",
        )
    if greatest == 0:
        yield Finding(
            "note",
            "random actions found no reward at all: an agent that explores so won't either",
        )
    elif greatest > 10 and isinstance(env.action_space, spaces.Discrete):
        yield Finding(
            "note",
            f"rewards reach {greatest:g}; presets that learn a distribution (default, rainbow) "
            "cover returns in [-10, 10]: scale the rewards, or set --v-min and --v-max",
        )


def _seeding(env: gymnasium.Env[Any, Any], parts: Parts, seed: int) -> Iterator[Finding]:
    if env.spec is not None and env.spec.nondeterministic:
        yield Finding("note", "it says itself that its course of events can't be repeated")
        return
    if any(isinstance(wrapper, NormalizeObservation) for wrapper in wrappers(env)):
        return  # of which was told
    first, second = (_trajectory(env, parts, seed + 1) for _ in range(2))
    if not _equal(first[0], second[0]):
        yield Finding(
            "wrong",
            f"reset(seed={seed + 1}) twice gave two first observations: runs can't be repeated; "
            "call super().reset(seed=seed), and draw from self.np_random alone",
        )
    elif not all(_equal(a, b) for a, b in zip(first, second, strict=False)) or (
        len(first) != len(second)
    ):
        yield Finding(
            "wrong",
            "the same seed and actions gave two courses of events: draw from self.np_random "
            "alone, and set every variable anew in reset",
        )
    else:
        yield Finding("ok", "the same seed and actions give the same course of events")


def _restoring(env: gymnasium.Env[Any, Any], parts: Parts, seed: int) -> Iterator[Finding]:
    _reset(env, parts, seed)
    state = _call("get_state()", lambda: json.loads(json.dumps(get_state(env))))
    if state is None:
        yield Finding(
            "note",
            "a resumed run begins its episodes anew; with get_state() and set_state(), in values "
            "that JSON can hold, it goes on where it stood",
        )
        return
    first = _course(env, parts, seed)
    _call("set_state()", lambda: set_state(env, state))
    if all(_equal(a, b) for a, b in zip(first, _course(env, parts, seed), strict=False)):
        yield Finding("ok", "its state can be put back: a resumed run goes on where it stood")
    else:
        yield Finding(
            "wrong", "set_state() of what get_state() gave led to another course of events"
        )


def _trajectory(env: gymnasium.Env[Any, Any], parts: Parts, seed: int) -> list[Frame]:
    return [_reset(env, parts, seed), *_course(env, parts, seed)]


def _course(env: gymnasium.Env[Any, Any], parts: Parts, seed: int) -> list[Frame]:
    """Observations under actions that `seed` gives, to the end of the episode at the most."""
    env.action_space.seed(seed)
    seen = []
    for _ in range(REPEATED):
        observation, _, terminated, truncated = _step(env, parts, env.action_space.sample())
        seen.append(observation)
        if terminated or truncated:
            break
    return seen


def _reset(env: gymnasium.Env[Any, Any], parts: Parts, seed: int | None) -> Frame:
    call = "reset()" if seed is None else f"reset(seed={seed})"
    returned = _call(call, lambda: env.reset(seed=seed))
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise _Wrong(f"{call} returned {kind(returned)}; expected (observation, info)")
    if not isinstance(returned[1], dict):
        raise _Wrong(f"{call} returned {kind(returned[1])} for info; expected a dict")
    return _observation(call, parts, returned[0])


def _step(
    env: gymnasium.Env[Any, Any], parts: Parts, action: Any
) -> tuple[Frame, float, bool, bool]:
    call = f"step(action={action})"
    returned = _call(call, lambda: env.step(action))
    if not isinstance(returned, tuple) or len(returned) != 5:
        raise _Wrong(f"{call} returned {kind(returned)}; expected {RETURNED}")
    observation, reward, terminated, truncated, info = returned
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            raise _Wrong(f"{call} returned {flag!r} for {name}; expected True or False")
    if not isinstance(info, dict):
        raise _Wrong(f"{call} returned {kind(info)} for info; expected a dict")
    frame = _observation(call, parts, observation)
    try:
        return frame, Checker.reward(reward), bool(terminated), bool(truncated)
    except ValueError as error:
        raise _Wrong(f"{call}: {error}") from None


def _require_unit(frame: Frame, name: str) -> None:
    """Float images whose space has no bounds: their values must fit all the same."""
    for key, part in frame.items() if isinstance(frame, dict) else [("", frame)]:
        if part.ndim == 3 and part.dtype != np.uint8:
            low, high = float(part.min()), float(part.max())
            if low < -1e-3 or high > 1 + 1e-3:
                what = f"observations[{key!r}]" if key else "observations"
                raise _Wrong(
                    f"{what} of {name!r} are {part.dtype} images with values in "
                    f"[{low:g}, {high:g}]; expected uint8, or floats in [0, 1]"
                )


def _equal(a: Frame, b: Frame) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return all(np.array_equal(a[part], b[part]) for part in a)
    return np.array_equal(a, b)  # type: ignore[arg-type]


def _observation(call: str, parts: Parts, observation: Any) -> Frame:
    try:
        return copy.deepcopy(parts.read(observation))  # some return one buffer again
    except ValueError as error:
        raise _Wrong(f"{call}: {error}") from None


def _call(call: str, work: Any) -> Any:
    try:
        return work()
    except (Exception, SystemExit) as error:
        raise _Wrong(f"{call} raised {told(error)}") from error
