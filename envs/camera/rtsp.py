"""What an RTSP camera answers where FFmpeg, which only says that it failed, can't open it."""

from __future__ import annotations

import base64
import socket
from urllib.parse import unquote, urlsplit

PORT = 554


def refusal(url: str, timeout: float) -> str:
    """Why `url` doesn't open, in words fit for logs; empty where the camera answers it well.

    Asks for its description (RFC 2326, section 10.2) over TCP, `timeout` seconds at most for the
    connection and for the answer each.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORT
    except ValueError as error:  # a port that is none; it may be the beginning of a password
        return f"no address: {str(error).partition(' could')[0]}"
    if not host:
        return "it names no host"
    where = f"{host}:{port}"
    login = ""
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        login = f"Authorization: Basic {base64.b64encode(pair).decode()}\r\n"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = f"DESCRIBE {bare} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n{login}\r\n"
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(request.encode())
            head = connection.recv(4096).partition(b"\r\n")[0].decode("latin-1")
    except OSError as error:
        return f"no answer from {where}: {error.strerror or error}"
    version, _, status = head.partition(" ")
    if not version.startswith("RTSP/"):
        return f"{where} answers, but not as an RTSP camera does"
    return "" if status.startswith("200") else f"{where} answered {status}"
