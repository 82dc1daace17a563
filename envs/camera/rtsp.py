"""What an RTSP camera answers, before FFmpeg is let at it, which only says whether it opened.

FFmpeg's waits can't be ended by another thread, ours can; so a camera that doesn't answer is never
waited for in there.
"""

from __future__ import annotations

import socket

from envs.camera.sources import SourceLost, address

PORT = 554


def status(url: str, timeout: float) -> str:
    """The camera's answer to being asked for its description: 200 OK, 401 Unauthorized and so on.

    RFC 2326, section 10.2, over TCP; `timeout` seconds at most for the connection and for the
    answer each. 401 may well be no refusal: a camera can ask for more than Basic authentication.
    Raises SourceLost, fit for logs, where there is no such camera.
    """
    parts, host, login = address(url)
    port = parts.port or PORT
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = f"DESCRIBE {bare} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n"
    request += f"Authorization: {login}\r\n\r\n" if login else "\r\n"
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(request.encode())
            head = connection.recv(4096).partition(b"\r\n")[0].decode("latin-1")
    except OSError as error:
        why = error.strerror or str(error)
        raise SourceLost(f"no answer from {host}:{port}: {why}") from None
    version, _, answer = head.partition(" ")
    if not version.startswith("RTSP/"):
        raise SourceLost(f"{host}:{port} answers, but not as an RTSP camera does")
    return answer
