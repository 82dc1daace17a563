"""What a run tells: one consistent history over kills and resumes."""

from __future__ import annotations

import io
import json
import math
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents import log
from agents.log import Logger


def rows(run_dir: Path) -> list[dict[str, Any]]:
    text = (run_dir / log.METRICS).read_text()
    return [json.loads(line) for line in text.splitlines()]


def quiet(run_dir: Path, start_step: int = 0) -> Logger:
    return Logger(run_dir, 1000, start_step, tensorboard=False, console=False)


def test_lines_of_metrics_and_episodes(tmp_path: Path) -> None:
    with quiet(tmp_path) as logger:
        logger.scalars(10, {"loss": 0.5, "bad": math.nan})
        logger.episode(12, 3.0, 40)
    first, second = rows(tmp_path)
    assert first.pop("time") > 0 and second.pop("time") > 0
    assert first == {"step": 10, "loss": 0.5, "bad": None}
    assert second == {"step": 12, "score": 3.0, "length": 40}


def test_mean_score_is_over_the_last_hundred(tmp_path: Path) -> None:
    logger = quiet(tmp_path)
    assert math.isnan(logger.mean_score)
    for score in range(150):
        logger.episode(score, score, 1)
    assert logger.mean_score == pytest.approx(sum(range(50, 150)) / 100)
    logger.close()


def test_a_resumed_run_has_one_history(tmp_path: Path) -> None:
    with quiet(tmp_path) as logger:
        for step in (10, 20, 30, 40):
            logger.scalars(step, {"loss": step})
            logger.episode(step, step, 1)
    with (tmp_path / log.METRICS).open("a") as stream:
        stream.write('{"step": 50, "lo')  # a kill in mid-line
    with quiet(tmp_path, start_step=20) as logger:
        assert logger.mean_score == 15
        logger.scalars(30, {"loss": 333})
    assert [row["step"] for row in rows(tmp_path)] == [10, 10, 20, 20, 30]
    assert rows(tmp_path)[-1]["loss"] == 333


def test_a_damaged_line_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / log.METRICS
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    assert [row["step"] for row in log.read(path)] == [1, 2]


def test_zeros_that_a_power_cut_left_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / log.METRICS
    path.write_text('{"step": 1}\n' + "\0" * 64)
    assert log.read(path) == [{"step": 1}]


def test_flush_hands_lines_over(tmp_path: Path) -> None:
    logger = quiet(tmp_path)
    logger.scalars(1, {"a": 1})
    logger.flush()
    assert len(rows(tmp_path)) == 1
    logger.close()
    logger.close()  # twice is fine


def test_tensorboard_forgets_what_a_resume_took_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Logger(tmp_path, 100, console=False) as logger:
        for step in (10, 20, 30):
            logger.scalars(step, {"loss": float(step)})
        logger.episode(30, 7.0, 5)
    with Logger(tmp_path, 100, start_step=20, console=False) as logger:
        logger.scalars(25, {"loss": 2.5})
    events = EventAccumulator(str(tmp_path / log.EVENTS))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 10), (20, 20), (25, 2.5)]
    assert events.Scalars("episode/score") == []


def test_a_text_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Logger(tmp_path, 100, console=False) as logger:
        logger.text(0, "config", "| gamma |\n|---|\n| 0.99 |")
    events = EventAccumulator(str(tmp_path / log.EVENTS))
    events.Reload()
    (text,) = events.Tensors("config")
    assert text.step == 0 and text.tensor_proto.string_val == [b"| gamma |\n|---|\n| 0.99 |"]
    assert events.SummaryMetadata("config").plugin_data.plugin_name == "text"


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("agents.log.time.monotonic", lambda: self.now)


def test_without_a_terminal_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    logger = Logger(tmp_path, 10_000, tensorboard=False)
    logger.episode(5, 21.0, 5)
    for step in range(0, 6101, 10):  # 100 steps a second for a minute
        logger.progress(step, loss=0.0123, epsilon=0.5)
        clock.now += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "3,000 of 10,000 steps  100 steps/s  return 21.0  loss 0.0123  epsilon 0.5  1:10 left"
    )
    logger.progress(6_110)
    clock.now += 500  # an evaluation is none of the training's pace
    logger.close()
    assert capsys.readouterr().err.startswith("6,110 of 10,000 steps  100 steps/s")


def test_a_terminal_gets_a_bar_four_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock(monkeypatch)
    logger = Logger(tmp_path, 1000, tensorboard=False)
    logger.episode(1, 8.0, 5)
    drawn = []
    for step in range(101):  # 100 steps a second for a second
        before = len(screen.getvalue())
        logger.progress(step, loss=0.5)
        drawn.append(len(screen.getvalue()) > before)
        clock.now += 0.01
    assert sum(drawn) in (4, 5)
    logger.message("saved")
    logger.close()
    text = screen.getvalue()
    assert "100/1,000" in text and "return 8" in text and "loss 0.5" in text and "saved" in text
    assert "100 steps/s" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (123.456, "123.5"), (2e-5, "2.0e-05")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert log._short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "0:05"), (65, "1:05"), (3725, "1:02:05"), (math.inf, "-:--")]
)
def test_clock(seconds: float, text: str) -> None:
    assert log._clock(seconds) == text


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """As on a full disk: what goes beyond `size` bytes of a file is cut short, then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_full_disk_refuses_is_written_whole_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Logger(tmp_path, 1000) as logger:
        with files_up_to(500):
            for step in range(1, 101):
                logger.scalars(step, {"loss": step / 2})
                if step % 10 == 0:
                    logger.flush()
            sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
            assert 0 < len(rows(tmp_path)) < 100  # and each of them is whole
            assert max(sizes) <= 500
        told = capsys.readouterr().err
        assert told.count("waits for space") == 1
        assert re.search(r"(jsonl|tfevents\S+): File too large; what is logged waits", told)
        logger.flush()
        assert [row["step"] for row in rows(tmp_path)] == list(range(1, 101))
        with files_up_to(500):
            logger.scalars(101, {"loss": 1.0})
            logger.flush()  # a second time, which is told anew
        assert capsys.readouterr().err.count("waits for space") == 1
    assert len(rows(tmp_path)) == 101
    events = EventAccumulator(str(tmp_path / log.EVENTS), {"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 102))


def test_a_log_that_stays_without_space_is_closed(tmp_path: Path) -> None:
    logger = quiet(tmp_path)
    logger.scalars(1, {"loss": 1.0})
    with files_up_to(0):
        logger.close()
    assert rows(tmp_path) == []


def test_a_history_that_cannot_be_taken_back_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / log.METRICS
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with files_up_to(5), pytest.raises(OSError, match=re.escape(f"'{path}'")):
        quiet(tmp_path, start_step=1)
    assert len(rows(tmp_path)) == 2 and len(list(tmp_path.iterdir())) == 1
