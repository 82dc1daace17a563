"""Gymnasium environments as lanes, stepped one after the other in a worker thread, or in several.

Everything an environment does happens in one thread, its making and closing too: renderers bind
their context to the thread that made it. `send` returns at once, so learning overlaps wherever it
leaves Python's lock, and so do the steps of lanes in other threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.actions import actions
from envs.layout import Checker, is_picture
from envs.parts import Parts
from envs.state import get_state, set_state
from envs.vector import (
    Diverged,
    Drop,
    EnvFault,
    Frame,
    Scores,
    Step,
    Turns,
    check_action,
    lane_seeds,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envs.protocol import Protocol

Made = TypeVar("Made")
_Share = tuple[list[Made], BaseException | None]
"""What a thread's lanes gave, and what the next of them raised."""
MakeEnv = Callable[[], gymnasium.Env[Any, Any]]

RETURNED = "(observation, reward, terminated, truncated, info)"

MOST_DROPS = 3
"""Episodes that diverge before one ends well, at which a run of continuous control stops."""


class Lanes:
    """One environment of each function in `make_env`, which is called in a worker thread.

    `threads` share the lanes out, each lane in one thread for good; what is returned doesn't depend
    on their number.

    An episode is dropped whose simulation diverges, and one of which `step` says in
    `info["trouble"]` why it is nothing to learn from.

    `stack=0` takes 4 for images and 1 for vectors, of each part of a Dict. `limit` truncates
    episodes after so many steps, above 0. Lane i is seeded once, at `reset`, by a seed of its own
    derived from `seed`; later episodes go on from its generator.
    """

    def __init__(
        self,
        make_env: Sequence[MakeEnv],
        *,
        seed: int,
        stack: int = 0,
        limit: int = 0,
        threads: int = 1,
        render: bool = False,
        name: str = "",
    ) -> None:
        self.num_envs = len(make_env)
        self.protocol: Protocol | None = None
        self.episode_limit = limit
        self.dropped = 0
        self._seeds = lane_seeds(seed, self.num_envs)
        self._render = render
        self._name = name
        self._drops = 0
        self._turns = Turns()
        self._scores = Scores(self.num_envs)
        self._step: Step
        self._pending: list[Future[Any]] = []
        self._envs: list[gymnasium.Env[Any, Any]] = []
        self._workers = [
            ThreadPoolExecutor(1, thread_name_prefix="envs")
            for _ in range(max(1, min(threads, self.num_envs)))
        ]
        try:
            for lane, make in enumerate(make_env):  # in turn, for what they import and load
                self._envs.append(self._run(lane, make))
            first = self._envs[0]
            self._parts = Parts(first.observation_space, name)
            self.actions = actions(first.action_space, name)
            for lane, env in enumerate(self._envs):
                for what in ("observation_space", "action_space"):
                    if getattr(env, what) != getattr(first, what):
                        raise ValueError(
                            f"{what} of {name!r} is {getattr(env, what)} in lane {lane} and "
                            f"{getattr(first, what)} in lane 0; they must be the same"
                        )
            if render and first.render_mode != "rgb_array":
                raise ValueError(
                    f"{name!r} draws no pictures: its render_mode is {first.render_mode!r}, "
                    "expected 'rgb_array'"
                )
        except BaseException:
            self.close()
            raise
        self.frame_space: spaces.Box | spaces.Dict = self._parts.space
        self.discrete = self._parts.discrete
        self.frame_rate = _frame_rate(first.metadata)
        self.stack = self._parts.stack(stack)
        # Two, because the workers fill one while the caller still reads the other.
        self._frames = (self._parts.blank(self.num_envs), self._parts.blank(self.num_envs))
        self._turn = 0

    def reset(self) -> Frame:
        """Start every lane anew, from the seed given; returns the first frames."""
        self._turns.reset()
        self._scores.reset()
        frame = self._next_frames()
        self._all(lambda lane: self._begin(lane, frame, seed=self._seeds[lane]))
        return self._parts.plain(frame)

    def send(self, action: np.ndarray) -> None:
        """Start a step with (num_envs,) integers in [0, n), or (num_envs, A) floats."""
        action = check_action(action, self.actions.space, self.num_envs)
        self._turns.send()
        frame, count = self._next_frames(), self.num_envs
        reward, over = np.zeros(count), (np.zeros(count, bool), np.zeros(count, bool))
        self._step = Step(self._parts.plain(frame), reward, *over, ())
        self._pending = self._start(lambda lane: self._step_one(lane, action[lane], frame))

    def recv(self) -> Step:
        """Wait for the step that was sent; EnvFault where an environment misbehaved."""
        self._turns.recv()
        try:
            troubles = self._wait(self._pending)
        finally:
            self._pending = []
        frame, reward, terminated, truncated, *_ = self._step
        dropped = tuple(
            Drop(lane, self._forgive(trouble)) for lane, trouble in enumerate(troubles) if trouble
        )
        if self.episode_limit:
            at_the_limit = self._scores.length + 1 >= self.episode_limit
            truncated |= at_the_limit & ~terminated & ~self._scores.over
        for lane, _ in dropped:
            reward[lane], terminated[lane], truncated[lane] = 0.0, False, False
        episodes = self._scores.add(reward, terminated | truncated)
        for lane, _ in dropped:
            self._scores.drop(lane)
        self.dropped += len(dropped)
        if episodes:
            self._drops = 0
        return Step(frame, reward.astype(np.float32), terminated, truncated, episodes, dropped)

    def render(self) -> np.ndarray:
        """Picture of lane 0 as it stands, (H, W, 3) uint8."""
        self._turns.rest()
        if not self._render:
            raise RuntimeError("render() needs environments made with render=True")
        try:
            picture = np.asarray(self._run(0, self._envs[0].render))
        except gymnasium.error.DependencyNotInstalled as error:
            raise ValueError(f"{self._name!r} can't be drawn here: {error}") from error
        if not is_picture(picture):
            raise EnvFault(
                f"lane 0: the picture is {picture.dtype} of shape {picture.shape}; "
                "expected uint8 (H, W, 3)"
            )
        return picture

    @property
    def view(self) -> Any:
        """What lane 0 makes of its camera's pictures; None where it has no such thing."""
        return getattr(self._envs[0].unwrapped, "view", None)

    def get_state(self) -> dict[str, Any] | None:
        """Exact state of every lane (see `envs.state`), or None where one has none."""
        self._turns.rest()
        lanes = self._all(lambda lane: get_state(self._envs[lane]))
        if any(lane is None for lane in lanes):
            return None
        return {
            "lanes": lanes,
            "score": self._scores.score.tolist(),
            "length": self._scores.length.tolist(),
            "over": self._scores.over.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` stood, in place of `reset`."""
        if len(state["lanes"]) != self.num_envs:
            raise ValueError(
                f"the state holds {len(state['lanes'])} lanes; expected {self.num_envs}"
            )
        self._turns.reset()
        self._all(lambda lane: self._restore(lane, state["lanes"][lane]))
        self._scores.score[:] = state["score"]
        self._scores.length[:] = state["length"]
        self._scores.over = np.array(state["over"], bool)

    def close(self) -> None:
        """Wait for a step under way, close every environment and end the threads."""
        if self._turns.closed:
            return
        self._turns.close()
        wait(self._pending)
        for lane, env in enumerate(self._envs):
            try:
                self._run(lane, env.close)
            except BaseException as error:  # nothing is lost by it any more
                print(f"lane {lane} of {self._name!r}, close(): {told(error)}", file=sys.stderr)
        for worker in self._workers:
            worker.shutdown()

    def _run(self, lane: int, work: Callable[[], Made]) -> Made:
        return self._workers[lane % len(self._workers)].submit(work).result()

    def _all(self, work: Callable[[int], Made]) -> list[Made]:
        """`work` of each lane, in its thread; raises what the first of the lanes raises."""
        return self._wait(self._start(work))

    def _start(self, work: Callable[[int], Made]) -> list[Future[_Share[Made]]]:
        """One job a thread, which ends with the first error."""

        def share(first: int) -> _Share[Made]:
            done: list[Made] = []
            try:
                for lane in range(first, self.num_envs, len(self._workers)):
                    done.append(work(lane))
            except BaseException as error:
                return done, error
            return done, None

        return [worker.submit(share, first) for first, worker in enumerate(self._workers)]

    @staticmethod
    def _wait(pending: list[Future[_Share[Made]]]) -> list[Made]:
        shares, step = [job.result() for job in pending], len(pending)
        if step == 1 and shares[0][1] is None:
            return shares[0][0]
        errors = {
            first + step * len(done): error
            for first, (done, error) in enumerate(shares)
            if error is not None
        }
        if errors:
            raise errors[min(errors)]
        count = sum(len(done) for done, _ in shares)
        return [shares[lane % step][0][lane // step] for lane in range(count)]

    def _forgive(self, trouble: str | EnvFault) -> str:
        """What to tell of an episode that is given up; raises at `MOST_DROPS` faults in a row."""
        if isinstance(trouble, EnvFault):
            self._drops += 1
            if self._drops == MOST_DROPS:
                raise EnvFault(f"{trouble}; so ended {MOST_DROPS} episodes in a row") from trouble
        return str(trouble)

    # What follows runs in a lane's thread.

    def _begin(self, lane: int, frame: dict[str, np.ndarray], seed: int | None = None) -> None:
        """Start an episode, and write its first observation."""
        with self._blame(lane, "reset()"):
            returned = self._envs[lane].reset(seed=seed)
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise ValueError(f"returned {kind(returned)}; expected (observation, info)")
            self._parts.write(returned[0], frame, lane)

    def _step_one(self, lane: int, action: Any, frame: dict[str, np.ndarray]) -> str | EnvFault:
        """Step a lane, or begin its next episode; tells why its episode is given up, or nothing.

        Simulations of continuous control diverge now and then, under actions that learning tries.
        Whatever else goes wrong is a fault of the environment's.
        """
        if self._scores.over[lane]:
            self._begin(lane, frame)
            return ""
        own, step = self.actions.own(action), self._step
        trouble: str | EnvFault = ""
        try:
            with self._blame(lane, f"step(action={own})"):
                returned = self._envs[lane].step(own)
                if not isinstance(returned, tuple) or len(returned) != 5:
                    raise ValueError(f"returned {kind(returned)}; expected {RETURNED}")
                observation, gain, step.terminated[lane], step.truncated[lane], info = returned
                if not isinstance(info, dict):
                    raise ValueError(f"returned {kind(info)} for info; expected a dict")
                step.reward[lane] = Checker.reward(gain)
                self._parts.write(observation, frame, lane)
                trouble = info.get("trouble", "")
        except EnvFault as fault:
            discrete = isinstance(self.actions.space, spaces.Discrete)
            if discrete or not isinstance(fault.__cause__, Diverged):
                raise
            trouble = fault
        if trouble:
            self._begin(lane, frame)
        return trouble

    def _next_frames(self) -> dict[str, np.ndarray]:
        self._turn ^= 1
        return self._frames[self._turn]

    @contextmanager
    def _blame(self, lane: int, call: str) -> Iterator[None]:
        """Name the lane and the call in whatever goes wrong."""
        try:
            yield
        except BaseException as error:  # sys.exit and KeyboardInterrupt, too, are its own here
            raise EnvFault(f"lane {lane} of {self._name!r}, {call}: {told(error)}") from error

    def _restore(self, lane: int, state: dict[str, Any]) -> None:
        with self._blame(lane, "set_state()"):
            # Wrappers refuse to step what was never reset.
            self._envs[lane].reset(seed=self._seeds[lane])
            set_state(self._envs[lane], state)


def kind(value: Any) -> str:
    """What a value is, in words."""
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _frame_rate(metadata: Any) -> float:
    """What an environment's metadata says of its pace; 30 where it says nothing of use."""
    rate = metadata.get("render_fps") if isinstance(metadata, dict) else None
    return float(rate) if isinstance(rate, int | float) and 0 < rate <= 1000 else 30.0
