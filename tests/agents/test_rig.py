"""Training through a camera, end to end; films and pages of what an agent does on one."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest
import torch

from agents import cli, load
from agents.film import Recorder
from agents.live import Acted
from agents.start import create, resume
from agents.watch import Watcher, overlay
from benchmarks.stream import flat
from envs.actions import actions
from envs.camera import CameraEnv, Frame, View, open_camera
from envs.camera.sim import Sim
from envs.camera.view import saved
from tests.envs.test_camera import until
from tests.envs.test_camera_actions import DISCRETE
from tests.sim import playing

RIG = "tests.agents.test_rig:Rig"


class Rig(CameraEnv):
    """TaggedEnv, seen by a camera and moved over the network."""

    at = ("", "")
    view_of = View(crop=(0, 0, 16, 16), grey=True, resize=(16, 20))

    def __init__(self, render_mode: str | None = None) -> None:
        from tests.agents import test_rig  # the module that the environment's name imports

        super().__init__(
            *test_rig.Rig.at, actions=3, view=test_rig.Rig.view_of, rate=100, max_steps=8,
            reward=lambda picture, action: float(picture.mean()) / 255, render_mode=render_mode,
        )  # fmt: skip


@pytest.fixture
def sim() -> Iterator[Sim]:
    with playing("tests.support:TaggedEnv", rate=100) as sim:
        yield sim


BASE: dict[str, Any] = {
    "env": RIG, "steps": 40, "learning_starts": 20, "replay_capacity": 100, "eval_episodes": 1,
    "encoder_width": 0.1, "hidden": 16, "encoder": "drq", "precision": "fp32",
}  # fmt: skip


def test_an_agent_is_trained_and_acts_through_one_view(
    sim: Sim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.agents import test_rig

    monkeypatch.setattr(test_rig.Rig, "at", (sim.stream, sim.actions))
    session = create("dqn", None, {**BASE, "out": str(tmp_path)})
    assert session.env.num_envs == 1 and session.config.env.num_envs == 1
    result = session.run(console=False)
    session.close()
    folder = session.run_dir
    assert session.updates > 0 and result["episodes"] == 1 and result["lengths"] == [8]
    trained = View((16, 20), crop=(0, 0, 16, 16), grey=True, resize=(16, 20))
    assert saved(folder) == trained
    assert sim.inbox.counts["taken"] >= 48 and not sim.inbox.counts["action"]

    again = resume(folder, 44)
    again.close()
    monkeypatch.setattr(test_rig.Rig, "view_of", View(grey=True, resize=(16, 20)))
    quiet = threading.active_count()
    with pytest.raises(ValueError, match=r"another view: crop is None here and \(0, 0, 16, 16\)"):
        resume(folder, 48)
    assert until(lambda: threading.active_count() <= quiet)  # its camera was closed

    capfd.readouterr()
    words = ["run", str(folder), "--camera", sim.stream, "--rate", "0", "--max-seconds", "0.5"]
    assert cli.main(words) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) > 3 and all(json.loads(line)["action"] in (0, 1, 2) for line in lines)
    assert cli.main([*words, "--mirror"]) == 2
    assert "where mirror was unset, not set; leave that out" in capfd.readouterr().err


def test_a_rig_is_there_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_envs is 4; a camera and its rig are one environment"):
        create("dqn", None, {**BASE, "num_envs": 4, "out": str(tmp_path)})
    assert not any(tmp_path.iterdir())


def test_show_serves_a_page_with_the_actions(sim: Sim, tmp_path: Path) -> None:
    session = create("dqn", "default", {
        **BASE, "env": "tests.support:TaggedEnv", "num_envs": 1, "out": str(tmp_path)
    })  # fmt: skip
    session.save()
    session.close()
    from agents.live_config import LiveConfig
    from agents.live_run import run_live

    told: list[str] = []
    found: list[bytes] = []

    def look(text: str) -> None:
        told.append(text)
        if text.startswith("watch it at"):
            threading.Thread(target=fetch, args=[text.split()[-1]], daemon=True).start()

    def fetch(page: str) -> None:
        time.sleep(0.3)
        for path in ("", "frame.jpg", "status"):
            with urllib.request.urlopen(page + path) as answer:
                found.append(answer.read())

    from agents import live_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_run.Line, "tell", lambda _, text: look(text))
        config = LiveConfig(rate=0, max_seconds=4.0)
        run_live(session.run_dir, sim.stream, config, View(grey=True), show=True, explain=True)
    page, picture, status = found
    assert b"/stream.mjpg" in page and picture.startswith(b"\xff\xd8")
    assert "seconds" in json.loads(status)["shown"]


def test_a_film_keeps_the_time_at_which_pictures_were_shown(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film = Recorder(path)
    times = [0.0, 0.1, 0.15, 1.0]
    for at in times:  # the last picture is of another size, as a safe turn's may be
        film.add(flat(200, (41, 63) if at < 1 else (60, 40)), 50 + at)
    film.close()
    assert not film.fault
    with av.open(str(path)) as written:
        frames = list(written.decode(video=0))
    assert [float(frame.time) for frame in frames] == pytest.approx(times, abs=0.02)
    assert (frames[0].height, frames[0].width) == (40, 62)
    last = frames[-1].to_ndarray(format="rgb24").astype(int)
    assert abs(last[20, 20, 0] - 200) < 10 and abs(last[20, 55, 0] - 24) < 10


def test_a_full_disk_ends_the_film_and_nothing_else() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    film, noise = Recorder(full), np.random.default_rng(0)
    for turn in range(400):
        film.add(noise.integers(0, 255, (200, 200, 3), np.uint8), turn / 20)
        if film.fault:
            break
    film.close()
    assert "No space left" in film.fault


def test_an_overlay_tells_action_and_safety() -> None:
    picture = overlay(flat(90), "action 2")
    assert picture.shape[0] > 420 and (picture[:400] == 90).all()
    plain, warning = picture[-32:], overlay(flat(90), "SAFE", safe=True)[-32:]
    redness = [float(bar[..., 0].mean() - bar[..., 2].mean()) for bar in (plain, warning)]
    assert (plain > 150).any() and abs(redness[0]) < 0.5 and redness[1] > 1


def test_a_watcher_never_keeps_the_loop_waiting() -> None:
    seen: list[np.ndarray] = []

    def slow(picture: np.ndarray, _: float) -> None:
        time.sleep(0.05)
        seen.append(picture)

    watcher = Watcher(View(), DISCRETE, None, [slow])
    began = time.monotonic()
    for number in range(200):
        watcher(Acted(Frame(flat(0), number, began), 1, False, None))
    assert time.monotonic() - began < 0.05
    watcher.close()
    assert 1 <= len(seen) < 10 and not watcher.fault


def test_a_watcher_calls_actions_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("agents.watch.overlay", lambda _, text, **__: told.append(text))
    frame = Frame(flat(0), 9, 0.0)
    floats = actions(gymnasium.spaces.Box(-2, 2, (2,)), "env")
    named = DISCRETE._replace(names=("noop", "fire", "left", "right"))  # of the numbers 1 to 4
    for known, action, safe in ((named, 4, False), (named, 1, True), (floats, [0.5, -2.0], False)):
        watcher = Watcher(View(), known, None, [lambda *_: None])
        watcher(Acted(frame, action, safe, None))
        watcher.close()
        assert not watcher.fault
    assert [text.partition("   ")[0] for text in told] == [
        "action right", "SAFE action noop", "action +0.50 -2.00"
    ]  # fmt: skip


def test_a_players_observation_is_kept_for_explanations(tmp_path: Path) -> None:
    session = create("dqn", "default", {
        **BASE, "env": "tests.support:TaggedEnv", "num_envs": 1, "out": str(tmp_path)
    })  # fmt: skip
    session.save()
    session.close()
    player = load(session.run_dir)
    for value in (1, 2):
        player.act(np.full((16, 20, 1), value, np.uint8))
    assert player.seen.shape == (1, 4, 16, 20)
    assert player.seen[0, :, 0, 0].tolist() == [1, 1, 1, 2]
    assert torch.is_tensor(player.seen)


def test_opening_and_closing_leaves_no_descriptor_and_no_thread(sim: Sim) -> None:
    import psutil

    process = psutil.Process()

    def open_once() -> None:
        with open_camera(sim.stream) as camera:
            camera.read(1)

    quiet = threading.active_count()  # other tests' threads, and the sim's own
    open_once()
    assert until(lambda: threading.active_count() <= quiet + 1)
    descriptors, threads = process.num_fds(), threading.active_count()
    for _ in range(10):
        open_once()
    assert until(lambda: process.num_fds() <= descriptors + 1)
    assert until(lambda: threading.active_count() <= threads + 1)


def test_a_camera_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.agents import test_rig

    monkeypatch.setattr(test_rig.Rig, "at", ("http://127.0.0.1:9/", "stdout"))
    words = ["train", "dqn", "--env", RIG, "--encoder", "drq", "--out", str(tmp_path)]
    assert cli.main(words) == 2
    told = f"agents: lane 0 of '{RIG}', reset(): ConnectionError: camera http://127.0.0.1:9/: no "
    err = capsys.readouterr().err
    assert err.startswith(told) and "traceback" not in err and not any(tmp_path.iterdir())
