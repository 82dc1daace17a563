"""Every fault of a camera, a sink and a clock, over real sockets and processes: what it does.

python -m benchmarks.camera --faults        prints the table
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import gymnasium
import psutil
from rich.console import Console
from rich.table import Table

from agents.live import Live
from agents.live_config import LiveConfig
from agents.player import Player
from benchmarks.stream import Stream
from envs.actions import actions
from envs.camera import View, open_camera, open_sink
from envs.camera.actions import ActionPort, Inbox

RATE, STALE, FROZEN = 20, 0.5, 1.0
"""Actions a second, and the seconds after which a feed is lost, or frozen."""
SETTLE = 3.0
"""Seconds before each fault; memory is compared from there on."""


class Case(NamedTuple):
    """A camera and a sink, and what is done to one of them."""

    camera: str
    begin: Callable[[], Any]
    end: Callable[[], Any]
    """Makes good what `begin` did, as far as that is to be."""
    sink: str = ""
    """Where actions go; nowhere unless given."""
    limit: float = 0.0
    """Seconds after which the loop gives up; 0 stands for ten times the fault's."""


class Noted:
    """A sink that notes when each message came and whether it went out."""

    def __init__(self, sink: Any) -> None:
        self.fault, self.hopeless, self._sink = "", False, sink
        self.sent: list[tuple[float, dict[str, Any], bool]] = []

    def send(self, message: dict[str, Any]) -> bool:
        """Hand the message on."""
        out = self._sink.send(message)
        self.fault, self.hopeless = self._sink.fault, self._sink.hopeless
        self.sent.append((time.monotonic(), message, out))
        return bool(out)

    def close(self) -> None:
        """Close what it hands on to."""
        self._sink.close()

    def first(self, since: float, *, safe: bool) -> float | None:
        """Seconds after `since` of the first message that went out, safe or for a picture."""
        for at, message, out in self.sent:
            if at >= since and out and message["safe"] == safe and (safe or message["age_ms"]):
                return at - since
        return None


@contextmanager
def pictures(fault: str) -> Iterator[Case]:
    """A stream that sends something else."""
    with Stream(rate=30) as stream:
        begin, end = (partial(setattr, stream, "fault", kind) for kind in (fault, ""))
        yield Case(stream.url, begin, end)


@contextmanager
def pace(factor: float) -> Iterator[Case]:
    """A stream that is too fast, or too slow."""
    with Stream(rate=30) as stream:
        begin, end = (partial(setattr, stream, "rate", rate) for rate in (30 * factor, 30))
        yield Case(stream.url, begin, end)


@contextmanager
def dropped() -> Iterator[Case]:
    """A stream that is closed; another takes its port in the end."""
    streams = [Stream(rate=30)]
    port = streams[0].port
    yield Case(streams[0].url, streams[0].close, lambda: streams.append(Stream(30, port)))
    streams[-1].close()


