"""Ranges that options must lie in, each refused in one line that names option and value."""

from __future__ import annotations

from typing import Any


def at_least(config: Any, least: float, *names: str) -> None:
    """ValueError for the first of the options that is below `least`, or NaN."""
    for name in names:
        if not getattr(config, name) >= least:
            bound = "0 or more" if least == 0 else f"at least {least}"
            raise ValueError(f"{name} is {getattr(config, name)}; it must be {bound}")


def above_zero(config: Any, *names: str) -> None:
    """ValueError for the first of the options that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be above 0")


def shares(config: Any, *names: str) -> None:
    """ValueError for the first of the options that is outside [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must lie in [0, 1]")
