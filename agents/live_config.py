"""The options of `agents run` and `agents camera-sim`, free of heavy imports."""

from __future__ import annotations

import math
from dataclasses import dataclass

LONGEST_TOKEN = 1024
"""Bytes of a token, which must fit into a message."""


@dataclass(frozen=True)
class LiveConfig:
    """How an agent runs on a camera."""

    rate: float = 20.0
    """Actions a second; 0 gives one for each picture, as soon as it comes."""
    sink: str = "stdout"
    """Where actions go: stdout, tcp://HOST:PORT, udp://HOST:PORT or module:function."""
    token: str = ""
    """Token to send with each action; SIGHTLINE_TOKEN in the environment sets it unseen."""
    safe_action: str = "hold"
    """What goes out while there is nothing to see, and at the end: hold (the last action again),
    zero, an action's number, or floats with commas between (--safe-action=-0.5,1)."""
    stale: float = 0.5
    """Seconds without a picture after which the safe action goes out."""
    frozen: float = 5.0
    """Seconds of one and the same picture of a live camera after which the safe action goes out; 0
    never."""
    limit: float = 30.0
    """Seconds without the camera, or without the sink, after which the run ends."""
    max_seconds: float = 0.0
    """Seconds after which the run ends by itself; 0 for no end."""
    epsilon: float = 0.0
    """Share of random actions."""


@dataclass(frozen=True)
class ViewConfig:
    """What is made of the camera's pictures, in this order; an agent that was trained through a
    camera brings its own."""

    undistort: str = ""
    """JSON file with the lens's "matrix" and "distortion", as cv2.calibrateCamera finds them."""
    crop: str = ""
    """What is kept: TOP,LEFT,HEIGHT,WIDTH in pixels."""
    mirror: bool = False
    """Let left and right change places."""
    grey: bool = False
    """Make pictures grey."""
    resize: str = ""
    """Size in the end, HEIGHTxWIDTH in pixels."""


@dataclass(frozen=True)
class SimConfig:
    """An environment as a network camera."""

    port: int = 8090
    """Port of the page and the stream; 0 takes any free one."""
    action_port: int = -1
    """Port for actions over TCP; -1 takes the one after --port."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    rate: float = 0.0
    """Steps and pictures a second; 0 takes the environment's own pace."""
    wait: float = 0.0
    """Seconds that each step waits for an answer to its picture, at most, so that an agent that is
    late now and then sees the game it was trained on; 0 lets time run."""
    quality: int = 90
    """Quality of the JPEGs, 1 to 100."""
    token: str = ""
    """Token that actions must bring; SIGHTLINE_TOKEN in the environment sets it unseen."""
    protocol: str = "nature"
    """Atari only: the protocol that surrounds the game."""
    seed: int = 0
    """Seed of the environment."""
    max_seconds: float = 0.0
    """Seconds after which it ends by itself; 0 for no end."""


def check(config: LiveConfig) -> None:
    """ValueError, in one line, for a value out of range."""
    if not 0 <= config.rate <= 1000:
        raise ValueError(f"rate is {config.rate:g}; it must lie in [0, 1000] actions a second")
    if not 0 <= config.epsilon <= 1:
        raise ValueError(f"epsilon is {config.epsilon:g}; it must lie in [0, 1]")
    for name, least in (("stale", 1e-3), ("frozen", 0.0), ("limit", 1e-3), ("max_seconds", 0.0)):
        value = getattr(config, name)
        if value < least:
            raise ValueError(f"{name} is {value:g}; it must be at least {least:g} seconds")
    _check_token(config.token)
    if config.safe_action not in ("hold", "zero"):
        try:
            found = [float(part) for part in config.safe_action.split(",")]
        except ValueError:
            found = [math.nan]
        if not all(map(math.isfinite, found)):
            raise ValueError(
                f"safe_action is {config.safe_action!r}; expected hold, zero, an action's number, "
                "or floats with commas between"
            )


def check_sim(config: SimConfig) -> None:
    """Likewise, of a camera-sim; its pictures and rates are checked where they are made."""
    if not config.host.strip():
        raise ValueError("host is empty; 127.0.0.1 listens to this machine, 0.0.0.0 to all")
    if config.max_seconds < 0:
        raise ValueError(f"max_seconds is {config.max_seconds:g}; it must be at least 0 seconds")
    _check_token(config.token)


def _check_token(token: str) -> None:
    if len(token.encode()) > LONGEST_TOKEN:
        raise ValueError(
            f"the token has {len(token.encode()):,} bytes; it may have {LONGEST_TOKEN:,}"
        )
