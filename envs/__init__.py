"""Environments: a name becomes lanes that are stepped together."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from envs.config import EnvConfig

# Eager, though light: a lazy `make` would be shadowed by its own module of the same name.
from envs.make import make
from envs.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from envs.vector import EnvFault, Episode, Step, VectorEnv

__all__ = [
    "PROTOCOLS",
    "EnvConfig",
    "EnvFault",
    "Episode",
    "Protocol",
    "Step",
    "VectorEnv",
    "make",
]

_LAZY = ("EnvFault", "Episode", "Step", "VectorEnv")  # envs.vector brings NumPy


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module("envs.vector"), name)
    raise AttributeError(f"module 'envs' has no attribute {name!r}")
