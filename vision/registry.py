"""Encoders by name: one decorator, one dict; a name twice raises, an unknown one names the near."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from vision.encoder import Encoder

E = TypeVar("E", bound="Callable[..., Encoder]")

_ENCODERS: dict[str, Callable[..., Encoder]] = {}
_MODULES = (
    "vision.backbones.nature",
    "vision.backbones.impala",
    "vision.backbones.drq",
    "vision.backbones.mlp",
    "vision.backbones.flat",
    "vision.backbones.ddpg",
    "vision.backbones.vgg",
    "vision.backbones.resnet",
)


def register(name: str) -> Callable[[E], E]:
    """Decorator that makes an encoder known as `name`; ValueError if it is taken.

    Decorates a class, or a function, whose arguments are the observation shape, `width`, and the
    encoder's own options by name.
    """

    def add(build: E) -> E:
        if name in _ENCODERS:
            taken = getattr(_ENCODERS[name], "__name__", "another")
            raise ValueError(f"the encoder name {name!r} is taken by {taken}")
        _ENCODERS[name] = build
        return build

    return add


def names() -> list[str]:
    """Every registered encoder's name, sorted."""
    for module in _MODULES:
        import_module(module)
    return sorted(_ENCODERS)


def summary(name: str) -> str:
    """What the encoder called `name` is, in one line: the first of its docstring."""
    return (inspect.getdoc(find(name)) or "").partition("\n")[0]


def find(name: str) -> Callable[..., Encoder]:
    """What builds the encoder called `name`; ValueError names the nearest."""
    return _ENCODERS[choose("no encoder is called", name, names())]


def choose(what: str, value: str, known: Sequence[str]) -> str:
    """`value`, which must be among the known names; ValueError names the nearest, and all.

    what  how the error begins, such as "no head is called"
    """
    if value in known:
        return value
    # what has less in common only misleads
    near = difflib.get_close_matches(str(value).lower(), known, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? Known" if near else "known"
    raise ValueError(f"{what} {value!r}; {hint}: {', '.join(known) or 'none'}")
