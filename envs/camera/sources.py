"""Where pictures come from: devices, streams, video files, folders of images, functions.

A source is read by one thread, which may wait in it; `envs.camera.feed` puts that thread around it.
"""

from __future__ import annotations

import os
import re
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import numpy as np

from envs.find import CALLABLE, find_callable

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Endings of the files that a folder is read for."""
FOLDER_RATE = 20.0
"""Pictures a second of a folder, which has no pace of its own."""
FILE_RATE = 30.0
"""Pictures a second of a video file that does not say."""
FUNCTION_RATE = 30.0
"""Calls a second of a function, at most."""
TAKEN = "expected uint8, (H, W, 3) RGB, or (H, W) or (H, W, 1) grey"
"""What a function may return."""
STREAM_SILENCE = 1.5
"""Seconds that FFmpeg waits for a stream's next picture, at most: a wait of its can't be ended."""
SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")
"""Of addresses that are likely meant where one is unknown."""
_STREAMS = "rtsp_flags;prefer_tcp|fpsprobesize;0"
"""FFmpeg's options: to guess a frame rate, of no use here, it would hold back twenty pictures."""


waiting: set[int] = set()
"""Threads that wait in OpenCV now, where nobody can end that."""


class SourceLost(RuntimeError):
    """The source gives nothing now; it may come back."""


class SourceEnded(RuntimeError):
    """The last picture was read: the end of a file, no fault."""


