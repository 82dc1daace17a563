"""The benchmark of continuous control runs to its end, on figures that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import control


def test_every_part_of_an_update_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.setattr(control, "WARM", 300)
    monkeypatch.setattr(control, "CAPACITY", 2_000)
    rows = control.parts(tmp_path, rounds=1, threads=1)
    assert {"default: sample", "default: target", "default: act"} <= {row.case for row in rows}
    assert all(row.value > 0 for row in rows)
