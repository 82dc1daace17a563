"""From `package.module:name` to what it names, with errors that say what is missing where."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

OUR_PACKAGES = ("agents", "configs", "envs", "replay", "vision")
"""Names that a module of a user's can't have: ours are found first."""

CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""The form of module:function."""


def install(extra: str) -> str:
    """The command that installs one of the extras of pyproject.toml."""
    return f"pip install -c constraints.txt -e '.[{extra}]'"


def look_here() -> None:
    """Let Python import from the working folder, where console scripts do not look."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end, so that it shadows nothing


def find_callable(path: str, what: str, kind: str = "function or class") -> Callable[..., Any]:
    """The class or function at `package.module:name`, its module imported.

    what  what it is for, and kind  what it should be, in the words of the error
    Raises ValueError, naming the nearest, where module or name is missing or can't be called.
    """
    module_name, _, attribute = path.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(
            f"{what} {path!r} names a file; name its module, as Python imports it: "
            f"{dotted}:{attribute}"
        )
    look_here()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise failed(what, path, error) from error  # it is there; what it imports is not
        root = module_name.partition(".")[0]
        if root in OUR_PACKAGES:
            raise ValueError(
                f"{what} {path!r}: {root!r} is the name of one of Sightline's packages, which "
                "hides yours; give your folder another name"
            ) from error
        raise ValueError(
            f"{what} {path!r}: no module {error.name!r} in {os.getcwd()} or on Python's path "
            "(PYTHONPATH); start where it can be imported"
        ) from error
    except (Exception, SystemExit) as error:
        raise failed(what, path, error) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{what} {path!r}: {module_name} has no {attribute!r}{hint}")
    found = getattr(module, attribute)
    if not callable(found):
        raise ValueError(f"{what} {path!r}: {attribute} is no {kind}")
    return found


def failed(what: str, path: str, error: BaseException) -> ValueError:
    """What it raised when it was imported or made, in one line that names it."""
    from envs.vector import told

    return ValueError(f"{what} {path!r} can't be made: {told(error)}")
