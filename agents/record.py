"""Films and live pictures of an agent on a camera, made beside the loop and never in its way."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from agents.live import Acted
from envs.camera.view import View

if TYPE_CHECKING:
    from agents.player import Player

HEIGHT = 420
"""Least height of a picture, in pixels; small ones are enlarged by a whole factor."""
_TICKS = 1000
"""Units of a film's clock to a second."""
_INK, _WARNING = (240, 240, 240), (255, 90, 60)


def overlay(picture: np.ndarray, text: str, *, safe: bool = False) -> np.ndarray:
    """`picture` (H, W, 3) uint8, enlarged, over a bar with `text`; red where it was `safe`."""
    import cv2

    factor = max(1, -(-HEIGHT // picture.shape[0]))
    big = picture.repeat(factor, 0).repeat(factor, 1)
    bar = np.full((32, big.shape[1], 3), 24, np.uint8)
    colour = _WARNING if safe else _INK
    cv2.putText(bar, text, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return np.concatenate([big, bar])


class Recorder:
    """A film that grows while it runs: fragmented MP4, playable up to where a kill ended it.

    Pictures have the times at which they were shown. What the disk refuses ends the film, and
    `fault` says why; the run goes on.
    """

    def __init__(self, path: Path) -> None:
        import av

        self.fault = ""
        self._path = path
        self._file = _own(path)
        flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        self._container = av.open(self._file, "w", format="mp4", options=flags)
        self._stream: Any = None
        self._begun, self._last = 0.0, -1

    def add(self, picture: np.ndarray, at: float) -> None:
        """Add an (H, W, 3) uint8 picture shown at `at`, by time.monotonic."""
        if self.fault:
            return
        import av

        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        if self._stream is not None:
            picture = _on_canvas(picture, self._stream.height, self._stream.width)
        try:
            if self._stream is None:
                self._begun = at
                self._stream = self._container.add_stream("libx264", rate=30)
                self._stream.height, self._stream.width = picture.shape[:2]
                self._stream.pix_fmt = "yuv420p"
                self._stream.codec_context.time_base = Fraction(1, _TICKS)
                self._stream.options = {"preset": "veryfast", "g": "60", "bf": "0"}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            self._last = max(self._last + 1, round((at - self._begun) * _TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (OSError, ValueError) as error:
            self.fault = f"{self._path}: {error}"

    def close(self) -> None:
        """End the film."""
        try:
            if self._stream is not None and not self.fault:
                self._container.mux(self._stream.encode())
            self._container.close()
        except (OSError, ValueError) as error:
            self.fault = self.fault or f"{self._path}: {error}"
        try:
            self._file.close()
        except OSError as error:  # the last bytes of a full disk
            self.fault = self.fault or f"{self._path}: {error}"


def _own(path: Path) -> IO[bytes]:
    """The file, emptied, for this process alone; ValueError where another one writes it."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    with suppress(ImportError):  # Windows keeps no such lock
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(f"--record is {str(path)!r}, which another process writes") from None
    if os.fstat(file.fileno()).st_size:
        file.truncate()
    return file


def _on_canvas(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """`picture` cut to a size, or with darkness right and below: one film has one size."""
    if picture.shape[:2] == (height, width):
        return picture
    canvas = np.full((height, width, 3), 24, np.uint8)
    part = picture[:height, :width]
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas


class Watcher:
    """Makes a picture of the newest turn in a thread of its own, and hands it on.

    explain  a player of the same agent, to lay Grad-CAM of the action's value over what was seen:
             not the one that acts, for a network can't be watched while another thread uses it
    out      each takes a picture (H, W, 3) uint8 and its time
    A turn that comes while the last is still drawn takes the waiting one's place.
    """

    def __init__(
        self, view: View, explain: Player | None, out: list[Callable[[Any, float], None]]
    ) -> None:
        self.fault = ""
        self._explain, self._out = explain, out
        self._view = view
        self._cuts = view != View(view.source, grey=view.grey, resize=view.resize)
        self._turns: queue.SimpleQueue[Acted | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)
        self._thread.start()

    def __call__(self, turn: Acted) -> None:
        """Take a turn, unless the one before is still being drawn."""
        if not self._busy.is_set():
            self._busy.set()
            self._turns.put(turn)

    def close(self) -> None:
        """Finish the turn under way."""
        self._turns.put(None)
        self._thread.join(5)

    def _work(self) -> None:
        while (turn := self._turns.get()) is not None:
            try:
                picture, at = self._draw(turn), time.monotonic()
                for out in self._out:
                    out(picture, at)
            except Exception as error:  # a picture less must not end anything
                self.fault = f"{type(error).__name__}: {error}"
            self._busy.clear()

    def _draw(self, turn: Acted) -> np.ndarray:
        image = turn.frame.image
        player = self._explain
        if player is None or turn.seen is None:
            text = f"{'SAFE ' if turn.safe else ''}action {_told(turn.action)}"
            return overlay(image, f"{text}   frame {turn.frame.number}", safe=turn.safe)
        from agents.explain import look, still

        shown = self._view(image) if self._cuts else image
        shown = shown if shown.ndim == 3 else shown[:, :, None].repeat(3, 2)
        cam, values = look(player.agent, turn.seen, np.asarray(turn.chosen)[None])
        if not isinstance(turn.action, int):
            own = np.ravel(turn.action)
            return still(shown, cam[0], own, -1, [f"action {i}" for i in range(len(own))])
        first = player.own_action(0)
        names = [f"action {first + index}" for index in range(len(values[0]))]
        return still(shown, cam[0], values[0], int(turn.chosen), names)


def _told(action: Any) -> str:
    """An action in few letters."""
    if isinstance(action, int):
        return str(action)
    return " ".join(f"{value:+.2f}" for value in np.ravel(action))
