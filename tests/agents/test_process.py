"""What a run asks of the operating system, where there is little of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents import process


def test_compiled_code_has_a_place_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(process.tempfile, "tempdir", None)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # so that it is as it was afterwards
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    process.keep_compiled_code()
    assert "NUMBA_CACHE_DIR" not in os.environ  # here there is
    monkeypatch.setattr(process, "_takes_files", lambda _: False)
    process.keep_compiled_code()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    process.keep_compiled_code()
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_that_place_is_gone_with_its_process(tmp_path: Path) -> None:
    code = """
from agents import process
process._takes_files = lambda _: False
process.keep_compiled_code()
import replay.tree
"""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    env.pop("NUMBA_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=120)
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_files_or_not(tmp_path: Path) -> None:
    assert process._takes_files(tmp_path / "new" / "one")
    (tmp_path / "file").touch()
    assert not process._takes_files(tmp_path / "file" / "below")
