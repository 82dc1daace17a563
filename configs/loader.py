"""Presets and dictionaries to frozen dataclasses, strictly: nothing unknown, nothing mistyped."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from numbers import Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

PRESETS = Path(__file__).parent / "presets"
"""A folder for each algorithm, with a YAML file for each of its presets."""

T = TypeVar("T")

_RATES = ("learning_rate", "actor_learning_rate", "critic_learning_rate")
ELSEWHERE = {
    "lr": _RATES,
    "learning_rate": _RATES,
    "total_timesteps": ("steps",),
    "buffer_size": ("replay_capacity",),
    "train_freq": ("update_every",),
    "train_frequency": ("update_every",),
    "n_envs": ("num_envs",),
    "policy_delay": ("policy_every",),
    "policy_frequency": ("policy_every",),
    "exploration_noise": ("noise_start", "noise_final"),
    "frame_skip": ("action_repeat",),
}
"""What stable-baselines3 and CleanRL call an option, where no likeness leads to our name."""


def algorithms() -> list[str]:
    """Names of the algorithms that have presets."""
    return sorted(path.name for path in PRESETS.iterdir() if path.is_dir())


def presets(algorithm: str) -> list[str]:
    """Names of an algorithm's presets, `default` first. ValueError for an unknown algorithm."""
    if algorithm not in algorithms():
        raise ValueError(unknown("algorithm", algorithm, algorithms()))
    names = sorted(path.stem for path in (PRESETS / algorithm).glob("*.yaml"))
    return sorted(names, key=lambda name: name != "default")


def load_preset(algorithm: str, name: str) -> dict[str, Any]:
    """The flat keys that a preset sets; only `apply` knows whether they exist.

    Raises ValueError for an unknown algorithm or preset, and names the nearest.
    """
    return read_yaml(_preset_path(algorithm, name))


def summary(algorithm: str, name: str) -> str:
    """What a preset is, in one line: the comment that heads its file."""
    first = _preset_path(algorithm, name).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def _preset_path(algorithm: str, name: str) -> Path:
    known = presets(algorithm)
    if name not in known:
        raise ValueError(unknown(f"preset of {algorithm}", name, known))
    return PRESETS / algorithm / f"{name}.yaml"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping. ValueError names the file and the line at fault.

    Two things differ from YAML 1.1: `1e-4` is a number, and a key given twice is an error.
    """
    import yaml

    loader = _yaml_loader()
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # a SafeLoader
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "it does not parse"
        raise ValueError(f"{where} is not valid YAML: {problem}") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{path} must hold lines of `name: value`")
    return value


@cache
def _yaml_loader() -> type[Any]:
    """A SafeLoader that reads `1e-4` as a number and refuses a key that comes twice."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a name", problem_mark=node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    return Loader


def field_types(config: type[Any]) -> dict[str, Any]:
    """The resolved type of each field of a dataclass, in order."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config)}


def apply(configs: Sequence[Any], overrides: Mapping[str, Any]) -> tuple[Any, ...]:
    """New instances of the dataclasses in `configs` with flat `overrides` put in.

    Field names must be unique over all of `configs`. Raises ValueError for a name that none of
    them has (naming the nearest) and for a value outside the field's choices, TypeError for a
    value of another type.
    """
    owner: dict[str, int] = {}
    for position, config in enumerate(configs):
        for field in fields(config):
            if field.name in owner:
                raise TypeError(f"{field.name} is a field of two configs")
            owner[field.name] = position
    changes: list[dict[str, Any]] = [{} for _ in configs]
    for name, value in overrides.items():
        if name not in owner:
            raise ValueError(unknown("option", name, owner))
        position = owner[name]
        kind = field_types(type(configs[position]))[name]
        changes[position][name] = coerce(name, value, kind)
    return tuple(replace(config, **change) for config, change in zip(configs, changes, strict=True))


def to_dict(config: Any) -> dict[str, Any]:
    """Flat plain values of a dataclass, as YAML and JSON hold them."""
    if not is_dataclass(config):
        raise TypeError(f"to_dict takes a dataclass, not {type(config).__name__}")
    return {field.name: getattr(config, field.name) for field in fields(config)}


def from_dict(config: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from plain values; a field that is missing takes its default.

    So that a file of an older version still loads, a field that is added later must have a
    default that means what was done before. Raises like `apply`.
    """
    types = field_types(config)
    for name in values:
        if name not in types:
            raise ValueError(unknown("option", name, types))
    return config(**{name: coerce(name, value, types[name]) for name, value in values.items()})


def coerce(name: str, value: Any, kind: Any) -> Any:
    """`value` as the type `kind`, without loss: 1e6 is an integer, 0.5, True and "3" are not.

    Knows bool, int, float, str, for which a path may come, and Literal. Raises ValueError for a
    value outside the choices, TypeError for one of another type, both in one line.
    """
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return value
        raise ValueError(f"{name} is {value!r}; it must be {_either(choices)}")
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else None
    if kind is int and number is not None and number == number // 1:
        return int(number)
    if kind is float and number is not None:
        try:
            real = float(number)
        except OverflowError:  # a whole number beyond the greatest float
            real = math.inf
        if not math.isfinite(real):
            raise ValueError(f"{name} is {value}; it must be finite")
        return real
    if kind is str and isinstance(value, PathLike):
        value = fspath(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise TypeError(f"{name} is {value!r}; it must be {_KINDS.get(kind, kind)}")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """One line for a name that isn't known: the nearest one, or else all of them."""
    known = list(known)
    near = nearest(name, known)
    if not near and len(known) <= 12:
        near = f"; known: {', '.join(known)}"
    return f"unknown {what} {name!r}{near}"


def nearest(name: object, known: Iterable[Any]) -> str:
    """`; did you mean 'x'?` for the known name nearest to `name`, or nothing.

    What others call an option is near to ours, see `ELSEWHERE`.
    """

    def plain(entry: object) -> str:
        return str(entry).lower().lstrip("-").replace("-", "_")

    options = {plain(entry): str(entry) for entry in known}
    close = [ours for ours in ELSEWHERE.get(plain(name), ()) if ours in options]
    close = close or difflib.get_close_matches(plain(name), options, n=1)
    return f"; did you mean {' or '.join(repr(options[n]) for n in close)}?" if close else ""


def _either(choices: Sequence[Any]) -> str:
    shown = [str(choice) for choice in choices]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def docs(config: type[Any]) -> dict[str, str]:
    """The docstring under each field of a dataclass and its bases, on one line: the help.

    Python keeps no docstring of a field, so they are read from the source.
    """
    import ast
    import inspect
    import textwrap

    found: dict[str, str] = {}
    for base in config.__bases__:
        if is_dataclass(base):
            found |= docs(base)
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            found[statement.target.id] = " ".join(following.value.value.split())
    return found