class Picture(NamedTuple):
    """What a source read."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    time: float
    """When it arrived, by time.monotonic, before it was decoded."""
    moved: bool = False
    """The camera itself says that this is a new picture, though it may look like the last."""


class Source(Protocol):
    """One connection to a camera, read by one thread."""

    pace: float
    """Pictures a second to read; 0 where the source sets the pace itself."""
    live: bool
    """Its pictures are of now: equal ones may be a sign of a freeze."""

    def read(self) -> Picture:
        """The next picture. Raises SourceLost or SourceEnded where there is none."""
        ...

    def interrupt(self) -> None:
        """End a read that waits in another thread, where that can be done."""
        ...

    def close(self) -> None:
        """Let go of it, in the thread that reads."""
        ...


class OpenCVSource:
    """A device, an RTSP or other stream, or a video file, through cv2.VideoCapture."""

    def __init__(self, target: int | str, *, live: bool, timeout: float) -> None:
        import cv2

        self.live = live
        self._status = ""  # what an RTSP camera answered
        self._name = f"device {target}" if isinstance(target, int) else public(target)
        # its warnings say less than the lines here, and so do FFmpeg's; it takes options of that
        # one's from the environment alone, where what stands already stays
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        if isinstance(target, int):
            self._capture = _waited(cv2.VideoCapture, target)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            if live:
                os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _STREAMS)
            if target.startswith("rtsp://"):
                from envs.camera.rtsp import status

                self._status = status(target, timeout)
            # pieces of HLS come seconds apart
            pieces = not live or target.startswith("http")
            silence = timeout if pieces else min(timeout, STREAM_SILENCE)
            options = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(timeout * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(silence * 1000),
            ]  # fmt: skip
            if live:
                # each thread of the decoder holds one picture back
                options += [cv2.CAP_PROP_N_THREADS, 1]
            self._capture = _waited(cv2.VideoCapture, target, cv2.CAP_FFMPEG, options)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceLost(self._why_closed(target))
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.pace = 0.0 if live else rate if 0 < rate <= 1000 else FILE_RATE
        self._read_any = False

    def read(self) -> Picture:
        """The next picture of the capture."""
        import cv2

        whole = _waited(self._capture.grab)
        arrived = time.monotonic()
        image = self._capture.retrieve()[1] if whole else None
        if not whole or image is None:
            if self.live:
                raise SourceLost(f"{self._name} gave no picture")
            if not self._read_any:
                raise SourceLost(
                    f"{self._name} opens, but no picture of it can be decoded: OpenCV's FFmpeg may "
                    "lack its codec, or the file is damaged"
                )
            raise SourceEnded(f"{self._name} ended")
        self._read_any = True
        return Picture(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), arrived)

    def interrupt(self) -> None:
        """Not possible: a capture may be released by the thread that reads it only."""

    def close(self) -> None:
        """Release the capture."""
        self._capture.release()

    def _why_closed(self, target: int | str) -> str:
        if isinstance(target, int):
            found = devices()
            there = f"there are {', '.join(found)}" if found else "there is no /dev/video* here"
            return f"device {target} doesn't open with OpenCV; {there}"
        if self._status and not self._status.startswith("200"):
            return f"it answered {self._status}"
        if self.live:
            scheme = target.partition("://")[0]
            near = "" if scheme in SCHEMES else get_close_matches(scheme, SCHEMES, 1, 0.7)
            hint = f"; did you mean {near[0]}://?" if near else ""
            return f"{self._name} doesn't open with OpenCV's FFmpeg{hint}"
        if not os.path.getsize(target):
            return f"{self._name} is empty: 0 bytes"
        return (
            f"{self._name} is no video that OpenCV's FFmpeg can open: it lacks the codec, or the "
            "file is damaged"
        )


class FolderSource:
    """The images of a folder, in the order of their names (2 before 10)."""

    pace = FOLDER_RATE
    live = False

    def __init__(self, folder: Path, counts: Counter[str]) -> None:
        self._counts = counts
        files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES]
        if not files:
            raise ValueError(f"folder {folder} holds no images ({', '.join(IMAGES)})")
        self._name, self._count = str(folder), len(files)
        self._files = iter(sorted(files, key=_by_number))
        self._read_any = False

    def read(self) -> Picture:
        """The next image; files that can't be decoded are counted and passed over."""
        import cv2

        for path in self._files:
            try:
                data = np.frombuffer(path.read_bytes(), np.uint8)
            except OSError:
                data = np.zeros(0, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
            if image is not None:
                self._read_any = True
                return Picture(image, time.monotonic())
            self._counts["noise"] += 1
        if not self._read_any:
            raise SourceLost(f"none of its {self._count} images can be decoded")
        raise SourceEnded(f"{self._name} ended")

    def interrupt(self) -> None:
        """Not possible, nor needed."""

    def close(self) -> None:
        """Nothing is held open."""


class FunctionSource:
    """A Python function that returns a picture, uint8 (H, W, 3) or (H, W), or None for none."""

    pace = FUNCTION_RATE
    live = True

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def read(self) -> Picture:
        """What the function returns; SourceLost where it raises or returns no picture."""
        try:
            image = self._function()
        except StopIteration:
            raise SourceEnded("the function ended") from None
        except BaseException as error:  # SystemExit would end the reader's thread alone
            from envs.vector import told

            raise SourceLost(f"the function raised {told(error)}") from error
        if image is None:
            raise SourceLost("the function returned None")
        try:
            array = np.asarray(image)
        except ValueError:
            raise SourceLost(
                f"the function returned a ragged {type(image).__name__}; {TAKEN}"
            ) from None
        known = array.dtype == np.uint8 and array.shape[2:] in ((), (1,), (3,))
        if not known or array.ndim < 2 or not array.size:
            raise SourceLost(f"the function returned {array.dtype} of shape {array.shape}; {TAKEN}")
        if array.shape[2:] != (3,):
            array = array.reshape(*array.shape[:2], 1).repeat(3, 2)
        return Picture(
            array.copy(), time.monotonic()
        )  # a copy: some return one buffer again and again

    def interrupt(self) -> None:
        """Not possible, nor needed."""

    def close(self) -> None:
        """Nothing is held open."""


def opener(
    source: str | int | Callable[[], Any], timeout: float
) -> Callable[[Counter[str]], Source]:
    """What opens `source` once, and again after it was lost; ValueError for a text that is none.

    It is called with the counter of what is dropped: "half", "noise", "long", "skipped".

    A device's index or /dev/videoN, rtsp://, http:// or another URL, a video file, a folder of
    images, module:function, or a function.
    """
    if callable(source):
        return lambda _: FunctionSource(source)
    text = str(source).strip()
    if not text:
        raise ValueError("the camera's name is empty; such as 0, rtsp://..., http://... or a file")
    scheme, colon, rest = text.partition("://")
    text = scheme.lower() + colon + rest if colon else text
    if found := re.fullmatch(r"(?:/dev/video)?(\d+)", text):
        return lambda _: OpenCVSource(int(found[1]), live=True, timeout=timeout)
    if re.match(r"https?://", text):
        return lambda counts: _http(text, timeout, counts)
    if "://" in text:
        return lambda _: OpenCVSource(text, live=True, timeout=timeout)
    path = Path(text).expanduser()
    if path.is_dir():
        return lambda counts: FolderSource(path, counts)
    if path.is_file():
        return lambda _: OpenCVSource(str(path), live=False, timeout=timeout)
    if CALLABLE.fullmatch(text):
        function = find_callable(text, "camera")
        return lambda _: FunctionSource(function)
    hint = f"; did you mean http://{text}?" if re.match(r"[\w.-]+:\d+(/|$)", text) else ""
    raise ValueError(
        f"camera {text!r} is no device index (0), no URL (rtsp://, http://), no file or folder "
        f"that exists, and no module:function{hint}"
    )


def public(source: str) -> str:
    """`source` without the user and password that a URL may hold: fit for logs and reports.

    A password may hold @ and /, which a URL should have quoted, so it ends at the last @. What
    looks like a port may be its beginning: rather a path is shortened than a password shown.
    """
    scheme, colon, rest = source.partition("://")
    host = rest.partition("/")[0]
    if "@" in host or ":" in host:
        return scheme + colon + rest.rpartition("@")[2]
    return source


def address(url: str) -> tuple[SplitResult, str, str]:
    """A URL's parts, its host, and the header of Basic authentication, '' without a user.

    Raises SourceLost, fit for logs, where it has no host, or a port that can't be one.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:  # what it quotes may be a part of a password
        raise SourceLost(f"no address: {str(error).partition(' as ')[0]}") from None
    if not host:
        raise SourceLost("it names no host")
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
    return parts, host, f"Basic {b64encode(pair).decode()}" if parts.username else ""


def devices() -> list[str]:
    """The video devices of this machine, as far as the system lists them."""
    return [str(path) for path in sorted(Path("/dev").glob("video*"), key=_by_number)]


def _waited(call: Callable[..., Any], *arguments: Any) -> Any:
    """What `call` returns, marked as a wait in OpenCV."""
    waiting.add(threading.get_ident())
    try:
        return call(*arguments)
    finally:
        waiting.discard(threading.get_ident())


def _http(url: str, timeout: float, counts: Counter[str]) -> Source:
    """An MJPEG stream by our own reader; anything else over HTTP is FFmpeg's."""
    from envs.camera.mjpeg import MjpegSource, NoMjpeg

    try:
        return MjpegSource(url, timeout, counts)
    except NoMjpeg as error:
        try:
            return OpenCVSource(url, live=True, timeout=timeout)
        except SourceLost:
            raise SourceLost(f"{error}, and OpenCV's FFmpeg finds no video in it") from None


def _by_number(path: Path) -> list[tuple[int, str]]:
    """A key that puts frame2 before frame10."""
    return [(int(part or 0), part) if part.isdigit() else (0, part)
            for part in re.split(r"(\d+)", path.name)]  # fmt: skip
