"""The receiving end: actions that arrive as lines of JSON, of which the newest counts.

Whoever can reach the port can send anything, so every message has a size limit, is checked against
the action space, and where a token is asked for, must bring it. Floats beyond the space's bounds
are taken for the bounds. What fails is dropped, counted, and answered with a line of its own, so
that the sender knows:

    {"refused": "token", "why": "its token is missing or wrong"}
"""

from __future__ import annotations

import hmac
import json
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.actions import Actions

MAX_MESSAGE = 4096
"""Bytes of one message, at most."""
CONNECTIONS = 16
"""Connections at a time."""
IDLE = 60.0
"""Seconds after which a silent connection is closed."""


class Refusal(NamedTuple):
    """Why a message was dropped."""

    kind: str
    """long, malformed, token or action."""
    why: str

    def line(self) -> bytes:
        """The answer to its sender."""
        return json.dumps({"refused": self.kind, "why": self.why}).encode() + b"\n"


class Inbox:
    """The newest valid action; shared by every way in.

    actions  what is taken, in the environment's own terms
    tell     called with one line about what was dropped, at most once a second
    """

    def __init__(
        self,
        actions: Actions,
        token: str = "",
        tell: Callable[[str], None] = print,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Messages by what became of them: taken, long, malformed, token, action."""
        self.fresh = threading.Event()
        """Set by each action that is taken; whoever waits for the next one clears it."""
        self._actions, space = actions, actions.space
        self._token, self._tell = token.encode(), tell
        self._told = -math.inf
        self._lock = threading.Lock()
        if isinstance(space, gymnasium.spaces.Discrete):
            self._newest: Any = 0
        else:
            assert space.shape is not None
            self._newest = np.zeros(space.shape, np.float32)

    def newest(self) -> np.ndarray:
        """The action for one lane: (1,) integers from 0, or (1, *shape) floats."""
        return np.asarray(self._newest)[None]

    def take(self, message: bytes) -> Refusal | None:
        """Take one message; returns why it was dropped, None where it was taken."""
        refusal = self._check(message)
        with self._lock:
            self.counts[refusal.kind if refusal else "taken"] += 1
            now = time.monotonic()
            if refusal is None:
                self.fresh.set()
            elif now - self._told >= 1:
                self._told = now
                dropped = sum(self.counts.values()) - self.counts["taken"]
                self._tell(f"action dropped ({dropped:,} so far): {refusal.why}")
        return refusal

    def _check(self, message: bytes) -> Refusal | None:
        if len(message) > MAX_MESSAGE:
            return Refusal("long", f"it is longer than {MAX_MESSAGE} bytes")
        try:
            content = json.loads(message)
        except (ValueError, RecursionError):
            return Refusal("malformed", f"it is no JSON: {message[:40]!r}")
        if not isinstance(content, dict) or "action" not in content:
            return Refusal("malformed", 'it is no object with an "action"')
        if self._token:
            token = content.get("token")
            given = token.encode("utf-8", "replace") if isinstance(token, str) else b""
            if not hmac.compare_digest(given, self._token):
                return Refusal("token", "its token is missing or wrong")
        wrong = self._take_action(content["action"])
        return Refusal("action", wrong) if wrong else None

    def _take_action(self, own: Any) -> str:
        """Make it the newest; returns what is wrong with it, empty where nothing is."""
        space = self._actions.space
        if isinstance(space, gymnasium.spaces.Discrete):
            if isinstance(own, bool) or not isinstance(own, int):
                return f"action is {str(own)[:40]!r}; expected a whole number"
            action = self._actions.agent(own)
            if not 0 <= action < space.n:
                first, last = self._actions.own(0), self._actions.own(int(space.n) - 1)
                return f"action is {str(own)[:40]}; expected {first} to {last}"
            self._newest = action
            return ""
        try:
            array = np.asarray(own, np.float64)
            if not np.isfinite(array).all():
                return "action holds NaN or infinity"
            self._newest = np.asarray(self._actions.agent(array), np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            return f"action is {str(own)[:40]!r}; expected numbers ({error})"
        return ""


class ActionPort:
    """A TCP port that takes lines of JSON into an inbox, from several connections."""

    def __init__(self, inbox: Inbox, host: str, port: int) -> None:
        self._inbox = inbox
        try:
            self._listener = socket.create_server((host, port))
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConnectionError(
                f"action port {port} on {host}: {why}; --action-port gives another, 0 any free one"
            ) from None
        self.port = int(self._listener.getsockname()[1])
        self._slots = threading.Semaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="actions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(2)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not self._slots.acquire(blocking=False):
                self._inbox.counts["refused connections"] += 1
                connection.close()
                continue
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        pending = b""
        try:
            connection.settimeout(IDLE)
            while data := connection.recv(MAX_MESSAGE):
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        self._take(line, connection)
                if len(pending) > MAX_MESSAGE:  # a line without an end: nothing after it is sure
                    self._take(pending, connection)
                    return
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
            self._slots.release()

    def _take(self, line: bytes, connection: socket.socket) -> None:
        if refusal := self._inbox.take(line):
            with suppress(BlockingIOError):  # a sender that reads no answers gets none
                connection.send(refusal.line(), socket.MSG_DONTWAIT)
