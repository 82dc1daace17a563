"""Frozen dataclasses as command-line options: names, defaults and help come from the fields.

argparse, not a library that fills dataclasses: a run needs to know which options were given
(the preset may be chosen later, by the environment), every mistake is to be one line, and
values go through the same checks as the presets' do.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from configs.loader import coerce, docs, field_types, nearest

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


class UsageError(ValueError):
    """The command line is wrong; the message is one line."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are raised, one line each, with the nearest known name."""

    def __init__(self, usage: str, description: str, epilog: str | None = None) -> None:
        prog = re.split(r" (?=[A-Z\[-])", usage, maxsplit=1)[0]
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        # argparse takes -1e1 and -1_000 for options unless this says that they are numbers
        self._negative_number_matcher = re.compile(r"^-(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        self.common = self.add_argument_group("options")
        self.option("--help", "Show this and exit.", action="help")

    def option(self, name: str, meaning: str, metavar: str | None = None, **more: Any) -> None:
        """An option of the first group; one that isn't given leaves nothing in the result."""
        settings = {"default": argparse.SUPPRESS, "help": meaning.replace("%", "%%"), **more}
        if metavar is not None:
            settings["metavar"] = metavar
        names = ("-h", name) if name == "--help" else (name,)
        self.common.add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError for what argparse found."""
        if found := re.match(r"argument ([^\s/]+)\S*: expected one argument", message):
            raise UsageError(f"{found[1]} needs a value")
        if found := re.match(r"argument ([^\s/]+)\S*: ignored explicit argument", message):
            raise UsageError(f"{found[1]} takes no value; its opposite is --no-{found[1][2:]}")
        if found := re.match(r"the following arguments are required: (.*)", message):
            raise UsageError(f"{found[1]} is missing; see {self.prog} --help")
        raise UsageError(re.sub(r"^argument (\S+): ", r"\1: ", message))

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """The options that were given, and the positional arguments, by name.

        Raises UsageError for an unknown option, naming the nearest.
        """
        known = [option for action in self._actions for option in action.option_strings]
        for word in words:
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                positive = "--" + option.removeprefix("--no-")
                near = f"; did you mean {positive!r}?" if positive in known else ""
                near = near or nearest(option, known) or f"; see {self.prog} --help"
                raise UsageError(f"unknown option {option!r}{near}")
        namespace, rest = self.parse_known_args(list(words))
        if rest:
            raise UsageError(f"unexpected argument {rest[0]!r}; see {self.prog} --help")
        return vars(namespace)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size().columns)
        super().__init__(prog, max_help_position=30, width=width)


def flag(name: str) -> str:
    """The option of a field: `learning_rate` is `--learning-rate`."""
    return "--" + name.replace("_", "-")


def add_config(parser: Parser, title: str, config: type[Any], shown: Mapping[str, Any]) -> None:
    """A group with an option for each field of a dataclass.

    `shown` holds the defaults that the help tells. An option that isn't given leaves nothing
    in the result of `Parser.parse`; one that is leaves its text, for `read`.
    """
    group = parser.add_argument_group(title)
    meanings = docs(config)
    for name, kind in field_types(config).items():
        value = shown[name]
        default = ("on" if value else "off") if kind is bool else str(value)
        settings: dict[str, Any] = {
            "dest": name,
            "default": argparse.SUPPRESS,
            "help": f"{meanings[name]} (default: {default})".replace("%", "%%"),
        }
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is Literal:
            settings["metavar"] = "|".join(str(choice) for choice in get_args(kind))
        else:
            settings["metavar"] = _METAVARS[kind]
        group.add_argument(flag(name), **settings)


def read(config: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of those options in `given` that are fields of `config`.

    Raises UsageError, in one line, for a text that is no value of its field.
    """
    types = field_types(config)
    return {
        name: from_text(flag(name), text, types[name])
        for name, text in given.items()
        if name in types
    }


def from_text(option: str, text: Any, kind: Any) -> Any:
    """`text` as the type `kind`: 1e6 and 1_000_000 are whole numbers, too."""
    value = text
    if kind in (int, float):
        for number in (int, float):
            try:
                value = number(text)
                break
            except ValueError:
                continue
    try:
        return coerce(option, value, kind)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
