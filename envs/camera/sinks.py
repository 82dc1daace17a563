"""Where actions go: lines of JSON on stdout, over TCP or UDP, or calls of a Python function.

A message is one object on one line:

    {"seq": 17, "time": 1738312345.123456, "action": 3, "frame": 40, "age_ms": 6.1, "safe": false}

`seq` counts from 1 what was sent or tried, so a gap tells what was dropped; `time` is Unix time
that never goes back (see `now`); `action` is the environment's own number, or a list of floats;
`frame` is the camera's picture that it answers, `age_ms` how old that was, and `safe` marks the
safe action. `token` comes with it where the receiver asks for one.

A receiver over TCP may answer a message that it doesn't take with a line, such as

    {"refused": "action", "why": "action is 7; expected 0 to 3"}

and what it refuses counts as dropped. "refused": "token" ends the run: no later one would be taken.

Nothing is ever kept here for later: an action that can't go out at once is dropped. What has gone
out may wait in the receiver's system, though, for a receiver that doesn't read; `time` tells it how
old an action is.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

from envs.find import CALLABLE, find_callable

Message = dict[str, Any]

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
"""Seconds between attempts to reconnect; each wait doubles the last."""
PATIENCE = 0.5
"""Seconds that a function is waited for."""
MAX_ANSWER = 4096
"""Bytes of an answer's line, at most."""
_EPOCH = time.time() - time.monotonic()
KINDS = ("stdout", "tcp://HOST:PORT", "udp://HOST:PORT", "module:function")


def now() -> float:
    """Unix time as the process found it, counted on by the monotonic clock: it never goes back."""
    return _EPOCH + time.monotonic()


def message(seq: int, action: Any, frame: int, age: float | None, *, safe: bool) -> Message:
    """A message as above, of this moment.

    action  a number, or a list of floats
    age     seconds since the picture arrived; None where no picture is answered
    """
    return {
        "seq": seq,
        "time": round(now(), 6),
        "action": action,
        "frame": frame,
        "age_ms": None if age is None else round(1e3 * age, 2),
        "safe": safe,
    }


class Sink(Protocol):
    """Takes actions away; never waits, never raises for what goes wrong on the way."""

    fault: str
    """Why the last message was dropped; empty where it went out."""
    hopeless: bool
    """It is gone and can't come back."""

    def send(self, message: Message) -> bool:
        """Whether the message went out; otherwise it was dropped and `fault` says why."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class LineSink:
    """Standard output, a line a message; dropped where the reader doesn't keep up."""

    def __init__(self) -> None:
        self.fault, self.hopeless = "", False

    def send(self, message: Message) -> bool:
        """Write one line, unless that would wait."""
        try:
            if self._full():
                self.fault = "stdout's reader doesn't keep up"
                return False
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            self.fault, self.hopeless = f"stdout is closed: {error}", True
            return False
        self.fault = ""
        return True

    def close(self) -> None:
        """Standard output stays."""

    @staticmethod
    def _full() -> bool:
        try:
            output = sys.stdout.fileno()
        except (OSError, ValueError):  # a notebook's, which never waits
            return False
        return not select.select([], [output], [], 0)[1]


