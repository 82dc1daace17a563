"""An environment as a network camera: its pictures go out, actions come in, in real time.

With it a loop is closed on one machine before there is a rig: simulator, camera, agent, actions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from envs.camera.actions import ActionPort, Inbox
from envs.camera.serve import Broadcast, PictureServer, encode
from envs.config import EnvConfig
from envs.make import make

REMEMBERED = 10_000
"""Episodes whose scores the status tells, the newest."""


class Sim:
    """Steps one environment at a steady rate with the newest action that has arrived.

    rate         steps and pictures a second; 0 takes the environment's own pace
    wait         seconds that a step waits for an action in answer to its picture, at most; 0 lets
                 time run as it does for a rig
    quality      of the JPEGs, in [1, 100]
    port         of HTTP; `action_port` that of TCP; 0 takes any free one
    token        what actions must bring; empty asks for none
    An episode that ends is followed by the next. Before the first action, action 0 (or zeros) is
    taken. Raises ValueError for an environment that can't be drawn, ConnectionError for a port
    that is taken.
    """

    def __init__(
        self,
        env: EnvConfig,
        *,
        rate: float = 0.0,
        wait: float = 0.0,
        quality: int = 90,
        host: str = "127.0.0.1",
        port: int = 0,
        action_port: int = 0,
        token: str = "",
        seed: int = 0,
        tell: Callable[[str], None] = print,
    ) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"quality is {quality}; it must lie in [1, 100]")
        if not 0 <= rate <= 1000:
            raise ValueError(f"rate is {rate:g}; it must lie in [0, 1000]")
        if not 0 <= wait <= 60:
            raise ValueError(f"wait is {wait:g}; it must lie in [0, 60] seconds")
        self.name = env.env
        self._wait = wait
        self._env = make(env, seed=seed, num_envs=1, evaluation=True, render=True)
        self._quality = quality
        self.rate = rate or self._env.frame_rate
        self._scores: deque[float] = deque(maxlen=REMEMBERED)
        self._lengths: deque[int] = deque(maxlen=REMEMBERED)
        self._episodes, self._score, self._step, self._late = 0, 0.0, 0, 0
        self._gap = 1 / self.rate  # mean seconds between steps, over the last twenty or so
        self._broadcast = Broadcast()
        self._close: list[Callable[[], None]] = [self._env.close]
        try:
            self.inbox = Inbox(self._env.actions, token, tell)
            title = f"{env.env} camera"
            server = PictureServer(
                self._broadcast, title, self.status, host=host, port=port, inbox=self.inbox
            )
            self._close.append(server.close)
            actions = ActionPort(self.inbox, host, action_port)
            self._close.append(actions.close)
        except BaseException:
            self.close()
            raise
        shown = f"[{host}]" if ":" in host else host
        self.page = f"http://{shown}:{server.port}/"
        self.stream = f"{self.page}stream.mjpg"
        self.actions = f"tcp://{shown}:{actions.port}"

    def run(self, stop: threading.Event, seconds: float = float("inf")) -> None:
        """Step and publish until `stop` is set or `seconds` have passed."""
        self._env.reset()
        self._publish()
        begun = time.monotonic()
        due, last = begun, begun
        while time.monotonic() - begun < seconds:
            due += 1 / self.rate
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            if self._wait and self.inbox.counts["taken"]:
                until = time.monotonic() + self._wait
                while not stop.is_set() and time.monotonic() < until:
                    if self.inbox.fresh.wait(min(0.2, self._wait)):
                        break
            now = time.monotonic()
            if self._wait:
                due = max(due, now)  # no step makes up for the time that another waited
            elif now - due > 1 / self.rate:
                self._late += int((now - due) * self.rate)
                due = now
            gap, last = now - last, now
            self._gap += 0.05 * (gap - self._gap)
            self._env.send(self.inbox.newest())
            step = self._env.recv()
            self._step += 1
            self._score += float(step.reward[0])
            for episode in step.episodes:
                self._episodes += 1
                self._scores.append(episode.score)
                self._lengths.append(episode.length)
                self._score = 0.0
            self._publish()

    def status(self) -> dict[str, Any]:
        """What /status tells; `shown` is what stands on the page."""
        protocol = self._env.protocol
        return {
            "env": self.name,
            "protocol": protocol.describe() if protocol else "the environment's own rules",
            "rate": self.rate,
            "measured_rate": round(1 / self._gap, 2),
            "step": self._step,
            "late": self._late,
            "score": self._score,
            "episodes": self._episodes,
            "scores": list(self._scores),
            "lengths": list(self._lengths),
            "actions": dict(self.inbox.counts),
            "shown": {
                "score": f"{self._score:g}",
                "episode": self._episodes + 1,
                "last": f"{self._scores[-1]:g}" if self._scores else "-",
                "frames/s": f"{1 / self._gap:.1f}",
            },
        }

    def close(self) -> None:
        """Stop serving and close the environment; closing twice is no error."""
        while self._close:
            self._close.pop()()

    def _publish(self) -> None:
        self.inbox.fresh.clear()
        self._broadcast.put(encode(self._env.render(), self._quality))
