"""What a run tells: a metrics file, TensorBoard events, and a progress bar or a line now and then.

metrics.jsonl holds one JSON object a line, each with `step` (agent steps) and `time` (Unix
seconds): lines of scalars, and lines of finished episodes with `score` and `length`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from agents.process import Whole, write_text

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress, TaskID

    from agents.events import Events

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"
EPISODES = 100
"""Episodes in the mean return that is shown."""
BAR_SECONDS = 0.25
LINE_SECONDS = 30.0
FLUSH_SECONDS = 5.0


class Logger:
    """Writes into `run_dir` and onto the console; usable as a context manager.

    Where the disk is full that is said once; what doesn't fit waits in memory, and the run goes on.

    A run that resumes at `start_step` keeps one history: lines and events beyond that step,
    from the time between the checkpoint and the kill, are dropped. So is a torn last line.
    """

    def __init__(
        self,
        run_dir: Path,
        total_steps: int,
        start_step: int = 0,
        tensorboard: bool = True,
        console: bool = True,
    ) -> None:
        self.run_dir = Path(run_dir)
        self._scores: deque[float] = deque(maxlen=EPISODES)
        path = self.run_dir / METRICS
        for line in rewind(path, start_step):
            if isinstance(line.get("score"), int | float):
                self._scores.append(float(line["score"]))
        self._metrics = Whole(path)
        self._waits = False
        self._events: Events | None = None
        if tensorboard:
            from agents.events import Events

            self._events = Events(self.run_dir / EVENTS, start_step)
        self._meter = _Meter(total_steps, start_step)
        self._display: _Bar | _Lines | None = None
        if console:
            self._display = _Bar(self._meter) if sys.stderr.isatty() else _Lines(sys.stderr)
        self._shown: dict[str, float] = {}
        self._step, self._seen = start_step, time.monotonic()
        self._last_flush = time.monotonic()

    @property
    def mean_score(self) -> float:
        """Mean score of the last 100 episodes of the run; NaN before the first."""
        return sum(self._scores) / len(self._scores) if self._scores else math.nan

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the metrics file, and a point of each curve, at agent step `step`."""
        self._write({"step": step, **{name: float(value) for name, value in values.items()}})
        if self._events is not None:
            for name, value in values.items():
                self._events.scalar(name, float(value), step)

    def episode(self, step: int, score: float, length: int) -> None:
        """A whole episode that ended at `step`: its unclipped score, its length in agent steps."""
        self._scores.append(float(score))
        self._write({"step": step, "score": float(score), "length": int(length)})
        if self._events is not None:
            self._events.scalar("episode/score", float(score), step)
            self._events.scalar("episode/length", float(length), step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 for TensorBoard."""
        if self._events is not None:
            self._events.image(name, picture, step)

    def text(self, step: int, name: str, markdown: str) -> None:
        """A text for TensorBoard."""
        if self._events is not None:
            self._events.text(name, markdown, step)

    def progress(self, step: int, **shown: float) -> None:
        """Tell the console where the run stands; `shown` stays until it is given anew.

        May be called at every step: it draws four times a second, or without a terminal
        prints a line every half a minute.
        """
        self._step, self._seen = step, time.monotonic()
        self._shown.update(shown)
        if self._display is None or not self._display.due():
            return
        self._meter.update(step, self._seen)
        with self._hung_up():
            self._display.show(self._state())

    def evaluating(self, done: int, episodes: int) -> None:
        """Tell the console how far an evaluation is, as often as `progress` does."""
        if self._display is not None and self._display.due():
            with self._hung_up():
                self._display.note(f"evaluated {done} of {episodes} episodes")

    def message(self, text: str) -> None:
        """A line on the console, above the progress bar where there is one."""
        if self._display is not None:
            with self._hung_up():
                self._display.message(text)

    @contextmanager
    def _hung_up(self) -> Iterator[None]:
        """Where the terminal is gone, the run goes on without one."""
        try:
            yield
        except OSError:
            self._display = None

    def flush(self) -> None:
        """Hand everything that was logged to the system; call it before a checkpoint."""
        self._last_flush = time.monotonic()
        fault = None
        for file in (self._metrics, self._events):
            try:
                if file is not None:
                    file.flush()
            except OSError as error:
                fault = error
        if fault is not None and not self._waits:
            self.message(f"{fault.filename}: {fault.strerror}; what is logged waits for space")
        self._waits = fault is not None

    def close(self) -> None:
        """Show the last state and close the files. May be called twice."""
        if self._metrics.closed:
            return
        self.flush()
        if self._display is not None:
            self._meter.update(self._step, self._seen)  # an evaluation may have come since
            with self._hung_up():
                self._display.close(self._state())
        self._metrics.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _state(self) -> _State:
        shown = {"return": self.mean_score} if self._scores else {}
        return _State(self._step, self._meter, {**shown, **self._shown})

    def _write(self, line: dict[str, Any]) -> None:
        line["time"] = round(time.time(), 3)
        self._metrics.write((_dumps(line) + "\n").encode())
        if time.monotonic() - self._last_flush > FLUSH_SECONDS:
            self.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; what a kill tore or someone damaged is left out."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for text in lines:
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def rewind(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop the lines beyond `step` and a torn end, atomically; return what stays."""
    rows = read(path)
    kept = [row for row in rows if row["step"] <= step]
    if path.exists():
        write_text(path, "".join(_dumps(row) + "\n" for row in kept))
    return kept


def _dumps(row: Mapping[str, Any]) -> str:
    """A line of JSON; a value that JSON can't say, NaN or an infinity, becomes null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(plain)


class _Meter:
    """Steps a second over the last half minute or so, and the time left at that pace."""

    WINDOW = 30.0

    def __init__(self, total_steps: int, start_step: int) -> None:
        self.total_steps = total_steps
        self._points: deque[tuple[float, int]] = deque([(time.monotonic(), start_step)])

    def update(self, step: int, now: float) -> None:
        self._points.append((now, step))
        while len(self._points) > 2 and now - self._points[1][0] > self.WINDOW:
            self._points.popleft()

    @property
    def rate(self) -> float:
        (then, before), (now, step) = self._points[0], self._points[-1]
        return (step - before) / (now - then) if now > then else 0.0

    @property
    def seconds_left(self) -> float:
        left = max(0, self.total_steps - self._points[-1][1])
        return left / self.rate if self.rate > 0 else math.inf


class _State:
    """What the console is told, as text."""

    def __init__(self, step: int, meter: _Meter, shown: Mapping[str, float]) -> None:
        self.step = step
        self.total = meter.total_steps
        self.rate = f"{meter.rate:,.0f} steps/s" if meter.rate else ""
        self.shown = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
        self.left = _clock(meter.seconds_left)

    def line(self) -> str:
        return f"{self.step:,} of {self.total:,} steps  {self.text()}".rstrip()

    def text(self) -> str:
        left = f"{self.left} left" if self.step < self.total else ""
        return "  ".join(part for part in (self.rate, self.shown, left) if part)


class _Lines:
    """Where there is no terminal: a line every half a minute, and one at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= LINE_SECONDS

    def show(self, state: _State) -> None:
        self.note(state.line())

    def note(self, text: str) -> None:
        self._last = time.monotonic()
        self.message(text)

    def message(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self, state: _State) -> None:
        self.show(state)


class _Bar:
    """A progress bar at the foot of the terminal."""

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter
        self._last = -math.inf
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def due(self) -> bool:
        return time.monotonic() - self._last >= BAR_SECONDS

    def show(self, state: _State) -> None:
        self._last = time.monotonic()
        progress, task = self._started(state)
        progress.update(task, completed=state.step, text=state.text())
        progress.refresh()

    def note(self, text: str) -> None:
        self._last = time.monotonic()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, text=text)
            self._progress.refresh()

    def message(self, text: str) -> None:
        if self._progress is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._progress.console.print(text, markup=False, highlight=False)

    def close(self, state: _State) -> None:
        self.show(state)
        assert self._progress is not None
        self._progress.stop()
        self._progress = None

    def _started(self, state: _State) -> tuple[Progress, TaskID]:
        if self._progress is not None and self._task is not None:
            return self._progress, self._task
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            auto_refresh=False,  # drawn by `show`, so that no thread steals from the learner
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("train", total=state.total, text="")
        return self._progress, self._task


def _short(value: float) -> str:
    """A number in about four characters of meaning."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 0.001 <= abs(value) < 10:
        return f"{value:.3g}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.1e}"


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-:--"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
