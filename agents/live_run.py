"""`agents run`: a run folder, a camera and a sink put together, watched, and reported on."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from agents import config as configuration
from agents.errors import StorageError
from agents.film import Recorder, numbered
from agents.live import Live, declared
from agents.live_config import LiveConfig, ViewConfig
from agents.process import stoppable, write_text
from agents.watch import Watcher
from envs.actions import Actions
from envs.camera.feed import Feed, open_camera
from envs.camera.sinks import open_sink
from envs.camera.view import Lens, View, lens, saved

if TYPE_CHECKING:
    from agents.player import Player

HEADROOM = 1.1
"""Time that an action is given, as a multiple of what it takes when nothing else runs."""
ATTEMPTS = 3
"""Times that a speed is measured before a rate is refused: something else may have run."""


def run_live(
    folder: Path,
    source: str,
    config: LiveConfig,
    view: View | None = None,
    *,
    record: Path | None = None,
    show: bool = False,
    explain: bool = False,
    report: Path | None = None,
    best: bool = False,
) -> dict[str, Any]:
    """Run a run folder's agent on a camera until it is stopped; returns the report.

    The report is also written to `report`, or as live/NNN.json in the run folder, once the loop has
    begun: where it was stopped, the feed ended or time was up, and where the ConnectionError of a
    feed or sink that stayed away ended it. What is refused beforehand leaves none.

    Raises ValueError for a view that is not the agent's, for pictures that it can't see and for a
    rate that this machine doesn't reach; ConnectionError for a camera or sink that doesn't open, or
    that stayed away for longer than the limit.
    """
    view = agents_view(folder, view)
    chosen = configuration.load(folder)
    is_film = os.path.isfile(source)
    if record is not None and is_film and record.exists() and record.samefile(source):
        raise ValueError(f"--record is {str(record)!r}, the film that is the camera; name another")
    line = Line()
    with ExitStack() as stack:
        # camera and sink first: what is wrong with them is known before the agent is loaded
        feed = open_camera(source, stale=config.stale, frozen=config.frozen)
        stack.enter_context(feed)
        _see(feed, view)
        sink = open_sink(config.sink, token=config.token)
        stack.callback(sink.close)
        pace = f" at {feed.rate:g} frames/s" if feed.rate else ""
        line.tell(f"camera {feed.name}: {_size(feed.shape)}{pace}; loading the agent")
        from agents.explain import Painter
        from agents.player import load

        player = load(folder, best=best)
        _require_image(player, folder)
        _check_fit(player, feed, view)
        zero = _zero(player.actions)
        _check_safe_action(player.actions, config, zero)
        encoder = chosen.agent.encoder
        seer = load(folder, best=best).agent if explain else None
        paint = None if seer is None else Painter(seer, player.actions, encoder)
        live = Live(player, feed, view, sink, config, zero=zero, tell=line.tell)
        _check_rate(live, chosen.run.threads)
        recorder, out = _outlets(stack, feed, record, show, line.tell)
        watcher = None
        if out:
            live.watch = watcher = Watcher(view, player.actions, paint, out)
            stack.callback(watcher.close)
        asked = f"{config.rate:g}/s" if config.rate else "one for each picture"
        line.tell(f"actions to {config.sink}, {asked}; Ctrl-C ends it")
        fault: ConnectionError | None = None
        with stoppable("no safe action went out") as stop:
            stack.callback(line.close)
            line.follow(live, stack)
            try:
                end = live.run(stop)
            except ConnectionError as error:
                fault, end = error, str(error)
        result = {
            "agent": str(folder), "camera": feed.name, "sink": config.sink, "end": end,
            **live.report(),
        }  # fmt: skip
    for part in (recorder, watcher):
        if part is not None and part.fault:
            line.tell(f"the film is not whole: {part.fault}")
    path = report or folder / "live"
    try:
        path = report or numbered(folder / "live", ".json")
        write_text(path, json.dumps(result, indent=1) + "\n")
    except OSError as error:
        line.tell(_text(result))
        raise StorageError(f"the report {path} can't be written: {error.strerror}") from None
    if fault is not None:
        line.tell(f"report: {path}")
        raise fault
    return {**result, "report": str(path), "text": _text(result)}


def agents_view(folder: Path, given: View | None) -> View:
    """The view that an agent acts through: its own, or the given one where it has none.

    Raises ValueError, naming what differs, where something is given that is not so in its own.
    """
    own = saved(folder)
    if own is None or given is None:
        return own or given or View()
    plain, found = View(), []
    for name in ("undistort", "crop", "mirror", "grey", "resize"):
        here, there = getattr(given, name), getattr(own, name)
        if here not in (getattr(plain, name), there):
            found.append(f"{name} was {_told(there)}, not {_told(here)}")
    if found:
        raise ValueError(
            f"the agent brings the view that it was trained through, where {', '.join(found)}; "
            "leave that out"
        )
    return own


def read_view(options: ViewConfig) -> View | None:
    """The view of the command line's options; None where none was given."""
    if options == ViewConfig():
        return None
    found: Lens | None = None
    if options.undistort:
        data = Path(options.undistort).read_bytes()
        try:
            found = lens(_json(data))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{options.undistort}: {error}") from None
    crop = _numbers("crop", options.crop, ",", "TOP,LEFT,HEIGHT,WIDTH", 4)
    resize = _numbers("resize", options.resize, "x", "HEIGHTxWIDTH, as in 84x84", 2)
    return View(None, found, crop, options.mirror, options.grey, resize)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


