"""Films in H.264: of a fixed rate and whole in the end, or growing while it runs."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from agents.process import write_bytes

HEIGHT = 420
"""Least height of a picture, in pixels."""
_TICKS = 1000
"""Units of a growing film's clock to a second."""


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture (H, W, 3), by a whole factor, so that a player shows pixels and not blur."""
    factor = max(1, -(-HEIGHT // picture.shape[0]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def numbered(folder: Path, suffix: str) -> Path:
    """A path for the next file NNN.suffix in a folder, which is made where there is none."""
    folder.mkdir(exist_ok=True)
    taken = [int(p.stem) for p in folder.glob(f"*{suffix}") if p.stem.isdecimal()]
    return folder / f"{max(taken, default=0) + 1:03d}{suffix}"


class Film:
    """A film that pictures are added to, small ones enlarged; a context manager."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = Fraction(rate).limit_denominator(1000)
        self._stream: Any = None

    def __enter__(self) -> Film:
        import av

        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.path.parent} to write the video into")
        if self.path.suffix != ".mp4":
            raise ValueError(f"video is {self.path.name!r}; its name must end in .mp4")
        # in memory until it is whole: on a full disk PyAV's own files end the process
        self._content = io.BytesIO()
        self._container = av.open(self._content, "w", format="mp4")
        return self

    def add(self, picture: np.ndarray) -> None:
        """Add one (H, W, 3) uint8 picture."""
        frame = _frame(enlarged(picture))
        if self._stream is None:
            self._stream = _stream(self._container, frame, self.rate)
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        if self._stream is not None:
            write_bytes(self.path, self._content.getvalue())


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
        if self._stream is not None:
            picture = _on_canvas(picture, self._stream.height, self._stream.width)
        try:
            frame = _frame(picture)
            if self._stream is None:
                self._begun = at
                self._stream = _stream(self._container, frame, 30, g="60", bf="0")
                self._stream.codec_context.time_base = Fraction(1, _TICKS)
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


def _frame(picture: np.ndarray) -> Any:
    """A picture for the encoder; H.264 with 4:2:0 colour wants even sides."""
    import av

    picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


def _stream(container: Any, frame: Any, rate: Fraction | int, **options: str) -> Any:
    """The container's stream, of the size of its first frame."""
    # half of the usual preset's time, for a seventh more bytes
    options |= {"preset": "veryfast"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width, stream.pix_fmt = frame.height, frame.width, "yuv420p"
    return stream


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
