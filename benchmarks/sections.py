"""A benchmark in sections: what fails, hangs or spoils its process costs the others nothing.

The sections run one after the other in a process of their own, which writes each row down as it
comes. Where it ends early (a fault, or the alarm of a section that took too long), another goes on
with the sections after that one.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, report

GRACE = 15.0
"""Seconds that the process of the sections gets beyond the end of time."""


@dataclass(frozen=True)
class Section:
    """A part of a benchmark."""

    name: str
    run: Callable[[float], Iterator[Row]]
    """Takes the end of its time, on the clock of `time.time`, and yields rows until then."""
    most: float = math.inf
    """Seconds that it gets."""


def parser(about: str | None, minutes: float) -> argparse.ArgumentParser:
    """The options that every benchmark of sections has."""
    made = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    made.add_argument("--minutes", type=_minutes, default=minutes, help="all of it ends by then")
    made.add_argument("--quick", action="store_true", help="shrink everything, to try the script")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    for name, kind in (("--rows", Path), ("--until", float), ("--sections", str)):
        made.add_argument(name, type=kind, help=argparse.SUPPRESS)  # to the process of sections
    return made


def run(
    module: str, options: argparse.Namespace, sections: Sequence[Section], words: Sequence[str]
) -> None:
    """Run the sections, print the table, write the JSON; `words` are the command's own.

    module  what `python -m` calls
    """
    if options.rows is not None:
        asked = options.sections.split(",")
        _work([section for section in sections if section.name in asked], options)
        return
    until = time.time() + 60 * options.minutes
    left = [section.name for section in sections]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        while left and time.time() < until:
            command = [sys.executable, "-m", module, *words, "--rows", str(rows)]
            command += ["--until", str(until), "--sections", ",".join(left)]
            process = subprocess.Popen(command)
            try:
                code = process.wait(until - time.time() + GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            begun = [line["begun"] for line in _read(rows) if "begun" in line]
            if not code or not begun:
                break
            print(f"section {begun[-1]} ended early ({code}); what follows it goes on", flush=True)
            left = left[left.index(begun[-1]) + 1 :] if begun[-1] in left else []
        found = [Row(**line) for line in _read(rows) if "begun" not in line]
    report(module.rpartition(".")[2], found, options.json)


def _work(sections: Sequence[Section], options: argparse.Namespace) -> None:
    for section in sections:
        left = min(section.most, options.until - time.time())
        if left <= 0:
            print(f"left out for want of time: {section.name}", flush=True)
            continue
        _write(options.rows, {"begun": section.name})
        signal.alarm(math.ceil(left + GRACE / 2))  # whatever it waits for
        try:
            for row in section.run(time.time() + left):
                _write(options.rows, asdict(row))
                print(f"{row.case}  [{row.system}]  {row.value:,.4g} {row.unit}", flush=True)
        except Exception:  # noqa: BLE001 (whatever it is, and this process may be spoilt)
            traceback.print_exc()
            sys.exit(1)
        finally:
            signal.alarm(0)


def _read(rows: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []


def _write(rows: Path, line: dict[str, Any]) -> None:
    with rows.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e4:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value
