"""A small RTSP camera for tests: H.264 over RTP within the TCP connection (RFC 2326, 6184)."""

from __future__ import annotations

import base64
import re
import socket
import struct
import threading
import time
from contextlib import suppress

import av

from benchmarks.stream import Server, flat

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:0\r\n"
)


def encoder() -> av.VideoCodecContext:
    """An H.264 encoder that gives each picture at once, whole in itself or from the ones before."""
    made = av.CodecContext.create("libx264", "w")
    made.width, made.height, made.pix_fmt, made.framerate = 64, 48, "yuv420p", 30
    made.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "15"}
    return made


class RtspStream(Server):
    """Serves flat pictures, one grey level after the other, to each who plays rtsp://.

    password  "user:password" that is asked for
    faults, by name: "" well, "silent" (connected, nothing sent), "mute" (not even an answer)
    """

    def __init__(self, rate: float = 30.0, port: int = 0, password: str = "") -> None:
        self.fault = ""
        self.value = self.plays = 0
        """Grey level of the newest picture sent, in [0, 250), and times that the stream began."""
        self._rate, self._password = rate, base64.b64encode(password.encode()).decode()
        super().__init__(port)
        self.url = f"rtsp://127.0.0.1:{self.port}/x"

    def _serve(self, connection: socket.socket) -> None:
        pending = b""
        with suppress(OSError), connection:
            while data := connection.recv(4096):
                pending += data
                while b"\r\n\r\n" in pending and self.fault != "mute":
                    request, _, pending = pending.partition(b"\r\n\r\n")
                    found = re.search(rb"([A-Z]+) rtsp://\S+ RTSP", request)  # or a report (RTCP)
                    if found:
                        connection.sendall(self._answer(found[1].decode(), request.decode()))
                    if found and found[1] == b"PLAY":
                        threading.Thread(target=self._play, args=[connection], daemon=True).start()

    def _answer(self, method: str, request: str) -> bytes:
        more, body, status = "", "", "200 OK"
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif self._password and f"Basic {self._password}" not in request:
            status, more = "401 Unauthorized", 'WWW-Authenticate: Basic realm="test"\r\n'
        elif method == "DESCRIBE":
            more, body = "Content-Type: application/sdp\r\n", SDP
        elif method == "SETUP" and "RTP/AVP/TCP" not in request:
            status = "461 Unsupported Transport"  # UDP
        elif method == "SETUP":
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        number = re.search(r"CSeq: *(\d+)", request)
        head = f"RTSP/1.0 {status}\r\nCSeq: {number[1] if number else 0}\r\nSession: 1\r\n"
        return f"{head}{more}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def _play(self, connection: socket.socket) -> None:
        """Send each unit of H.264 as one packet: these pictures are small enough."""
        self.plays += 1
        video, number = encoder(), 0
        with suppress(OSError):
            while True:
                if not self.fault:
                    self.value = (self.value + 1) % 250
                    picture = av.VideoFrame.from_ndarray(flat(self.value), format="rgb24")
                    stamp = int(time.monotonic() * 90_000) & 0xFFFFFFFF  # its clock for video
                    data = b"".join(bytes(part) for part in video.encode(picture))
                    units = re.split(b"\0?\0\0\1", data)[1:]
                    for unit in units:
                        last = (unit is units[-1]) << 7
                        head = struct.pack(">BBHII", 0x80, 96 | last, number & 0xFFFF, stamp, 1)
                        packet = head + unit
                        connection.sendall(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)
                        number += 1
                time.sleep(1 / self._rate)
