"""Runs that benchmarks make: trained once, resumed where interrupted, and shown in tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from agents.start import create
from benchmarks import games, runs, tasks
from benchmarks.runs import Asked, Result, interval, results, train, worked
from envs.make import resolve

OPTIONS = ["--learning-starts", "64", "--eval-episodes", "2", "--threads", "1"]


def test_a_run_is_resumed_to_its_end_and_then_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begun = create(
        "dqn", None,
        {"env": "CartPole-v1", "steps": 160, "learning_starts": 64, "eval_episodes": 2,
         "out": str(tmp_path / "CartPole-v1-160-s1"), "threads": 1},
    )  # fmt: skip
    for tick in begun.ticks():
        if tick.step == 80:
            break
    begun.save()
    begun.close()
    asked = Asked("CartPole-v1", 160, 1)
    made = train(tmp_path, "dqn", asked, OPTIONS)
    assert made.run == str(begun.run_dir) and "--resume" in capfd.readouterr().out
    assert (made.env, made.steps, made.seed) == asked and len(made.scores) == 2 and made.hours > 0
    assert results(tmp_path) == [made]
    (tmp_path / runs.RESULTS).unlink()  # what is done is found by its own folder, too
    assert train(tmp_path, "dqn", asked, OPTIONS) == made
    assert results(tmp_path) == [made] and capfd.readouterr().out == ""


def test_a_run_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, "dqn", Asked("NoSuchGame", 10, 1), [])
    assert ended.value.code == 2 and results(tmp_path) == []


def test_a_stop_is_no_work(tmp_path: Path) -> None:
    times = [0.0, 10.0, 20.0, 20.0 + runs.GAP, 30.0 + runs.GAP]
    lines = [json.dumps({"step": n, "time": time}) + "\n" for n, time in enumerate(times)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    steps, hours = worked(tmp_path)
    assert steps == [0, 1, 2, 3, 4]
    assert [3600 * hour for hour in hours] == pytest.approx([0, 10, 20, 20, 30])


def result(folder: Path, env: str, steps: int, seed: int, scores: list[float]) -> Result:
    (folder / "result.json").write_text('{"protocol": "nature: of the test"}')
    return Result(env, steps, seed, 1.5, sum(scores) / len(scores), scores, str(folder))


def test_tables_take_each_seed_once(tmp_path: Path) -> None:
    found = [result(tmp_path, "Pong", games.STEPS, seed, [seed, 3.0]) for seed in (1, 2)]
    # the seeds' means are 2 and 2.5: t of one degree of freedom times 0.25
    assert interval(found) == (2.25, pytest.approx(12.7062 * 0.25))
    assert interval(found[:1]) == (2.0, pytest.approx(12.7062))
    told = text(games.table(found))
    for part in ("Pong", "10M", "1.50", "2.2 ± 3.2", "20", "nature: of the test"):
        assert part in told
    solved = result(tmp_path, "Pendulum-v1", 20_000, 1, [-150.0, -160.0])
    failed = result(tmp_path, "Hopper-v5", 300_000, 1, [100.0, 200.0])
    told = text(tasks.table([solved, failed]))
    assert "solved" in told and "3,000 not reached" in told


def text(table: object) -> str:
    console = Console(width=160)
    with console.capture() as shown:
        console.print(table)
    return shown.get()


def test_the_papers_games_are_games() -> None:
    assert all(resolve(game).kind == "atari" for game in games.PAPER)


def test_a_name_that_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["games", "--names", "Pnog"])
    with pytest.raises(SystemExit):
        runs.command_line("A test.", "dqn", {"Pong": 1}, "runs", games.table)
    assert "unknown name 'Pnog'; it must be one of Pong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--table", "--out", "/nowhere"], "no finished run of these in /nowhere"),
        (["--steps", "0"], "argument --steps: 0 is below 1"),
    ],
)
def test_nothing_to_show_or_to_train(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["games", *words])
    with pytest.raises(SystemExit) as ended:
        runs.command_line("A test.", "dqn", {"Pong": 1}, "runs", games.table)
    assert ended.value.code and told in capsys.readouterr().err
