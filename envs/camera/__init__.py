"""Cameras: pictures from a device, a stream, files or a function, and what goes out in return.

    from envs.camera import View, open_camera

    with open_camera("http://127.0.0.1:8090/stream.mjpg") as camera:
        frame = camera.read(timeout=1)  # the next one; camera.latest() is the newest

`view` says what is made of a picture, `sources` where it comes from, `feed` keeps the newest,
`sinks` carry actions away; `env` closes the loop as a Gymnasium environment, `sim` as a camera.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "CameraEnv": "envs.camera.env",
    "Feed": "envs.camera.feed",
    "Frame": "envs.camera.feed",
    "Lens": "envs.camera.view",
    "View": "envs.camera.view",
    "open_camera": "envs.camera.feed",
    "open_sink": "envs.camera.sinks",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'envs.camera' has no attribute {name!r}")
