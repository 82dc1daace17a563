"""Presets, and the strict way from YAML to frozen dataclasses; needs nothing but PyYAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.ddpg import DDPGConfig
    from configs.dqn import DQNConfig
    from configs.loader import (
        algorithms,
        apply,
        from_dict,
        load_preset,
        presets,
        summary,
        to_dict,
    )
    from configs.run import RunConfig

__all__ = [
    "DDPGConfig",
    "DQNConfig",
    "RunConfig",
    "algorithms",
    "apply",
    "from_dict",
    "load_preset",
    "presets",
    "summary",
    "to_dict",
]
_HOME = {
    "DDPGConfig": "configs.ddpg",
    "DQNConfig": "configs.dqn",
    "RunConfig": "configs.run",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'configs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME.get(name, "configs.loader")), name)
