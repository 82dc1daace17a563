"""A small MJPEG server, which can misbehave on demand: for tests and `benchmarks.camera`."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

import cv2
import numpy as np


def jpeg(image: np.ndarray) -> bytes:
    """A JPEG of an (H, W, 3) RGB picture."""
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def flat(value: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture of one grey level, by which it is told apart."""
    return np.full((*size, 3), value, np.uint8)


class Server:
    """Listens on this machine, and serves each connection in a thread, until it is closed."""

    def __init__(self, port: int = 0) -> None:
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and drop every connection."""
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
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Talk to one of those who connected; an OSError ends it."""
        raise NotImplementedError


class Stream(Server):
    """Serves flat pictures, one grey level after the other, to each who connects.

    faults, by name: "" well, "silent" (connected, nothing sent), "still" (one picture again and
    again), "half" (JPEGs cut in the middle), "size" (pictures of another size), "noise" (no JPEGs)
    """

    def __init__(self, rate: float = 50.0, port: int = 0) -> None:
        self.fault = ""
        self.rate = rate
        super().__init__(port)
        self.url = f"http://127.0.0.1:{self.port}/stream.mjpg"

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(
                b"HTTP/1.0 200 OK\r\n"
                b"Content-Type: multipart/x-mixed-replace; boundary=cut\r\n\r\n--cut\r\n"
            )
            value = 0
            while True:
                fault = self.fault
                value = value if fault == "still" else (value + 1) % 250
                picture = flat(value, (20, 30) if fault == "size" else (48, 64))
                data = b"no picture at all" if fault == "noise" else jpeg(picture)
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                data = data[: len(data) // 2] if fault == "half" else data
                if fault != "silent":
                    connection.sendall(head + data + b"\r\n--cut\r\n")
                time.sleep(1 / self.rate)
