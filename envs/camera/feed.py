"""A camera that is always up to date: one thread reads, and only the newest picture is kept.

All times are `time.monotonic`'s: a jump of the system's clock changes nothing here.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from envs.camera.sources import Picture, Source, SourceEnded, SourceLost, opener, public, waiting

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
"""Seconds before the first attempt to reconnect, and at most; each wait doubles the last."""
RATED = 50
"""Pictures over which a camera's rate is told, at most."""
BROKEN = ("half", "noise", "long", "size")
"""Pictures that are dropped, as they are counted."""
LEAST_RATED = 0.5
"""Seconds of pictures from which on it is told, if they are fewer."""


class Frame(NamedTuple):
    """One picture of a camera."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB. Not to be written to."""
    number: int
    """Counts the camera's pictures from 1."""
    time: float
    """When it arrived, by time.monotonic."""

    @property
    def age(self) -> float:
        """Seconds since it arrived."""
        return time.monotonic() - self.time


class Feed:
    """A camera over any source: newest picture only, reconnection, and a watch for frozen feeds.

    stale    seconds without a picture after which the feed counts as lost
    frozen   seconds of one and the same picture after which it counts as frozen; 0 never. Where
             the camera itself tells pictures apart (X-Timestamp), equal ones are no sign of it.
    timeout  seconds to wait for the first picture, and for an answer of the network's
    Pictures of another size than the first are dropped and counted: an agent can't see them.
    """

    def __init__(
        self,
        open_source: Callable[[Counter[str]], Source],
        name: str = "camera",
        *,
        stale: float = 0.5,
        frozen: float = 5.0,
        timeout: float = 10.0,
    ) -> None:
        for option, value in (("stale", stale), ("timeout", timeout)):
            if not value > 0:
                raise ValueError(f"{option} is {value}; it must be above 0 seconds")
        if not frozen >= 0:
            raise ValueError(f"frozen is {frozen}; it must be 0 seconds or more")
        self.name = name
        self.counts: Counter[str] = Counter()
        """Frames, and what was dropped: half, noise, long, size; skipped; and reconnections."""
        self._open_source = open_source
        self._stale, self._frozen, self._timeout = stale, frozen, timeout
        self._source: Source | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._read_last = 0
        self._moved_at = 0.0  # when a picture last differed from the one before
        self._arrivals: deque[float] = deque(maxlen=RATED)
        self._pace = 0.0  # pictures a second that a file asks for; 0 of what is live
        self._fault = ""
        self._broken = 0  # pictures dropped before the newest one came
        self._refused: BaseException | None = None
        self._ended = False
        self._begun = threading.Event()  # what was filmed before waits for its first reader

    def __enter__(self) -> Feed:
        """Open the source and wait for its first picture.

        Raises ConnectionError, which says what was tried, where none comes.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self.name} is open already")
        self._thread = threading.Thread(target=self._run, name=f"camera {self.name}", daemon=True)
        self._thread.start()
        try:
            with self._changed:
                come = self._changed.wait_for(
                    lambda: self._frame or self._refused or self._ended, self._timeout + 1
                )
        except BaseException:  # Ctrl-C: nobody will leave the block
            self.close()
            raise
        if self._frame is None:
            refused, why = self._refused, "it is empty" if self._ended else ""
            self.close()
            if refused is not None and not isinstance(refused, SourceLost):
                raise refused
            if not come:
                dropped = ", ".join(f"{kind} {number:,}" for kind, number in self.counts.items())
                why = f"no picture came within {self._timeout:g} s"
                why += f" (dropped: {dropped})" if dropped else ""
            raise ConnectionError(f"camera {self.name}: {refused or why}")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; a thread that hangs in a driver is left behind after two seconds.

        Where that is OpenCV, the process ends once it has come back, or after `timeout`.
        """
        self._stop.set()
        source = self._source
        if source is not None:
            source.interrupt()
        thread = self._thread
        if thread is not None:
            thread.join(2.0)
            if thread.is_alive():
                atexit.register(_await_return, thread, self._timeout)
        with self._changed:
            self._changed.notify_all()

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3) of every picture."""
        return self.latest().image.shape

    @property
    def rate(self) -> float:
        """Pictures a second, over the newest fifty; 0 while too few came to tell.

        Before a file plays, the rate that it will have.
        """
        with self._changed:
            arrivals = tuple(self._arrivals)
        took = arrivals[-1] - arrivals[0] if arrivals else 0.0
        enough = took >= LEAST_RATED or len(arrivals) == RATED
        return (len(arrivals) - 1) / max(took, 1e-6) if enough else self._pace

    @property
    def ended(self) -> bool:
        """The source has no more pictures, and the last one was read, or is no longer news."""
        frame = self._frame
        if not self._ended or frame is None:
            return self._ended
        return self._read_last == frame.number or (not self._pace and frame.age > self._stale)

    def latest(self) -> Frame:
        """The newest picture, at once, however old; RuntimeError before the camera was entered."""
        if self._frame is None:
            raise RuntimeError(f"{self.name} has not been opened: use it in a `with` block")
        return self._frame

    def read(self, timeout: float | None = None, *, after: int | None = None) -> Frame | None:
        """The newest picture that is newer than number `after`, waiting for it.

        Without `after`: newer than what `read` returned last. None after `timeout` seconds, or
        where no more will come.
        """
        seen = self._read_last if after is None else after

        def ready() -> bool:
            newer = self._frame is not None and self._frame.number > seen
            return newer or self._ended or self._stop.is_set()

        with self._changed:
            if not self._begun.is_set():
                self._begin()
            self._changed.wait_for(ready, timeout)
            frame = self._frame
        if frame is None or frame.number <= seen:
            return None
        self._read_last = frame.number
        return frame

    def trouble(self) -> str:
        """What is wrong with the feed now; empty while all is well, and after a file's end."""
        frame = self._frame
        if self._ended:
            return ""
        if frame is None or frame.age > self._stale:
            age = f"no frame for {frame.age:.1f} s" if frame else "no frame yet"
            broken = self._count_broken() - self._broken
            why = self._fault or (f"{broken:,} that came were broken" if broken else "")
            return f"{age}: {why}" if why else age
        still = frame.time - self._moved_at
        if self._frozen and still > self._frozen:
            return f"the same frame for {still:.1f} s"
        return ""

    def _count_broken(self) -> int:
        return sum(self.counts[kind] for kind in BROKEN)

    def _begin(self) -> None:
        """Let a file play on from its first picture, which is of this moment, too."""
        self._begun.set()
        source = self._source
        if self._frame is not None and source is not None and not source.live:
            self._moved_at = time.monotonic()
            self._frame = self._frame._replace(time=self._moved_at)
            self._arrivals.clear()

    # What follows runs in the reader's thread.

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stop.is_set():
            try:
                self._source = self._open_source(self.counts)
                if self._frame is not None:
                    self.counts["reconnects"] += 1
                wait = self._pump(self._source, wait)
            except SourceEnded:
                with self._changed:
                    self._ended = True
                    self._changed.notify_all()
                return
            except Exception as error:  # whatever a source raises must not end the watch
                self._fault = str(error) or type(error).__name__
                if self._frame is None:
                    with self._changed:
                        self._refused = error
                        self._changed.notify_all()
                    return
            finally:
                if self._source is not None:
                    self._source.close()
                    self._source = None
            self._stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _pump(self, source: Source, wait: float) -> float:
        """Read until the source is lost; returns the wait before the next attempt."""
        due = time.monotonic()
        self._moved_at = math.inf  # whatever a new connection shows first is news
        with self._changed:
            self._arrivals.clear()
        if source.pace:
            self._stale = max(self._stale, 3 / source.pace)
        if not source.live:
            self._pace = source.pace
        while not self._stop.is_set():
            if not source.live and self._frame is not None and not self._begun.is_set():
                self._begun.wait(0.05)
                due = time.monotonic()
                continue
            if source.pace:
                due = max(due + 1 / source.pace, time.monotonic() - 1)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    break
            try:
                picture = source.read()
            except SourceLost as error:
                if self._frame is None:
                    raise
                self._fault = str(error)
                return wait
            self._keep(picture, live=source.live)
            wait = FIRST_WAIT
        return wait

    def _keep(self, picture: Picture, *, live: bool) -> None:
        """Make a picture the newest; of a `live` source, one equal to the last is no news."""
        now, last = picture.time, self._frame
        if last is not None and picture.image.shape != last.image.shape:
            self.counts["size"] += 1
            height, width = picture.image.shape[:2]
            before = f"{last.image.shape[0]}x{last.image.shape[1]}"
            self._fault = f"its pictures are {height}x{width} now, {before} before"
            return
        tells = live and not picture.moved and self._frozen > 0
        first = self._moved_at == math.inf
        if last is None or first or not (tells and np.array_equal(picture.image, last.image)):
            self._moved_at = now
        self.counts["frames"] += 1
        self._fault, self._broken = "", self._count_broken()
        with self._changed:
            self._arrivals.append(now)
            self._frame = Frame(picture.image, 1 if last is None else last.number + 1, now)
            self._changed.notify_all()


def _await_return(thread: threading.Thread, timeout: float) -> None:
    """At the process's end: a thread that came back from OpenCV's C++ later would abort it."""
    end = time.monotonic() + timeout
    while thread.ident in waiting and thread.is_alive() and time.monotonic() < end:
        thread.join(0.05)


def open_camera(source: str | int | Callable[[], Any], **options: Any) -> Feed:
    """A camera for a `with` block, by a device's index, a URL, a path, module:function, a function.

    `options` are Feed's stale, frozen and timeout. Raises ValueError for a text that is none of
    these; entering raises ConnectionError where no picture comes.
    """
    timeout = options.get("timeout", 10.0)
    name = getattr(source, "__name__", None) or public(str(source))
    return Feed(opener(source, timeout), name, **options)
