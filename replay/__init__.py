"""Replay memory: a time-major ring of frames under a tree of priorities.

The names below load on first use, so that `import replay` costs neither torch nor numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay.features import FeatureReplay
    from replay.prioritized import PrioritizedReplay
    from replay.types import Batch, Field, Observation, Spec

_HOMES = {
    "FeatureReplay": "replay.features",
    "PrioritizedReplay": "replay.prioritized",
    "Batch": "replay.types",
    "Field": "replay.types",
    "Observation": "replay.types",
    "Spec": "replay.types",
}

__all__ = ["Batch", "FeatureReplay", "Field", "Observation", "PrioritizedReplay", "Spec"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
