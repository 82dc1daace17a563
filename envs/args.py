"""Arguments of an environment's own, such as `--env-args '{is_slippery: false, map_name: 8x8}'`."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any


def read(text: str) -> dict[str, Any]:
    """The arguments that a YAML mapping gives by name; none for an empty text.

    `1e-4` is a number. Raises ValueError, in one line, for what is no such mapping.
    """
    import yaml

    told = f"env_args is {text!r}; expected a YAML mapping such as {{is_slippery: false}}"
    try:
        value = yaml.load(text, Loader=_loader())  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{told}: {getattr(error, 'problem', None) or error}") from None
    if value is None and not text.strip():
        return {}
    if not isinstance(value, dict):
        raise ValueError(told)
    for name in value:
        if not isinstance(name, str) or ":" in name:
            spaced = "; a space follows the colon" if isinstance(name, str) else ""
            raise ValueError(f"{told}, and {name!r} is no name{spaced}")
    return value


def written(args: Mapping[str, Any]) -> str:
    """A mapping as the text that `read` takes; TypeError names the value that YAML can't hold."""
    for name, value in args.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise TypeError(
                f"env_args holds {value!r} for {name}; expected numbers, text, true or false, and "
                "lists and mappings of them"
            ) from None
    return json.dumps(dict(args)) if args else ""


def require(
    path: str, make: Callable[..., Any] | None, args: Iterable[str], also: Iterable[str] = ()
) -> None:
    """ValueError, naming the nearest, for an argument that `make` and `also` don't know.

    Where it takes any, or doesn't say what it takes, all pass.
    """
    if "render_mode" in args:
        raise ValueError("env_args holds render_mode, which is set where pictures are needed")
    taken = parameters(make) if make else []
    if not taken or any(p.kind is p.VAR_KEYWORD for p in taken):
        return
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [p.name for p in taken if p.kind in by_name and p.name != "render_mode"]
    known += also
    for name in args:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known) or 'none'}"
            )
            raise ValueError(f"environment {path!r} takes no argument {name!r}; {hint}")


def parameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    """What a callable takes; nothing where it doesn't say, as where it is written in C."""
    try:
        return list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        return []


@cache
def _loader() -> type[Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    return Loader