class FunctionSink:
    """A function called with the action alone, an int or a list of floats; what it returns is lost.

    It runs in a thread of its own, but the loop waits for it, `PATIENCE` at most: what it takes is
    the loop's time. Until one that hangs comes back, actions are dropped; so is one for which the
    function raises.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.fault, self.hopeless = "", False
        self._function = function
        self._actions: SimpleQueue[Any] = SimpleQueue()
        self._faults: SimpleQueue[str] = SimpleQueue()
        self._called = 0.0
        self._busy = False
        Thread(target=self._work, name="sink", daemon=True).start()

    def send(self, message: Message) -> bool:
        """Call the function, unless it has not come back from the last call."""
        if self._busy and not self._returned(0):
            return False
        self._busy, self._called = True, time.monotonic()
        self._actions.put((message["action"],))
        return self._returned(PATIENCE) and not self.fault

    def close(self) -> None:
        """End the thread, once the function has come back."""
        self._actions.put(())

    def _returned(self, patience: float) -> bool:
        try:
            self.fault = self._faults.get(timeout=patience)
        except Empty:
            away = time.monotonic() - self._called
            self.fault = f"the sink's function has not returned for {away:.1f} s"
            return False
        self._busy = False
        return True

    def _work(self) -> None:
        while action := self._actions.get():
            fault = ""
            try:
                self._function(*action)
            except BaseException as error:  # SystemExit, too, is its own here
                from envs.vector import told

                fault = f"the sink raised {told(error)}"
            self._faults.put(fault)


class UdpSink:
    """A datagram a message; whether it arrived is known only where the port was closed."""

    def __init__(self, host: str, port: int, token: str = "") -> None:
        self.fault, self.hopeless = "", False
        self._token = token
        family, address = _resolve(host, port, socket.SOCK_DGRAM)
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(address)

    def send(self, message: Message) -> bool:
        """Send one datagram."""
        try:
            self._socket.send(_line(message, self._token))
        except OSError as error:
            self.fault = f"udp: {error.strerror}"
            return False
        self.fault = ""
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TcpSink:
    """A connection that is made again, with growing pauses, whenever it breaks."""

    def __init__(self, host: str, port: int, token: str = "") -> None:
        self.fault, self.hopeless = "", False
        self._token = token
        self._name = f"tcp://{host}:{port}"
        self._family, self._address = _resolve(host, port, socket.SOCK_STREAM)
        self._socket: socket.socket | None = None
        self._connected = False
        self._answer = b""  # a line of the other side's, so far
        self._refusal, self._refused = "", 0  # the last one, and those not told of yet
        self._wait, self._next = FIRST_WAIT, 0.0

    def connect(self, timeout: float) -> None:
        """Wait for the connection; ConnectionError where it isn't made in time."""
        end = time.monotonic() + timeout
        while not self._ready():
            refused = self._next > time.monotonic()  # an attempt failed; here one is enough
            if refused or time.monotonic() >= end:
                self.close()
                raise ConnectionError(f"sink {self.fault or self._name + ': no answer'}")
            assert self._socket is not None
            select.select([], [self._socket], [], max(0.0, end - time.monotonic()))

    def send(self, message: Message) -> bool:
        """Send one line, if the connection stands and takes it whole."""
        if self.hopeless or not self._ready():
            return False
        assert self._socket is not None
        line = _line(message, self._token)
        try:
            sent = self._socket.send(line)
        except BlockingIOError:
            self.fault = f"{self._name} doesn't keep up"
            return False
        except OSError as error:
            self._lost(error.strerror or str(error))
            return False
        if sent < len(line):  # half a line would spoil the next
            self._lost("it doesn't keep up")
            return False
        if self._refused:  # one sent before: answers come later, each for one message
            self._refused -= 1
            self.fault = self._refusal
            return False
        self.fault = ""
        return True

    def close(self) -> None:
        """Close the connection; what was sent before still arrives."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            self._socket.close()
        self._socket, self._connected, self._answer, self._refused = None, False, b"", 0

    def _ready(self) -> bool:
        """Whether the connection stands; makes a step towards it where it doesn't."""
        if self._socket is not None and self._connected:
            return self._heard()
        if self._socket is None:
            if time.monotonic() < self._next:
                return False
            self._socket = socket.socket(self._family, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # as small as the system lets it be: what waits in it is stale
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            result = self._socket.connect_ex(self._address)
            if result not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                self._lost(os.strerror(result))
                return False
        if not select.select([], [self._socket], [], 0)[1]:
            return False
        if failed := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lost(os.strerror(failed))
            return False
        self._connected, self._wait = True, FIRST_WAIT
        return True

    def _heard(self) -> bool:
        """Whether the other side is still there, and takes what it gets."""
        assert self._socket is not None
        try:
            for _ in range(16):
                said = self._socket.recv(4096)
                if said == b"":
                    self._lost("the other side closed the connection")
                    return False
                said = self._answer + said
                whole, _, rest = said.rpartition(b"\n")
                self._answer = rest[:MAX_ANSWER]
                if b'"refused"' in whole:  # nothing else is worth the loop's time
                    for line in whole.split(b"\n"):
                        self._heed(line)
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(error.strerror or str(error))
            return False
        return not self.hopeless

    def _heed(self, line: bytes) -> None:
        """Take in an answer; what is no refusal is thrown away."""
        if b'"refused"' not in line:
            return
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(answer, dict) or not isinstance(answer.get("refused"), str):
            return
        why = str(answer.get("why") or answer["refused"])
        why = "".join(c if c.isprintable() else " " for c in why[:200])
        self._refusal = f"{self._name} refused it: {why}"
        self._refused += 1
        if answer["refused"] == "token":
            self._refusal += " (--token, or SIGHTLINE_TOKEN in the environment)"
            self.hopeless = True
        self.fault = self._refusal

    def _lost(self, why: str) -> None:
        self.close()
        self.fault = f"{self._name}: {why}"
        self._next = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def open_sink(sink: str | Callable[[Any], Any], *, token: str = "", timeout: float = 3.0) -> Sink:
    """The sink by its name: stdout, tcp://, udp://, module:function, or a function.

    Raises ValueError for a name that is none of these, ConnectionError where a TCP connection is
    not made within `timeout` seconds.
    """
    if callable(sink):
        return FunctionSink(sink)
    if sink == "stdout":
        return LineSink()
    if found := re.fullmatch(r"(tcp|udp)://(\[[0-9a-fA-F:]+\]|[^:/\[\]]+):(\d+)/?", sink):
        host, port = found[2].strip("[]"), int(found[3])
        if not 0 < port < 65536:
            raise ValueError(f"sink {sink!r}: port {port} must lie in [1, 65535]")
        if found[1] == "udp":
            return UdpSink(host, port, token)
        tcp = TcpSink(host, port, token)
        tcp.connect(timeout)
        return tcp
    if CALLABLE.fullmatch(sink):
        return FunctionSink(find_callable(sink, "sink"))
    raise ValueError(f"unknown sink {sink!r}; expected {', '.join(KINDS)}")


def _line(message: Message, token: str) -> bytes:
    whole = {**message, "token": token} if token else message
    return json.dumps(whole).encode() + b"\n"


def _resolve(host: str, port: int, kind: int) -> tuple[int, Any]:
    """Family and address, looked up once: a look-up can't be hurried."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    except OSError as error:
        raise ConnectionError(f"sink {host}:{port}: {error.strerror}") from None
    return family, address
