"""The command behind `agents export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from agents.commands import best_option, run_folder
from agents.options import Parser, UsageError

SUFFIXES = (".pt2", ".onnx")


def do_export(words: list[str]) -> None:
    parser = Parser(
        "agents export DIR FILE [--best]",
        "Write a run's policy, from observations to the environment's own actions, into a file: "
        ".pt2 needs torch alone, .onnx is ONNX (pip install -c constraints.txt -e '.[onnx]').",
    )
    parser.add_argument("folder", metavar="DIR", help="Run folder.")
    parser.add_argument("file", metavar="FILE", help="What to write: NAME.pt2 or NAME.onnx.")
    best_option(parser)
    given = parser.parse(words)
    folder, path = run_folder(given["folder"]), Path(given["file"])
    if path.suffix not in SUFFIXES:
        raise UsageError(f"FILE is {str(path)!r}; its name must end in {' or '.join(SUFFIXES)}")
    if path.is_dir():
        raise UsageError(f"FILE is {str(path)!r}, which is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"FILE is {str(path)!r}; there is no folder {str(path.parent)!r}")
    from agents.export import export

    def note(text: str) -> None:
        print(f"agents: {text}", file=sys.stderr)

    notes = export(folder, path, note, best="best" in given)
    for name, value in notes.items():
        print(f"{name:12}  {value if isinstance(value, str | int) else json.dumps(value)}")