class Line:
    """What the person sees on stderr: a line that is written over, and messages above it."""

    def __init__(self) -> None:
        self._over = sys.stderr.isatty()
        self._every = 1.0 if self._over else 10.0
        self._stop = Event()
        self._shown = 0

    def tell(self, text: str) -> None:
        """Print a message."""
        self._wipe()
        print(text, file=sys.stderr, flush=True)

    def follow(self, live: Live, stack: ExitStack) -> None:
        """Show the loop's progress from a thread, until the stack is left."""
        import threading

        def work() -> None:
            while not self._stop.wait(self._every):
                text = live.progress()
                if self._over:
                    print("\r" + text.ljust(self._shown), end="", file=sys.stderr, flush=True)
                    self._shown = len(text)
                else:
                    print(text, file=sys.stderr, flush=True)

        thread = threading.Thread(target=work, name="progress", daemon=True)
        thread.start()
        stack.callback(thread.join, 1.0)
        stack.callback(self._stop.set)

    def close(self) -> None:
        """Leave the line."""
        self._stop.set()
        self._wipe()

    def _wipe(self) -> None:
        if self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=sys.stderr)
            self._shown = 0


def _outlets(
    stack: ExitStack,
    feed: Feed,
    record: Path | None,
    show: bool,
    tell: Callable[[str], None],
) -> tuple[Recorder | None, list[Callable[[Any, float], None]]]:
    """The film, where one is asked for, and all that pictures go to."""
    out: list[Callable[[Any, float], None]] = []
    recorder = None
    if record is not None:
        recorder = Recorder(record)
        stack.callback(recorder.close)
        out.append(recorder.add)
    if show:
        from envs.camera.serve import Broadcast, PictureServer, encode

        broadcast, begun = Broadcast(), time.monotonic()
        server = PictureServer(
            broadcast,
            "agent's view",
            lambda: {"shown": {"seconds": f"{time.monotonic() - begun:.0f}",
                               "camera frames/s": f"{feed.rate:.1f}"}},
            host="127.0.0.1",
            port=0,
        )  # fmt: skip
        stack.callback(server.close)
        out.append(lambda picture, _: broadcast.put(encode(picture, 85)))
        tell(f"watch it at http://127.0.0.1:{server.port}/")
    return recorder, out


def _require_image(player: Player, folder: Path) -> None:
    spec = player.spec
    if isinstance(spec, dict):
        raise ValueError(
            f"run needs an agent that sees one image; {folder} was trained on {', '.join(spec)}"
        )
    if len(spec.shape) != 3:
        raise ValueError(
            f"run needs an agent that sees images; {folder} was trained on vectors {spec.shape}"
        )


def _see(feed: Feed, view: View) -> np.ndarray:
    """What the view makes of the newest picture; ValueError, naming its size, if it can't."""
    try:
        return view(feed.latest().image)
    except ValueError as error:
        raise ValueError(f"camera pictures of {_size(feed.shape)}: {error}") from None


