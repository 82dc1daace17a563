"""Denormal numbers count as 0 while a run learns, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.precision import flushing
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
