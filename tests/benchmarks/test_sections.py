"""A benchmark in sections: each may fail, and the others' rows are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.sections_trial import HERE

HOUSE = Path(__file__).parents[2]


def trial(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", HERE, *words]
    return subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, timeout=120)


def test_what_fails_dies_or_hangs_costs_the_others_nothing(tmp_path: Path) -> None:
    done = trial("--json", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    names = [row["case"] for row in rows]
    assert names == ["before it fails", "before it dies", "before it hangs", "works"]
    assert 200 < rows[-1]["value"] < 300
    assert "ValueError: a fault of its own" in done.stderr
    for name in ("fails", "dies", "hangs"):
        assert f"section {name} ended early" in done.stdout


def test_time_that_is_no_time_is_refused() -> None:
    done = trial("--minutes", "0")
    assert done.returncode == 2 and "--minutes: 0 must be above 0" in done.stderr
