"""MJPEG over HTTP: a stream of JPEGs that can be timed out, interrupted, and told apart from noise.

OpenCV's own reader can be neither interrupted nor asked what it dropped, and it shows half a
picture as if it were whole. Here a part counts only if it begins and ends as a JPEG does and
decodes; all others are dropped and counted.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from envs.camera.sources import Picture, SourceLost, address, public

MAX_PART = 16 << 20
"""Bytes of one JPEG, at most."""
MAX_HEAD = 8 << 10
"""Bytes of one part's header lines, at most."""
MAX_PIXELS = 4096 * 4096
_CHUNK = 1 << 16
_KEPT = "/?:@!$&'()*+,;=%-._~[]"
"""What stays as it is in a path and query: all but spaces, control and foreign letters."""


class Part(NamedTuple):
    """One part of the stream: a whole JPEG, and the camera's own time of it where it tells."""

    jpeg: bytes
    stamp: str
    """X-Timestamp as sent; empty without one."""


class PartParser:
    """Cuts a multipart stream into JPEGs, whatever the pieces in which it arrives.

    `counts` says what was dropped: "half" for a JPEG without its end, "long" for a part beyond
    `MAX_PART`, "noise" for one that is no JPEG. After each it goes on at the next boundary.
    """

    def __init__(self, boundary: bytes, counts: Counter[str]) -> None:
        self._mark = b"--" + boundary
        self._buffer = bytearray()
        self._from = 0  # where the search for the next mark goes on
        self._inside = False  # a mark stands before the buffer
        self.counts = counts

    def feed(self, data: bytes) -> list[Part]:
        """The parts that `data` completes: a part is complete once the next mark is there."""
        self._buffer += data
        parts: list[Part] = []
        while True:
            end = self._part_end()
            if end is None:
                break
            body = bytes(self._buffer[:end])
            if self._inside and (part := self._read(body)):
                parts.append(part)
            resume = end + len(self._mark) if self._buffer.startswith(self._mark, end) else end
            del self._buffer[:resume]
            self._inside, self._from = True, 0
        if len(self._buffer) > MAX_PART + MAX_HEAD:
            self.counts["long"] += 1
            self._buffer.clear()
            self._inside, self._from = False, 0
        return parts

    def _part_end(self) -> int | None:
        """Where the part in the buffer ends: at the next mark, or where its length says."""
        whole = self._announced()
        if whole is not None and len(self._buffer) >= whole:
            inside = self._buffer.find(self._mark, 0, whole)
            if inside < 0:
                # the mark comes with the next picture only: waiting for it costs a frame's time
                return whole
        found = self._buffer.find(self._mark, self._from)
        if found >= 0:
            return found
        self._from = max(0, len(self._buffer) - len(self._mark))
        return None

    def _announced(self) -> int | None:
        """Bytes up to the end of the part by its Content-Length, once its header is there."""
        if not self._inside:
            return None
        head = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
        if head < 0:
            return None
        length = _header(bytes(self._buffer[:head]), b"content-length")
        if not length.isdigit() or len(length) > 9:
            return None
        return head + 4 + int(length)

    def _read(self, body: bytes) -> Part | None:
        head, found, jpeg = body.partition(b"\r\n\r\n")
        if not found:
            if body.strip(b"\r\n-"):
                self.counts["noise"] += 1
            return None
        jpeg = jpeg.rstrip(b"\r\n\0")
        if len(jpeg) > MAX_PART:
            self.counts["long"] += 1
        elif not jpeg.startswith(b"\xff\xd8"):
            self.counts["noise"] += 1
        elif not jpeg.endswith(b"\xff\xd9"):
            self.counts["half"] += 1
        else:
            return Part(jpeg, _header(head, b"x-timestamp").decode("latin-1"))
        return None


class MjpegSource:
    """A connection to one stream; ValueError where the address holds something else.

    `read` waits for a picture at most `timeout` seconds; where several have piled up, only the
    newest is decoded. `interrupt`, called by another thread, ends a wait.
    """

    pace = 0.0
    live = True

    def __init__(self, url: str, timeout: float, counts: Counter[str]) -> None:
        self._timeout, self._counts = timeout, counts
        self._connection, self._socket, self._response = _connect(url, timeout)
        try:
            kind = self._response.headers.get_content_type()
            boundary = self._response.headers.get_param("boundary")
            if kind != "multipart/x-mixed-replace" or not isinstance(boundary, str):
                raise NoMjpeg(f"{public(url)} sends {kind}, no MJPEG (multipart/x-mixed-replace)")
        except BaseException:
            self.close()
            raise
        # some cameras announce the boundary with its dashes
        self._parser = PartParser(boundary.strip('"').removeprefix("--").encode(), counts)
        self._stamp = ""

    def read(self) -> Picture:
        """The newest whole picture that has arrived since, waiting for one."""
        while True:
            try:
                data = self._response.read1(_CHUNK)
            except TimeoutError:
                raise SourceLost(f"nothing came for {self._timeout:g} s") from None
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
                raise SourceLost(f"the connection broke: {error}") from None
            if not data:
                raise SourceLost("the camera closed the connection")
            arrived = time.monotonic()
            self._acknowledge()
            parts = self._parser.feed(data)
            while parts:
                part = parts.pop()
                image = decode(part.jpeg, self._counts)
                if image is not None:
                    self._counts["skipped"] += len(parts)
                    moved = bool(part.stamp) and part.stamp != self._stamp
                    self._stamp = part.stamp
                    return Picture(image, arrived, moved)

    def _acknowledge(self) -> None:
        """Acknowledge at once: many cameras hold back the end of a picture (Nagle) until then.

        Linux forgets the wish, so it is told again with every read.
        """
        if hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def interrupt(self) -> None:
        """End the connection, and with it a read that waits in another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self.interrupt()
        with suppress(OSError):
            self._connection.close()
        with suppress(OSError):
            self._socket.close()


class NoMjpeg(ValueError):
    """The address answers, with something that is no MJPEG stream."""


def decode(jpeg: bytes, counts: Counter[str]) -> np.ndarray | None:
    """The picture (H, W, 3) RGB of a JPEG; None, counted as "noise", where it is none."""
    import cv2

    size = jpeg_size(jpeg)
    if size is None or not 0 < size[0] * size[1] <= MAX_PIXELS:
        counts["noise"] += 1
        return None
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        counts["noise"] += 1
    return image


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """(H, W) as the frame header of a JPEG tells them, before anything is decoded."""
    at = 2
    while at + 9 <= len(jpeg):
        if jpeg[at] != 0xFF:
            return None
        marker = jpeg[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", jpeg[at + 5 : at + 9])
            return height, width
        at += 2 + int(struct.unpack(">H", jpeg[at + 2 : at + 4])[0])
    return None


def _connect(
    url: str, timeout: float
) -> tuple[http.client.HTTPConnection, socket.socket, http.client.HTTPResponse]:
    parts, host, login = address(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
    headers = {"Accept": "multipart/x-mixed-replace, image/jpeg;q=0.5"}
    if login:
        headers["Authorization"] = login
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_KEPT)
    where = f"{host}:{connection.port}"
    try:
        connection.request("GET", path, headers=headers)
        opened = connection.sock  # http.client forgets it, and shutting it down ends a read
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceLost(f"no answer from {where}: {why}") from None
    if response.status != 200:
        connection.close()
        hint = f" to {response.headers['Location']}" if response.headers["Location"] else ""
        raise SourceLost(f"{where} answered {response.status} {response.reason}{hint}")
    assert opened is not None
    return connection, opened, response


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""
