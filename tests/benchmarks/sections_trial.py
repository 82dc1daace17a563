"""A benchmark whose sections fail in every way; see test_sections.py."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

from benchmarks import sections
from benchmarks.harness import OURS, Row
from benchmarks.sections import Section

HERE = "tests.benchmarks.sections_trial"


def fails(_: float) -> Iterator[Row]:
    yield Row("before it fails", OURS, 1.0, "x")
    raise ValueError("a fault of its own")


def dies(_: float) -> Iterator[Row]:
    yield Row("before it dies", OURS, 2.0, "x")
    os._exit(9)


def hangs(_: float) -> Iterator[Row]:
    yield Row("before it hangs", OURS, 3.0, "x")
    time.sleep(600)


def works(until: float) -> Iterator[Row]:
    yield Row("works", OURS, until - time.time(), "s left")


if __name__ == "__main__":
    sections.GRACE = 0.2
    parts = [
        Section("fails", fails),
        Section("dies", dies),
        Section("hangs", hangs, 1.0),
        Section("works", works),
    ]
    sections.run(HERE, sections.parser("A trial.", 5.0).parse_args(), parts, sys.argv[1:])
