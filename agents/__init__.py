"""Algorithms, the training loop, checkpoints and the command line.

from agents import DQN, load

player = DQN.on("CartPole-v1").learn(50_000)      # or, later: load("runs/dqn-CartPole-v1-...")
action = player.act(observation)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "DDPG": "agents.ddpg",
    "DDPGConfig": "configs.ddpg",
    "DQN": "agents.dqn",
    "DQNConfig": "configs.dqn",
    "Player": "agents.player",
    "Session": "agents.session",
    "create": "agents.start",
    "load": "agents.player",
    "resume": "agents.start",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("sightline-rl")
    raise AttributeError(f"module 'agents' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
