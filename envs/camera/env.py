"""Training through a camera: a Gymnasium environment over pictures, actions and a person's reward.

Time is real: `step` sends the action and returns, one period later, the newest picture. While it
waits the learner learns; where that takes longer than a period, the action is held for so long.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs.camera.feed import Feed, Frame, open_camera
from envs.camera.sinks import Sink, message, open_sink
from envs.camera.view import View

Reward = Callable[[np.ndarray, Any], float]
"""(what the agent sees after the action, the action) -> the step's reward."""
Termination = Callable[[np.ndarray, Any], bool]
"""Likewise -> whether the episode is over: no value lies beyond this picture."""


_open_feeds: dict[Any, tuple[Feed, int]] = {}
"""Feeds in use, with the number of environments that use them: a device opens only once."""
_lock = threading.Lock()
_rigs: dict[Any, CameraEnv] = {}
"""The environment that acts on each rig, by camera and sink; the one that was reset last."""
_rigs_lock = threading.Lock()


class CameraEnv(gymnasium.Env[np.ndarray, Any]):
    """An environment whose observations are a camera's pictures through a view.

    camera      what `open_camera` takes; opened by the first reset, and shared by environments on
                one camera: a run evaluates while its training environment is open
    sink        what `open_sink` takes
    actions     a number of discrete actions, or a float Box
    view        must fix the size of what the agent sees: resize, crop or source
    reward, terminated  a person's callables; see Reward and Termination
    rate        steps a second
    max_steps   steps after which an episode is truncated; 0 never
    on_reset    called at each reset, to bring the rig back; may take its time
    safe_action what is sent at reset, on close, and while there is nothing to see; zeros unless
                given
    hold        seconds that an action stands while no step comes, as when a run saves or evaluates;
                then the safe action goes out, and the next step only truncates the episode. Where
                another environment on the same camera and sink acts meanwhile, as a run's
                evaluation does, it goes on undisturbed, and the next step here truncates, too
    stale, frozen, timeout  as of Feed: when a picture is not to be acted on
    Where the camera is in trouble, the safe action goes out at once, and the episode is truncated
    with the newest picture: what happened meanwhile is nothing to learn from, but the state before
    it goes on. The next `reset` waits for the camera, `timeout` seconds, then raises
    ConnectionError; so it does where the sink stayed away for so long.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        camera: str | int | Callable[[], Any],
        sink: str | Callable[[Any], Any],
        *,
        actions: int | gymnasium.spaces.Box,
        view: View,
        reward: Reward,
        terminated: Termination | None = None,
        rate: float = 20.0,
        max_steps: int = 0,
        on_reset: Callable[[], None] | None = None,
        safe_action: Any = None,
        token: str = "",
        hold: float = 1.0,
        stale: float = 0.5,
        frozen: float = 5.0,
        timeout: float = 10.0,
        render_mode: str | None = None,
    ) -> None:
        _check_types(actions, view, reward, terminated, on_reset)
        numbers = {"rate": rate, "hold": hold, "max_steps": max_steps}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is {value!r}; expected a number")
        if not (0 < rate <= 1000 and math.isfinite(rate)):
            raise ValueError(f"rate is {rate}; it must lie in (0, 1000] steps a second")
        if not hold > 0:
            raise ValueError(f"hold is {hold}; it must be above 0 seconds")
        if max_steps < 0:
            raise ValueError(f"max_steps is {max_steps}; it must be 0 or more")
        self.view = view
        entry: Any = type(self)
        self.spec = EnvSpec("CameraEnv-v0", entry_point=entry, nondeterministic=True)
        shape = view.fixed_shape
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = (
            gymnasium.spaces.Discrete(actions) if isinstance(actions, int) else actions
        )
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": rate}
        self.missed = 0
        """Deadlines that passed before the step was asked for: learning took too long."""
        self._options = {"stale": stale, "frozen": frozen, "timeout": timeout}
        self._timeout, self._token = timeout, token
        self._camera_name, self._sink_name = camera, sink
        self._camera: Feed | None = None
        self._sink: Sink | None = None
        self._reward, self._terminated, self._on_reset = reward, terminated, on_reset
        self._period, self._max_steps = 1 / rate, max_steps
        zero: Any = 0
        if isinstance(self.action_space, gymnasium.spaces.Box):
            zero = np.zeros(self.action_space.shape, np.float32).clip(
                self.action_space.low, self.action_space.high
            )
        self._safe_action = zero if safe_action is None else safe_action
        if not self.action_space.contains(self._safe_action):
            raise ValueError(f"safe_action is {safe_action}; it must lie in {self.action_space}")
        self._due = 0.0
        self._steps = self._seq = 0
        self._frame: Frame | None = None
        self._away_since: float | None = None  # the sink takes no action
        self._hold = hold
        self._guard: threading.Thread | None = None
        self._closing = threading.Event()
        self._turn = threading.Lock()
        self._idle_since: float | None = None  # a step is waited for
        self._let_go = False  # and waited for too long: the safe action went out

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Safe action, `on_reset`, then the first picture that came after it.

        Raises ConnectionError where camera or sink don't come back within the timeout.
        """
        super().reset(seed=seed)
        self._wake()
        self._open()
        with _rigs_lock:
            _rigs[self._rig] = self
        while not self._send(self._safe_action, safe=True):
            time.sleep(0.05)
        if self._on_reset is not None:
            self._on_reset()
        began = time.monotonic()
        assert self._camera is not None
        while True:
            frame = self._camera.read(0.05)
            trouble = self._camera.trouble()
            if frame is not None and not trouble and frame.time >= began:
                break
            if self._camera.ended:
                raise ConnectionError("the camera's pictures have ended; no episode can begin")
            if time.monotonic() - began > self._timeout:
                raise ConnectionError(
                    f"no picture to begin with in {self._timeout:g} s: {trouble or 'it is too old'}"
                )
            if frame is None:
                self._send(self._safe_action, safe=True)
        self._frame, self._steps = frame, 0
        self._due = self._idle_since = time.monotonic()
        return self.view(frame.image), self._info(frame)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Send the action; one period later return what the camera sees."""
        if self._frame is None or self._camera is None:
            raise RuntimeError("step() before reset()")
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}; it must lie in {self.action_space}")
        paused = self._wake()
        if _rigs.get(self._rig) is not self:
            self._frame = self._camera.latest()
            return self._cut("another environment acted on the rig, as an evaluation does")
        if paused:
            self._frame = self._camera.latest()
            return self._cut(f"no step came for {paused:.1f} s")
        now = time.monotonic()
        if now > self._due + self._period:  # learning was late: the period begins anew
            self.missed += int((now - self._due) / self._period)
            self._due = now
        if not self._send(action):
            assert self._sink is not None
            return self._cut(f"the action did not go out: {self._sink.fault}")
        self._due += self._period
        self._frame, trouble = self._picture()
        self._steps += 1
        if trouble:
            self._send(self._safe_action, safe=True)
            return self._cut(trouble)
        seen = self.view(self._frame.image)
        reward = _number("reward", self._reward(seen, action))
        over = self._terminated is not None and bool(
            _number("terminated", self._terminated(seen, action))
        )
        cut = bool(self._max_steps) and self._steps >= self._max_steps
        self._idle_since = time.monotonic()
        ended = (cut or self._camera.ended) and not over
        return seen, reward, over, ended, self._info(self._frame)

    def render(self) -> np.ndarray:
        """The camera's newest picture, (H, W, 3) uint8, before the view."""
        if self._frame is None:
            raise RuntimeError("render() before reset()")
        return self._frame.image

    def close(self) -> None:
        """Send the safe action and let go of camera and sink."""
        self._wake()
        self._closing.set()
        if self._guard is not None:
            self._guard.join()
            self._guard = None
        if self._sink is not None:
            with _rigs_lock:
                if acts := _rigs.get(self._rig, self) is self:
                    _rigs.pop(self._rig, None)
            if acts:
                self._send(self._safe_action, safe=True, raises=False)
            self._sink.close()
        if self._camera is not None:
            _release(self._camera)
        self._sink = self._camera = self._frame = None

    def _cut(self, trouble: str) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A step that only ends the episode, with the newest picture."""
        assert self._frame is not None
        info = {**self._info(self._frame), "trouble": trouble}
        return self.view(self._frame.image), 0.0, False, True, info

    def _wake(self) -> float:
        """Take the rig over from the guard; seconds that it was left alone, 0 if not for long."""
        with self._turn:
            since, let_go = self._idle_since, self._let_go
            self._idle_since, self._let_go = None, False
        return time.monotonic() - since if since is not None and let_go else 0.0

    def _stand_guard(self) -> None:
        """In a thread: send the safe action once where no step comes for too long."""
        while not self._closing.wait(self._hold / 4):
            with self._turn:
                since = self._idle_since
                late = since is not None and time.monotonic() - since > self._hold
                if late and not self._let_go and self._sink is not None:
                    self._let_go = True
                    with _rigs_lock:  # whoever takes the rig over meanwhile acts after this
                        if _rigs.get(self._rig) is self:
                            self._send(self._safe_action, safe=True, raises=False)

    def _open(self) -> None:
        if self._guard is None:
            self._closing.clear()
            self._guard = threading.Thread(target=self._stand_guard, name="guard", daemon=True)
            self._guard.start()
        if self._camera is None:
            self._camera = _share(self._camera_name, self._options)
            # from now on, other sizes of picture are refused; runs keep this view
            height, width = self._camera.shape[:2]
            self.view(self._camera.latest().image)
            self.view = replace(self.view, source=(height, width))
        if self._sink is None:
            self._sink = open_sink(self._sink_name, token=self._token, timeout=self._timeout)

    def _picture(self) -> tuple[Frame, str]:
        """The first picture after the deadline, or the newest and what is wrong with it."""
        camera, last = self._camera, self._frame
        assert camera is not None and last is not None
        time.sleep(max(0.0, self._due - time.monotonic()))
        while True:
            frame = camera.read(0.02, after=last.number)
            trouble = camera.trouble()
            if trouble or frame is not None or camera.ended:
                return frame or last, trouble

    @property
    def _rig(self) -> tuple[Any, Any]:
        return self._camera_name, self._sink_name

    def _send(self, action: Any, *, safe: bool = False, raises: bool = True) -> bool:
        """Whether the sink took the action; ConnectionError once it was away for the timeout.

        safe  it is not the agent's: the message says so
        """
        assert self._sink is not None
        self._seq += 1
        plain = int(action) if np.ndim(action) == 0 else np.asarray(action).tolist()
        number, age = (self._frame.number, self._frame.age) if self._frame else (0, None)
        now = time.monotonic()
        if self._sink.send(message(self._seq, plain, number, age, safe=safe)):
            self._away_since = None
            return True
        self._away_since = now if self._away_since is None else self._away_since
        if raises and self._sink.hopeless:
            raise ConnectionError(f"the sink takes no actions: {self._sink.fault}")
        if raises and now - self._away_since > self._timeout:
            raise ConnectionError(f"the sink stayed away: {self._sink.fault}")
        return False

    def _info(self, frame: Frame) -> dict[str, Any]:
        return {"age": frame.age, "frame": frame.number, "missed": self.missed}


def _check_types(actions: Any, view: Any, reward: Any, terminated: Any, on_reset: Any) -> None:
    """TypeError, in one line, for an argument of a wrong kind."""
    whole = isinstance(actions, int) and not isinstance(actions, bool)
    if not whole and not isinstance(actions, gymnasium.spaces.Box):
        raise TypeError(f"actions is {actions!r}; expected a number of actions or a float Box")
    if not isinstance(view, View):
        raise TypeError(f"view is {view!r}; expected a View, such as View(resize=(84, 84))")
    if not callable(reward):
        raise TypeError(f"reward is {reward!r}; expected a function of (picture, action)")
    for name, value in (("terminated", terminated), ("on_reset", on_reset)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} is {value!r}; expected a function or None")


def _number(name: str, value: Any) -> float:
    """What a person's function returned, as a number; TypeError, naming the function, otherwise."""
    try:
        return float(value)
    except (TypeError, ValueError):
        text = " ".join(repr(value).split())[:60]
        expected = "True or False" if name == "terminated" else "a number"
        raise TypeError(f"the {name} function returned {text}; expected {expected}") from None


def _share(camera: str | int | Callable[[], Any], options: dict[str, float]) -> Feed:
    """The open feed of a camera, opened if nobody uses it yet."""
    with _lock:
        feed, users = _open_feeds.get(camera, (None, 0))
        if feed is None:
            feed = open_camera(camera, **options).__enter__()
        _open_feeds[camera] = (feed, users + 1)
        return feed


def _release(feed: Feed) -> None:
    """Close a shared feed once nobody uses it any more."""
    with _lock:
        for camera, (open_feed, users) in list(_open_feeds.items()):
            if open_feed is feed:
                if users > 1:
                    _open_feeds[camera] = (feed, users - 1)
                    return
                del _open_feeds[camera]
    feed.close()
