"""The commands of live cameras: they read their options, then hand over. Nothing heavy up here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from agents.commands import best_option, run_folder, video
from agents.live_config import LiveConfig, SimConfig, ViewConfig, check, check_sim
from agents.options import Parser, UsageError, add_config, read
from agents.process import interruptible, stoppable

TOKEN = "SIGHTLINE_TOKEN"
"""Environment variable that holds a token, where it is not to be seen in a list of processes."""


@interruptible()
def do_run(words: list[str]) -> None:
    """agents run DIR --camera SOURCE"""
    parser = Parser(
        "agents run DIR --camera SOURCE [--rate 20] [--sink stdout|tcp://|udp://|module:function]",
        "Let a run's agent act on a live camera. Actions go out as lines of JSON; where pictures "
        "fail, the safe action does, within a limit, and also at the end.",
    )
    parser.add_argument("folder", metavar="DIR", help="Run folder.")
    parser.option(
        "--camera",
        "Where pictures come from: a device's index (0), rtsp:// or http:// (MJPEG), a video file, "
        "a folder of images, or module:function.",
        "SOURCE",
    )
    parser.option("--record", "Film to write, with the actions in it.", "FILE.mp4")
    parser.option("--show", "Show it live on a page of this machine.", action="store_true")
    parser.option(
        "--explain",
        "In film and page, show what the agent looks at and all action values.",
        action="store_true",
    )
    parser.option("--report", "Report to write (default: live/NNN.json in DIR).", "FILE.json")
    best_option(parser)
    add_config(parser, "loop", LiveConfig, vars(LiveConfig()))
    add_config(parser, "pictures", ViewConfig, vars(ViewConfig()))
    given = parser.parse(words)
    folder = run_folder(given["folder"])
    if "camera" not in given:
        raise UsageError("--camera is missing, such as: agents run DIR --camera 0")
    config = _filled(LiveConfig, given)
    check(config)
    film = video(given, "record")
    if "explain" in given and not film and "show" not in given:
        raise UsageError("--explain needs --record FILE.mp4 or --show to be seen in")
    report = _report(given["report"]) if "report" in given else None
    from agents.live_run import read_view, run_live

    view = read_view(ViewConfig(**read(ViewConfig, given)))
    result = run_live(
        folder,
        given["camera"],
        config,
        view,
        record=film,
        show="show" in given,
        explain="explain" in given,
        report=report,
        best="best" in given,
    )
    import sys

    print(f"{result['text']}\nreport: {result['report']}", file=sys.stderr)


@interruptible()
def do_camera_sim(words: list[str]) -> None:
    """agents camera-sim --env NAME"""
    parser = Parser(
        "agents camera-sim --env NAME [--port P] [--rate R]",
        "Publish an environment as a live camera over HTTP, with a page to watch it at, and take "
        "actions over TCP (lines of JSON) or HTTP (POST /action).",
    )
    parser.option("--env", "Atari name, Gymnasium id, or package.module:Class.", "NAME")
    add_config(parser, "camera", SimConfig, vars(SimConfig()))
    given = parser.parse(words)
    if "env" not in given:
        raise UsageError("--env is missing, such as: agents camera-sim --env Breakout")
    config = _filled(SimConfig, given)
    check_sim(config)
    ports = {"port": config.port}
    ports["action_port"] = config.action_port
    if config.action_port == -1:
        ports["action_port"] = config.port + 1 if config.port else 0
    for name, port in ports.items():
        if not 0 <= port <= 65535:
            raise UsageError(f"--{name.replace('_', '-')} is {port}; it must lie in [0, 65535]")
    from envs.camera.sim import Sim
    from envs.config import EnvConfig

    env = EnvConfig(env=given["env"], protocol=config.protocol)
    sim = Sim(
        env,
        rate=config.rate,
        wait=config.wait,
        quality=config.quality,
        host=config.host,
        port=ports["port"],
        action_port=ports["action_port"],
        token=config.token,
        seed=config.seed,
    )
    try:
        print(f"page     {sim.page}\ncamera   {sim.stream}\nactions  {sim.actions}", flush=True)
        if config.host not in ("127.0.0.1", "localhost", "::1") and not config.token:
            print("anybody who reaches this machine can act: --token asks for one", flush=True)
        with stoppable("its ports are closed") as stop:
            sim.run(stop, config.max_seconds or float("inf"))
    finally:
        sim.close()
    status = sim.status()
    print(f"{status['episodes']:,} episodes, {status['step']:,} steps, late {status['late']:,}")


def _report(name: str) -> Path:
    """The file that a report goes to; UsageError where it can't be written, or holds another thing.

    A link is followed.
    """
    path = Path(name).resolve()
    told = f"--report is {name!r}"
    if not name.strip() or path.is_dir():
        what = "that is a folder" if name.strip() else "it is empty"
        raise UsageError(f"{told}; {what}, expected a file's name")
    if not path.parent.is_dir():
        raise UsageError(f"{told}; there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{told}; nothing can be written there")
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, ValueError):
            kept = None
        if not isinstance(kept, dict) or not {"camera", "sink", "end"} <= kept.keys():
            raise UsageError(f"{told}, which is there and is no report; name another file")
    return path


def _filled(config: type[Any], given: dict[str, Any]) -> Any:
    values = read(config, given)
    if "token" not in values and TOKEN in os.environ:
        values["token"] = os.environ[TOKEN]
    return config(**values)
