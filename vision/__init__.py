"""Perception: backbones by name, the encoder contract, initialisers. Knows torch, not Gymnasium."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Encoder": "vision.encoder",
    "build_encoder": "vision.encoder",
    "initialise": "vision.init",
    "names": "vision.registry",
    "register": "vision.registry",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vision' has no attribute {name!r}")
