"""An agent on a live camera: picture, action, out; at a steady rate, and safe when pictures fail.

The loop knows no network and no file: a camera, a player and a sink are handed to it. Deadlines
are absolute on the monotonic clock, so that a late action delays no later one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agents.latency import Durations
from agents.live_config import LiveConfig
from envs.camera.feed import Feed, Frame
from envs.camera.sinks import Sink, message
from envs.camera.view import View

if TYPE_CHECKING:
    from agents.player import Player

_SLICE = 0.05
"""Seconds between looks at the feed's health while no picture comes."""
_SETTLED = 1.0
"""Seconds without a fault after which a sink is told to be back."""
_WARM = 12
"""Actions by which the machine's speed is told beforehand."""


class Acted(NamedTuple):
    """One turn of the loop, for whoever records or shows it."""

    frame: Frame
    action: Any
    safe: bool
    seen: Any
    """The stacked observation that the action answers; None with a safe action."""
    chosen: Any = None
    """The action as the agent has it: a number from 0, or (A,) floats in [-1, 1]; likewise."""


class Live:
    """The control loop; `run` returns why it ended.

    Each deadline gets one message: the action for a picture not acted on before, waiting for it up
    to the next deadline; in vain, the last action once more. Where the camera is in trouble, it is
    the safe action instead, within `stale` seconds and one period; when it is well again, the
    player begins a new stack of frames.

    tell    called with a line about what happened
    zero    the action that does nothing, as the sink gets it: a number, or floats
    """

    def __init__(
        self,
        player: Player,
        camera: Feed,
        view: View,
        sink: Sink,
        config: LiveConfig,
        *,
        zero: Any = 0,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.player, self.camera, self.view, self.sink = player, camera, view, sink
        self.config, self._tell = config, tell
        self.watch: Callable[[Acted], None] | None = None
        """Called with each turn after its action went out, where set; must not wait."""
        self.counts: Counter[str] = Counter()
        """Messages by what they were: actions, repeats, safe, dropped; missed deadlines."""
        self.age, self.inference, self.end_to_end = Durations(), Durations(), Durations()
        self.begun = self.ended = time.monotonic()
        self._period = 1 / config.rate if config.rate else 0.0
        self._declared = declared(config.safe_action, zero)
        self._last, self._number = zero, 0
        self._trouble_since: float | None = None
        self._sink_since: float | None = None
        self._sink_told: float | None = None
        self._sink_failed = 0.0
        self._seq = 0

    def speed(self) -> float:
        """Seconds that an action takes here, the median of some on the newest picture.

        Raises ValueError, naming both shapes, where the agent can't see the camera's pictures.
        """
        image = self.camera.latest().image
        took = []
        for _ in range(_WARM):
            began = time.perf_counter()
            self.player.act(self.view(image))
            took.append(time.perf_counter() - began)
        self.player.reset()
        return float(np.median(took[2:]))

    def run(self, stop: threading.Event) -> str:
        """Act until `stop`, the end of the feed or of the time; the safe action goes out last.

        Returns "stopped", "ended" or "time"; raises ConnectionError where feed or sink stayed away
        for longer than the limit.
        """
        self.begun = due = time.monotonic()
        self.player.reset()
        try:
            while True:
                if self._period:
                    due = self._await(due + self._period, stop)
                if stop.is_set():
                    return "stopped"
                if self.config.max_seconds and self.seconds >= self.config.max_seconds:
                    return "time"
                if self.camera.ended:
                    return "ended"
                self._turn(due, stop)
        finally:
            try:
                self._send(self._safe(), None, safe=True)
            finally:  # a sink that stayed away says so once more
                self.ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the loop began."""
        return time.monotonic() - self.begun

    def _await(self, due: float, stop: threading.Event) -> float:
        """Wait for a deadline; returns it, or the last one passed where others were missed."""
        stop.wait(max(0.0, due - time.monotonic()))
        late = int((time.monotonic() - due) / self._period)
        if late > 0 and not stop.is_set():
            self.counts["missed"] += late
            due += late * self._period
        return due

    def _turn(self, due: float, stop: threading.Event) -> None:
        frame = self._next_frame(due + self._period if self._period else float("inf"), stop)
        if trouble := self.camera.trouble():
            self._suffer(trouble, stop)
            return
        if frame is None:
            if self._period and not stop.is_set() and not self.camera.ended:
                self.counts["repeats"] += 1
                self._send(self._last, None, safe=False)
            return
        if self._trouble_since is not None:
            away = time.monotonic() - self._trouble_since
            self._tell(f"the feed is well again after {away:.1f} s")
            self._trouble_since = None
            self.player.reset()  # a stack must not bridge the gap
        self._act(frame)

    def _act(self, frame: Frame) -> None:
        self._number = frame.number
        age = frame.age
        began = time.perf_counter()
        action = self.player.act(self.view(frame.image), self.config.epsilon)
        took = time.perf_counter() - began
        self._last = action if isinstance(action, int) else np.asarray(action).tolist()
        self._send(self._last, frame, safe=False)
        self.end_to_end.add(frame.age)
        self.age.add(age)
        self.inference.add(took)
        self.counts["actions"] += 1
        if self.watch is not None:
            self.watch(Acted(frame, self._last, False, self.player.seen, self.player.chosen))

    def _next_frame(self, end: float, stop: threading.Event) -> Frame | None:
        """A picture not acted on yet, waited for until `end`, trouble, a stop or the feed's end."""
        while not stop.is_set():
            wait = min(end - time.monotonic(), _SLICE)
            frame = self.camera.read(max(0.0, wait), after=self._number)
            late = time.monotonic() >= end
            if frame is not None or late or self.camera.trouble() or self.camera.ended:
                return frame
            over = self.config.max_seconds and self.seconds >= self.config.max_seconds
            if over:
                break
        return None

    def _suffer(self, trouble: str, stop: threading.Event) -> None:
        """Send the safe action; ConnectionError where that has gone on for too long."""
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
            self.counts["troubles"] += 1
            self._tell(f"{trouble}; sending the safe action")
        elif now - self._trouble_since > self.config.limit:
            raise ConnectionError(f"the feed stayed away for {self.config.limit:g} s: {trouble}")
        self._send(self._safe(), None, safe=True)
        if self.watch is not None:
            self.watch(Acted(self.camera.latest(), self._safe(), True, None))
        if not self._period:
            stop.wait(_SLICE)

    def _safe(self) -> Any:
        return self._last if self._declared is None else self._declared

    def _send(self, action: Any, frame: Frame | None, *, safe: bool) -> None:
        """Send one message; ConnectionError where the sink stayed away for too long."""
        self._seq += 1
        self.counts["safe"] += safe
        age = frame.age if frame else None
        now = time.monotonic()
        if self.sink.send(message(self._seq, action, self._number, age, safe=safe)):
            if self._sink_told is not None and now - self._sink_failed > _SETTLED:
                self._tell(f"the sink is back after {now - self._sink_told:.1f} s")
                self._sink_told = None
            self._sink_since = None
            return
        self.counts["dropped"] += 1
        self._sink_failed = now
        if self._sink_since is None:
            self._sink_since = now
        if self._sink_told is None and not self.sink.hopeless:  # else of a sink that comes and goes
            self._sink_told = now
            self._tell(f"action dropped: {self.sink.fault}")
        if self.sink.hopeless:
            raise ConnectionError(f"the sink takes no actions: {self.sink.fault}")
        if now - self._sink_since > self.config.limit:
            raise ConnectionError(
                f"the sink stayed away for {now - self._sink_since:.1f} s: {self.sink.fault}"
            )

    def progress(self) -> str:
        """One line: where the run stands."""
        counts = self.counts
        parts = [f"{counts['actions']:,} actions", f"{self.reached:.1f}/s"]
        for name, found in (
            ("age", self.age), ("inference", self.inference), ("end to end", self.end_to_end)
        ):  # fmt: skip
            if found.count:
                shares = "/".join(f"{1e3 * found.quantile(s):.1f}" for s in (0.5, 0.95, 0.99))
                parts.append(f"{name} {shares} ms")
        parts += [
            f"{name} {counts[name]:,}"
            for name in ("missed", "repeats", "safe", "dropped")
            if counts[name]
        ]
        return "  ".join(parts)

    @property
    def reached(self) -> float:
        """Actions a second so far."""
        return self.counts["actions"] / max(self.seconds, 1e-9)

    def report(self) -> dict[str, Any]:
        """Everything that was counted and measured, fit for JSON; milliseconds."""
        seconds = max(self.ended - self.begun, 1e-9)
        names = ("actions", "repeats", "safe", "dropped", "missed", "troubles")
        return {
            "seconds": round(seconds, 3),
            "rate": self.config.rate,
            "reached": round(self.counts["actions"] / seconds, 2),
            "camera_rate": round(self.camera.rate, 2),
            "messages": {name: self.counts[name] for name in names},
            "age_ms": self.age.summary(),
            "inference_ms": self.inference.summary(),
            "end_to_end_ms": self.end_to_end.summary(),
            "feed": dict(self.camera.counts),
        }


def declared(safe_action: str, zero: Any) -> Any:
    """The safe action as the sink gets it, in the form of `zero`; None holds the last one.

    Raises ValueError where `safe_action` is of the other form, or of another size.
    """
    if safe_action == "hold":
        return None
    if safe_action == "zero":
        return zero
    if isinstance(zero, int):
        if not safe_action.strip().lstrip("-").isdecimal():
            raise ValueError(
                f"safe_action is {safe_action}; this agent's actions are whole numbers"
            )
        return int(safe_action)
    values = np.array([float(part) for part in safe_action.split(",")])
    if values.size != np.size(zero):
        raise ValueError(
            f"safe_action is {safe_action}; this agent's actions are {np.size(zero)} floats: give "
            "as many, with commas between, or hold or zero"
        )
    return values.reshape(np.shape(zero)).tolist()
