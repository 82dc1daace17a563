"""What the benchmarks share: the machine's name, interleaved timing, a table and its JSON."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

OURS = "sightline"
WIDTH = 140
"""Columns of a table that goes to a file."""


@dataclass(frozen=True)
class Row:
    """One figure: `value` in `unit`, of `system` in `case`."""

    case: str
    system: str
    value: float
    unit: str
    interval: float | None = None
    """Half of its 95% interval, where it is a mean."""


class Run:
    """A run of ours on a preset, advanced a number of agent steps at a time."""

    def __init__(self, algorithm: str, preset: str, **options: Any) -> None:
        from agents.start import create

        self.session = create(algorithm, preset, {"steps": 10**9, **options})
        self.ticks = self.session.ticks()
        self.tick = next(self.ticks)

    def advance(self, steps: int) -> float:
        """Agent steps a second over at least `steps` of them."""
        start, begin = self.tick.step, time.perf_counter()
        while self.tick.step < start + steps:
            self.tick = next(self.ticks)
        return (self.tick.step - start) / (time.perf_counter() - begin)


def machine(packages: Sequence[str] = ("torch", "numpy", "numba")) -> dict[str, str]:
    """Processor, usable cores, system, Python, and the versions of `packages` that are there."""
    from agents.precision import cores

    info = {
        "processor": _processor(),
        "cores": str(cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for name in packages:
        try:
            info[name] = version(name)
        except PackageNotFoundError:
            continue
    return info


def interleave(
    cases: Mapping[str, Callable[[], object]], repeats: int, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds a call, by case: one figure a round, the median of `calls` calls in it.

    The cases take turns, in an order that rotates, so that a busy spell of the machine meets all.
    A first round, which compiles and warms caches, is not kept.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(repeats + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            run = cases[name]
            times = []
            for _ in range(calls):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            if turn:
                seconds[name].append(median(times))
    return seconds


def positive(text: str) -> int:
    """An option's whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95% interval of a mean, by Student's t; None of one value."""
    from agents.evaluate import student_t

    if len(values) < 2:
        return None
    return student_t(len(values) - 1) * stdev(values) / len(values) ** 0.5


def report(benchmark: str, rows: Sequence[Row], path: Path | None = None) -> None:
    """Print a table, a line a case and a column a system; write the rows to `path` as JSON."""
    info = machine()
    systems = sorted(dict.fromkeys(row.system for row in rows), key=lambda name: name != OURS)
    table = Table(title=f"{benchmark} on {info['processor']}, {info['cores']} cores")
    table.add_column("case")
    for system in systems:
        table.add_column(system, justify="right")
    table.add_column("unit")
    found = {(row.case, row.unit, row.system): row for row in rows}
    for case, unit in dict.fromkeys((row.case, row.unit) for row in rows):
        table.add_row(case, *(_cell(found.get((case, unit, system))) for system in systems), unit)
    # a file has no width, and a table that is cut to the usual one can't be read
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    if path is not None:
        content = {"benchmark": benchmark, "machine": info, "rows": [asdict(row) for row in rows]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return _digits(row.value) + ("" if row.interval is None else f" ± {_digits(row.interval)}")


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
