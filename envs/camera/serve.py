"""Pictures over HTTP: a page to look at, an MJPEG stream, a status, and a way in for actions."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from envs.camera.actions import MAX_MESSAGE, Inbox

REQUESTS = 64
"""Requests at a time, streams among them."""
PATIENCE = 10.0
"""Seconds that a stalled reader or writer is waited for."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ margin: 0; background: #181818; color: #ddd; font: 16px/1.5 system-ui, sans-serif;
        text-align: center }}
img {{ height: 80vh; max-width: 96vw; margin-top: 3vh; image-rendering: pixelated }}
p {{ margin: 1vh }} b {{ color: #f0aa3c; font-variant-numeric: tabular-nums }}
</style>
<img src="/stream.mjpg" alt="live camera">
<p>{title} &nbsp; <span id="status">...</span></p>
<script>
async function tell() {{
  try {{
    const status = await (await fetch("/status")).json();
    document.getElementById("status").innerHTML = Object.entries(status.shown)
      .map(([name, value]) => `${{name}} <b>${{value}}</b>`).join(" &nbsp; ");
  }} catch (error) {{ document.getElementById("status").textContent = "gone"; }}
}}
setInterval(tell, 500); tell();
</script></html>
"""


class Broadcast:
    """The newest JPEG, for everybody who watches; nobody can hold it up."""

    def __init__(self) -> None:
        self.closed = False
        self.watchers = 0
        self._jpeg, self._number, self._time = b"", 0, 0.0
        self._changed = threading.Condition()

    def put(self, jpeg: bytes) -> None:
        """Show a new picture."""
        with self._changed:
            self._jpeg, self._number, self._time = jpeg, self._number + 1, time.time()
            self._changed.notify_all()

    def wait(self, after: int, timeout: float) -> tuple[bytes, int, float] | None:
        """(JPEG, number, Unix time) of the newest picture after number `after`; None in vain."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > after or self.closed, timeout)
            if self.closed or self._number <= after:
                return None
            return self._jpeg, self._number, self._time

    def close(self) -> None:
        """End every stream."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def encode(image: np.ndarray, quality: int) -> bytes:
    """A JPEG of an (H, W, 3) uint8 RGB picture; quality in [1, 100]."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1])


class PictureServer:
    """Serves a broadcast at / (a page), /stream.mjpg, /frame.jpg and /status.

    status  called for each /status: what to send as JSON; its "shown" stands on the page
    inbox   takes what is posted to /action; without one there is no such address
    Raises ConnectionError where the port is taken.
    """

    def __init__(
        self,
        broadcast: Broadcast,
        title: str,
        status: Callable[[], Mapping[str, Any]],
        *,
        host: str,
        port: int,
        inbox: Inbox | None = None,
    ) -> None:
        handler = _handler(broadcast, title, status, inbox)
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise ConnectionError(
                f"port {port} on {host}: {error.strerror}; --port gives another, 0 any free one"
            ) from None
        self.port = int(self._server.server_address[1])
        self._broadcast = broadcast
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[0.1], name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._broadcast.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.Semaphore(REQUESTS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer who goes away in the middle is no news."""


def _handler(
    broadcast: Broadcast,
    title: str,
    status: Callable[[], Mapping[str, Any]],
    inbox: Inbox | None,
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE
        protocol_version = "HTTP/1.0"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/":
                self._answer("text/html; charset=utf-8", PAGE.format(title=title).encode())
            elif path == "/stream.mjpg":
                self._stream()
            elif path == "/frame.jpg" and (found := broadcast.wait(0, PATIENCE)):
                self._answer("image/jpeg", found[0])
            elif path == "/status":
                self._answer("application/json", json.dumps(status()).encode())
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if inbox is None or self.path != "/action":
                self.send_error(404)
            elif not length.isdigit() or len(length) > 6 or int(length) > MAX_MESSAGE:
                inbox.take(bytes(MAX_MESSAGE + 1))
                self.send_error(413)
            elif self.headers.get_content_type() != "application/json":
                # a foreign page in the browser can post forms here, but no JSON unasked
                self.send_error(415, "send application/json")
            elif refusal := inbox.take(self.rfile.read(int(length))):
                code = 403 if refusal.kind == "token" else 400
                self._answer("application/json", refusal.line(), code)
            else:
                self._answer("application/json", b"{}")

        def _answer(self, kind: str, content: bytes, code: int = 200) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def _stream(self) -> None:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # a slow viewer is to miss pictures, not to get old ones
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            number = 0
            broadcast.watchers += 1
            try:
                while not broadcast.closed:
                    found = broadcast.wait(number, 1.0)
                    if found is None:
                        continue
                    jpeg, number, at = found
                    head = (
                        f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
                        f"X-Timestamp: {at:.6f}\r\n\r\n"
                    )
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
            finally:
                broadcast.watchers -= 1

    return Handler
