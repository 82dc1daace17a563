"""Denormal numbers count as 0 while a run learns, and nowhere else; and the threads it takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.precision import flushing, threads_for
from agents.start import create


def flushes() -> bool:
    return sys.float_info.min / 2 == 0


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor can't flush them")
def test_a_run_leaves_the_arithmetic_of_its_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    session = create("dqn", "classic", {"env": "CartPole-v1", "steps": 64, "out": str(tmp_path)})
    assert not flushes()
    act = session.agent.act

    def watched(*args: object, **more: object) -> np.ndarray:
        seen.append(flushes())
        return act(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(session.agent, "act", watched)
    for _ in session.ticks():
        assert not flushes()
    session.close()
    assert seen and all(seen) and not flushes()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor can't flush them")
def test_who_flushes_already_goes_on() -> None:
    with flushing():
        with flushing():
            assert flushes()
        assert flushes()
    assert not flushes()


def test_threads_are_those_asked_for_told_or_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 9}, raising=False)
    assert threads_for(7) == 7 and threads_for(0) == 3
    for told, threads in (("2", 2), ("4,2", 4), ("0", 3), ("many", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert threads_for(0) == threads and threads_for(7) == 7
