"""A small MJPEG server for tests, which can misbehave on demand."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import cv2
import numpy as np


def jpeg(image: np.ndarray) -> bytes:
    """A JPEG of an (H, W, 3) RGB picture."""
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def flat(value: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture of one grey level, by which a test tells it apart."""
    return np.full((*size, 3), value, np.uint8)


class Stream:
    """Serves flat pictures, one grey level after the other, to each who connects.

    faults, by name: "" well, "silent" (connected, nothing sent), "still" (one picture again and
    again), "half" (JPEGs cut in the middle), "size" (pictures of another size), "noise" (no JPEGs)
    """

    def __init__(self, rate: float = 50.0, port: int = 0) -> None:
        self.fault = ""
        self.rate = rate
        self.connections = 0
        self._open: list[socket.socket] = []
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/stream.mjpg"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and drop every connection."""
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Drop every connection; new ones are welcome."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(
                b"HTTP/1.0 200 OK\r\n"
                b"Content-Type: multipart/x-mixed-replace; boundary=cut\r\n\r\n--cut\r\n"
            )
            value = 0
            while not self._closing.is_set():
                fault = self.fault
                value = value if fault == "still" else (value + 1) % 250
                picture = flat(value, (20, 30) if fault == "size" else (48, 64))
                data = b"no picture at all" if fault == "noise" else jpeg(picture)
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                data = data[: len(data) // 2] if fault == "half" else data
                if fault != "silent":
                    connection.sendall(head + data + b"\r\n--cut\r\n")
                time.sleep(1 / self.rate)