def _check_fit(player: Player, feed: Feed, view: View) -> None:
    """Let the agent see a picture; ValueError, saying what makes it fit, if it can't."""
    seen = _see(feed, view)
    try:
        player.act(seen)
    except ValueError as error:
        assert not isinstance(player.spec, dict)  # _require_image saw to it
        channels, *size = player.spec.shape
        grey = " --grey" if channels == 1 else ""
        wanted = f"--resize {size[0]}x{size[1]}{grey}"
        raise ValueError(
            f"camera pictures of {_size(feed.shape)}: {error} (channels, height, width); where "
            f"they show what training did, {wanted} makes them fit"
        ) from None
    player.reset()


def _check_rate(live: Live, threads: int) -> None:
    """Take as many threads as are fastest for one picture, where the run was given none."""
    import torch

    from agents.precision import threads_for

    rate = live.config.rate
    speeds: dict[int, float] = {}
    for _ in range(ATTEMPTS):
        for number in [threads] if threads else sorted({1, threads_for(0)}):
            torch.set_num_threads(number)
            speeds[number] = min(live.speed(), speeds.get(number, math.inf))
        took = HEADROOM * min(speeds.values())
        if not rate or took <= 1 / rate:
            break
    torch.set_num_threads(min(speeds, key=lambda number: speeds[number]))
    if rate and took > 1 / rate:
        raise ValueError(
            f"rate is {rate:g}; this machine reaches {1 / took:.0f} actions a second with this "
            f"agent, {1e3 * took:.1f} ms each; --rate 0 takes what it gives"
        )


def _check_safe_action(actions: Actions, config: LiveConfig, zero: Any) -> None:
    safe = declared(config.safe_action, zero)
    if safe is None or safe == zero:
        return
    least, greatest = actions.bounds
    if actions.names:
        if not least <= safe <= greatest:
            raise ValueError(
                f"safe_action is {safe}; this agent's actions are {least} to {greatest}"
            )
        return
    columns = np.stack([np.ravel(part) for part in (safe, least, greatest)], 1)
    for at, (value, low, high) in enumerate(columns):
        if not low <= value <= high:
            raise ValueError(
                f"safe_action[{at}] is {value:g}; this agent's lies in [{low:g}, {high:g}]"
            )


def _zero(actions: Actions) -> Any:
    """The action that does nothing: the first, or floats as near to 0 as the bounds let them be."""
    least, greatest = actions.bounds
    return least if actions.names else np.zeros_like(least).clip(least, greatest).tolist()


def _told(value: Any) -> str:
    """A view's value, about as the command line has it."""
    if isinstance(value, Lens):
        return f"a lens with fx {value.matrix[0]:g}"
    if isinstance(value, tuple):
        return _size(value) if len(value) == 2 else ",".join(map(str, value))
    return "set" if value else "unset"


def _numbers(name: str, text: str, between: str, form: str, count: int) -> Any:
    if not text:
        return None
    parts = text.replace(" ", "").split(between)
    if len(parts) != count or not all(part.isdecimal() for part in parts):
        raise ValueError(f"--{name} is {text!r}; expected {form}")
    return tuple(int(part) for part in parts)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _text(result: dict[str, Any]) -> str:
    messages, ends = result["messages"], {"ended": "the feed ended", "time": "time is up"}
    asked = f" of {result['rate']:g} asked" if result["rate"] else ""
    camera = f"the camera gave {result['camera_rate']:.1f} frames/s"
    again = f" ({messages['repeats']:,} repeats: {camera})" if messages["repeats"] else ""
    parts = [
        f"{ends.get(result['end'], result['end'])} after {result['seconds']:.1f} s: "
        f"{messages['actions']:,} actions, {result['reached']:.1f}/s{asked}{again}"
    ]
    for name, key in (("age", "age_ms"), ("inference", "inference_ms"),
                      ("end to end", "end_to_end_ms")):  # fmt: skip
        found = result[key]
        if found["p50"] is not None:
            parts.append(f"{name} {found['p50']:.1f}/{found['p95']:.1f}/{found['p99']:.1f} ms")
    parts.append(f"missed {messages['missed']:,}, safe {messages['safe']:,}, "
                 f"dropped {messages['dropped']:,}")  # fmt: skip
    return ", ".join(parts)
