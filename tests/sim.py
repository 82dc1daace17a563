"""A camera-sim for tests, played by a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from envs.camera.sim import Sim
from envs.config import EnvConfig


@contextmanager
def playing(env: str, **options: Any) -> Iterator[Sim]:
    """The Sim of an environment by its name, while it plays."""
    sim, stop = Sim(EnvConfig(env=env), **{"tell": lambda _: None, **options}), threading.Event()
    thread = threading.Thread(target=sim.run, args=[stop])
    thread.start()
    try:
        yield sim
    finally:
        stop.set()
        thread.join(5)
        sim.close()
