"""The command behind `agents export`."""

from __future__ import annotations

import json

from agents.commands import best_option, new_file, note, run_folder
from agents.options import Parser

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
    folder, path = run_folder(given["folder"]), new_file("FILE", given["file"], SUFFIXES)
    from agents.export import export

    notes = export(folder, path, note, best="best" in given)
    for name, value in notes.items():
        print(f"{name:12}  {value if isinstance(value, str | int) else json.dumps(value)}")
