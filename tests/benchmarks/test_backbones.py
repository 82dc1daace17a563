"""The comparison of encoders: its options are agents train's, its figures those of a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.config import resolve
from agents.options import Parser, add_config, read
from benchmarks.backbones import ENCODERS, figures, rows
from configs.dqn import DQNConfig
from vision import build_encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_its_options_make_the_encoder(name: str) -> None:
    parser = Parser("agents train dqn", "")
    add_config(parser, "agent", DQNConfig, resolve("dqn", None, {}, image=True).flat())
    chosen = resolve("dqn", None, read(DQNConfig, parser.parse(ENCODERS[name].split())), image=True)
    agent = chosen.agent
    assert isinstance(agent, DQNConfig) and agent.encoder == name
    norm = {"norm": agent.encoder_norm} if name == "resnet18" else {}
    assert build_encoder(name, (4, 84, 84), width=agent.encoder_width, **norm).feature_dim > 0


def folder(path: Path, score: float, speed: float) -> Path:
    path.mkdir()
    lines: list[dict[str, float]] = [{"step": 0, "updates": 0, "time": 0.0}]
    lines += [{"step": step, "updates": step, "time": 9 + step / speed} for step in (100, 200, 400)]
    lines += [{"step": 400, "score": float(i), "length": 5, "time": 50.0} for i in range(101)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "result.json").write_text(json.dumps({"mean": score}))
    return path


def test_figures_of_runs_and_their_means(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "1", 10.0, 50.0), folder(tmp_path / "2", 14.0, 50.0)
    # the last 100 games of 0 to 100
    expected = {"score": 10.0, "best": 50.5, "speed": pytest.approx(50.0)}
    assert figures(one) == expected
    made = rows("Breakout", {"nature": [figures(one), figures(two)], "impala": [figures(two)]})
    assert [(row.system, row.value) for row in made[:2]] == [("nature", 12.0), ("impala", 14.0)]
    # t of one degree of freedom times the deviation sqrt(8) over sqrt(2)
    assert made[0].interval == pytest.approx(12.7062 * 2) and made[1].interval is None
    few = figures(two) | {"best": float("nan")}
    assert {row.case for row in rows("E", {"nature": [few]})} == {
        "E, final evaluation", "E, speed while learning"
    }  # fmt: skip
    (one / "metrics.jsonl").write_text('{"step": 1, "updates": 0, "time": 1.0}\n')
    with pytest.raises(SystemExit, match="too few lines with updates"):
        figures(one)