@contextmanager
def killed() -> Iterator[Case]:
    """A camera-sim in a process of its own, killed with -9 and started again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["camera-sim", "--env", "CartPole-v1", "--port", str(port), "--rate", "30"]
    running: list[subprocess.Popen[str]] = []

    def start() -> None:
        command = [sys.executable, "-m", "agents", *words]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        output = running[-1].stdout
        assert output is not None
        output.readline()  # it serves

    def kill() -> None:
        os.kill(running[-1].pid, signal.SIGKILL)
        running[-1].communicate()

    start()
    yield Case(f"http://127.0.0.1:{port}/stream.mjpg", kill, start)
    kill()


@contextmanager
def receiver(back: bool, limit: float = 0.0) -> Iterator[Case]:
    """A receiver of actions that closes its port, for a while or for good."""
    inbox = Inbox(actions(gymnasium.spaces.Discrete(18), "env"))
    ports = [ActionPort(inbox, "127.0.0.1", 0)]
    number = ports[0].port

    def again() -> None:
        if back:
            ports.append(ActionPort(inbox, "127.0.0.1", number))

    with Stream(rate=30) as stream:
        yield Case(stream.url, ports[0].close, again, f"tcp://127.0.0.1:{number}", limit)
    if back:
        ports[-1].close()


@contextmanager
def clock() -> Iterator[Case]:
    """A day back on the wall clock."""
    wall = time.time
    jump = mock.patch("time.time", lambda: wall() - 86_400)
    with Stream(rate=30) as stream:
        yield Case(stream.url, jump.start, jump.stop)


def table(seconds: float, make_player: Callable[[], Player]) -> None:
    """Print what each fault of so many seconds does."""
    kept = min(5.0, seconds / 2)
    cases: dict[str, tuple[AbstractContextManager[Case], str]] = {
        "feed dropped, refused meanwhile": (dropped(), "safe action, reconnects"),
        "feed stalls, connected": (pictures("silent"), "safe action, reconnects after 10 s"),
        "frozen picture": (pictures("still"), "safe action"),
        "half JPEGs": (pictures("half"), "dropped; safe action"),
        "another resolution": (pictures("size"), "dropped; safe action"),
        "no JPEGs": (pictures("noise"), "dropped; safe action"),
        "camera server killed with -9": (killed(), "safe action, reconnects"),
        "camera 10x too fast": (pace(10), "acts on the newest picture"),
        "camera 10x too slow": (pace(0.1), "last action repeated"),
        "sink closed and back": (receiver(True), "actions dropped, none kept"),
        f"sink closed for good, --limit {kept:g}": (receiver(False, kept), "ends, says why"),
        "wall clock a day back": (clock(), "nothing; times go on"),
    }
    found = Table(title=f"faults of {seconds:g} s, {RATE} actions/s, "
                        f"--stale {STALE} --frozen {FROZEN:g}")  # fmt: skip
    for name in ("fault", "behaviour", "safe action after", "recovered after", "memory", "counted"):
        found.add_column(name)
    for name, (case, behaviour) in cases.items():
        with case as made:
            found.add_row(name, behaviour, *_suffered(made, seconds, make_player()))
    Console(width=max(132, Console().width)).print(found)


def _suffered(case: Case, seconds: float, player: Player) -> tuple[str, ...]:
    config = LiveConfig(rate=RATE, limit=case.limit or 10 * seconds, safe_action="3")
    with open_camera(case.camera, stale=STALE, frozen=FROZEN) as feed:
        sink = Noted(open_sink(case.sink or (lambda _: None)))
        view = View(resize=(210, 160))
        loop, stop = Live(player, feed, view, sink, config, tell=lambda _: None), threading.Event()
        ended: list[str] = []

        def run() -> None:
            try:
                ended.append(loop.run(stop))
            except ConnectionError as error:
                ended.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(SETTLE)
        before = psutil.Process().memory_info().rss
        counts = loop.counts | feed.counts
        began = time.monotonic()
        case.begin()
        time.sleep(seconds)
        case.end()
        good = time.monotonic()
        while sink.first(good, safe=False) is None and time.monotonic() < good + 10 and not ended:
            time.sleep(0.01)
        time.sleep(0.5)
        grown = psutil.Process().memory_info().rss - before
        counted = loop.counts | feed.counts
        gave_up = loop.ended - began if ended else None
        stop.set()
        thread.join()
        sink.close()
    times = [message["time"] for _, message, _ in sink.sent]
    assert times == sorted(times), "the times that messages tell must not go back"
    safe, well = sink.first(began, safe=True), sink.first(good, safe=False)
    if safe is not None and safe > seconds:
        safe = None  # the one at the end
    # what the loop counts, and what became of pictures, in the fault's time
    gained = {name: counted[name] - counts[name] for name in counted}
    gained = {name: n for name, n in gained.items() if n > 0 and name not in ("actions", "frames")}
    recovered = f"{well:.2f} s" if well is not None else "never"
    if gave_up is not None:
        recovered = f"ended after {gave_up:.2f} s"
    return (
        f"{safe:.2f} s" if safe is not None else "-",
        recovered,
        f"{grown / 1e6:+.1f} MB",
        ", ".join(f"{name} {n:,}" for name, n in sorted(gained.items())) or "-",
    )
