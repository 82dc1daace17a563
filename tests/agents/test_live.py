"""The control loop on a live camera: pace, latency, and every fault that a feed or sink has."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from agents import cli
from agents.film import Recorder
from agents.latency import Durations
from agents.live import Live
from agents.live_config import LiveConfig, check
from agents.live_run import agents_view
from agents.start import create
from benchmarks.stream import Stream
from envs.camera import Lens, View, open_camera, open_sink
from envs.camera.actions import ActionPort, Inbox
from envs.camera.feed import Feed
from tests.envs.test_camera import film, until
from tests.envs.test_camera_actions import DISCRETE


class Reader:
    """Stands for a player: its action is the picture's grey level, by fifties."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.resets = 0
        self.seen = None

    def reset(self) -> None:
        self.resets += 1

    def act(self, image: np.ndarray, epsilon: float = 0.0) -> int:
        time.sleep(self.seconds)
        return int(image[0, 0, 0]) // 50


class Log:
    """A sink that remembers; `broken` drops what comes."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.fault, self.hopeless, self.broken = "", False, False

    def send(self, message: dict[str, Any]) -> bool:
        self.fault = "broken" if self.broken else ""
        if not self.broken:
            self.messages.append(message)
            self.times.append(time.monotonic())
        return not self.broken

    def close(self) -> None:
        pass


class Run:
    """A loop in a thread of its own."""

    def __init__(self, camera: Feed, player: Reader | None = None, **options: Any) -> None:
        self.player, self.sink = player or Reader(), options.pop("sink", None) or Log()
        self.told: list[str] = []
        self.stop = threading.Event()
        self.end = ""
        config = LiveConfig(**{"stale": 0.2, "frozen": 0.3, "rate": 50, "limit": 5, **options})
        self.live = Live(
            self.player, camera, View(), self.sink, config, tell=self.told.append  # type: ignore[arg-type]
        )  # fmt: skip
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.end = self.live.run(self.stop)
        except ConnectionError as error:
            self.end = str(error)

    def finish(self) -> dict[str, Any]:
        self.stop.set()
        self.thread.join(5)
        assert not self.thread.is_alive()
        return self.live.report()

    def acted(self) -> int:
        return self.live.counts["actions"]


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []
    with ExitStack() as stack:

        def go(source: Any, player: Reader | None = None, **options: Any) -> Run:
            camera = stack.enter_context(open_camera(source, stale=0.2, frozen=0.3))
            runs.append(Run(camera, player, **options))
            return runs[-1]

        yield go
        for run in runs:
            run.finish()


def test_a_steady_loop_answers_each_picture_once(start: Callable[..., Run]) -> None:
    with Stream(rate=100) as stream:
        run = start(stream.url, rate=25)
        assert until(lambda: run.acted() >= 25)
        report = run.finish()
    messages = run.sink.messages
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
    frames = [m["frame"] for m in messages[:-1]]
    assert frames == sorted(set(frames))
    gaps = np.diff(run.sink.times[:-1])
    assert abs(gaps.mean() - 0.04) < 0.008  # deadlines are absolute: no drift
    assert 20 < report["reached"] < 27 and report["end_to_end_ms"]["p50"] < 15
    assert messages[-1]["safe"] and messages[-1]["action"] == messages[-2]["action"]


def test_without_a_rate_every_picture_is_answered_as_it_comes(start: Callable[..., Run]) -> None:
    with Stream(rate=40) as stream:
        run = start(stream.url, rate=0)
        assert until(lambda: run.acted() >= 20)
        report = run.finish()
    frames = [m["frame"] for m in run.sink.messages[:-1]]
    assert np.median(np.diff(frames)) == 1 and report["age_ms"]["p50"] < 10
    assert report["messages"]["repeats"] == 0


def test_a_slow_camera_gets_its_action_repeated_and_a_fast_one_its_newest_picture(
    start: Callable[..., Run],
) -> None:
    with Stream(rate=8) as slow, Stream(rate=400) as fast:
        run = start(slow.url, rate=50)
        assert until(lambda: run.acted() >= 6)
        report = run.finish()
        counts = report["messages"]
        assert 5 < report["camera_rate"] < 9
        assert counts["repeats"] > 2 * counts["actions"] and counts["troubles"] == 0
        run = start(fast.url, rate=20)
        assert until(lambda: run.acted() >= 10)
        report = run.finish()
        assert report["age_ms"]["p50"] < 20  # the newest, not the next in a queue
        assert report["feed"]["frames"] > 5 * report["messages"]["actions"]


def test_an_agent_slower_than_the_rate_misses_deadlines_but_acts_on_new_pictures(
    start: Callable[..., Run],
) -> None:
    with Stream(rate=100) as stream:
        run = start(stream.url, Reader(0.05), rate=50)
        assert until(lambda: run.acted() >= 10)
        report = run.finish()
    assert report["messages"]["missed"] >= 9
    assert report["age_ms"]["p50"] < 40 and 10 < report["reached"] < 21


@pytest.mark.parametrize("fault", ["silent", "still", "half", "size", "noise", "drop", "gone"])
def test_a_fault_of_the_feed_brings_the_safe_action_and_passes(
    start: Callable[..., Run], fault: str
) -> None:
    with Stream() as stream:
        port = stream.port
        run = start(stream.url, safe_action="3", rate=50)
        assert until(lambda: run.acted() > 5)
        at = time.monotonic()
        if fault == "gone":
            stream.close()
        elif fault == "drop":
            stream.fault = "silent"
            stream.drop()
        stream.fault = "silent" if fault == "drop" else fault
        assert until(lambda: run.live.counts["safe"] > 0)
        limit = 0.3 if fault == "still" else 0.2
        first = next(i for i, m in enumerate(run.sink.messages) if m["safe"])
        assert run.sink.messages[first]["action"] == 3
        assert limit * 0.8 < run.sink.times[first] - at < limit + 1
        before, resets = run.acted(), run.player.resets
        again = Stream(port=port) if fault == "gone" else stream
        again.fault = ""
        assert until(lambda: run.acted() > before + 5)
        assert run.player.resets == resets + 1  # no stack bridges the gap
        assert len(run.told) == 2 and "the feed is well again" in run.told[1]
        again.close()


def test_a_feed_that_stays_away_ends_the_run(start: Callable[..., Run]) -> None:
    with Stream() as stream:
        run = start(stream.url, limit=0.5)
        stream.fault = "silent"
        assert until(lambda: run.end)
    assert run.end.startswith("the feed stayed away for 0.5 s: no frame for")
    assert run.sink.messages[-1]["safe"]


def test_a_sink_that_breaks_drops_what_is_old_and_comes_back(start: Callable[..., Run]) -> None:
    with Stream() as stream:
        run = start(stream.url)
        assert until(lambda: run.acted() > 3)
        run.sink.broken = True
        assert until(lambda: run.live.counts["dropped"] > 5)
        kept = len(run.sink.messages)
        run.sink.broken = False
        assert until(lambda: len(run.sink.messages) > kept)
        gap = run.sink.messages[kept]["seq"] - run.sink.messages[kept - 1]["seq"]
        assert gap > 5  # nothing was kept for later
        assert until(lambda: len(run.told) == 2)
        assert [text.partition(":")[0].split(" after")[0] for text in run.told] == [
            "action dropped", "the sink is back"
        ]  # fmt: skip
        run.finish()
        run = start(stream.url, limit=0.3)
        run.sink.broken = True
        assert until(lambda: run.end)
    assert run.end.startswith("the sink stayed away for 0.3") and "broken" in run.end
    assert 0.3 < run.finish()["seconds"] < 5


def test_a_receiver_that_refuses_the_token_ends_the_run_at_once(start: Callable[..., Run]) -> None:
    inbox = Inbox(DISCRETE, "secret", tell=lambda _: None)
    port = ActionPort(inbox, "127.0.0.1", 0)
    with Stream() as stream, ExitStack() as stack:
        sink = open_sink(f"tcp://127.0.0.1:{port.port}", token="wrong")
        stack.callback(port.close)
        stack.callback(sink.close)
        run = start(stream.url, sink=sink, limit=60)
        run.thread.join(10)
    assert run.end.startswith("the sink takes no actions: ") and "token is missing" in run.end
    assert inbox.counts["token"] > 0 and not inbox.counts["taken"] and not run.told


def test_a_real_receiver_may_go_and_come_back(start: Callable[..., Run]) -> None:
    inbox = Inbox(DISCRETE, tell=lambda _: None)
    port = ActionPort(inbox, "127.0.0.1", 0)
    with Stream() as stream:
        run = start(stream.url, sink=open_sink(f"tcp://127.0.0.1:{port.port}"))
        assert until(lambda: inbox.counts["taken"] > 3)
        port.close()
        assert until(lambda: run.live.counts["dropped"] > 3)
        again = ActionPort(inbox, "127.0.0.1", port.port)
        taken = inbox.counts["taken"]
        assert until(lambda: inbox.counts["taken"] > taken + 3)
        run.finish()
        again.close()


def test_a_jump_of_the_wall_clock_changes_nothing(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stream() as stream:
        run = start(stream.url)
        assert until(lambda: run.acted() > 5)
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() - 86_400)
        before = run.acted()
        assert until(lambda: run.acted() > before + 10)
        report = run.finish()
    assert report["messages"]["safe"] == 1 and report["messages"]["missed"] == 0
    assert report["end_to_end_ms"]["max"] < 500
    told = [message["time"] for message in run.sink.messages]
    assert told == sorted(told) and abs(told[-1] - wall()) < 60  # nor in the times told


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"rate": -1}, "rate is -1; it must lie in"),
        ({"epsilon": 1.5}, "epsilon is 1.5; it must lie in"),
        ({"stale": 0}, "stale is 0; it must be at least 0.001 seconds"),
        ({"safe_action": "none"}, "safe_action is 'none'; expected hold, zero, an"),
    ],
)
def test_a_wrong_option(option: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check(LiveConfig(**option))


def test_durations_are_counted_to_a_percent() -> None:
    durations = Durations()
    values = np.random.default_rng(0).lognormal(-5, 1, 5000)
    for value in values:
        durations.add(value)
    for share in (0.5, 0.95, 0.99):
        assert durations.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.03)
    assert durations.summary()["max"] == pytest.approx(1e3 * values.max(), abs=1e-3)
    assert Durations().summary() == dict.fromkeys(("p50", "p95", "p99", "max"))


# The command, on a real agent


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an agent of TaggedEnv, 16x20 grey, that has learned nothing."""
    session = create("dqn", "default", {
        "env": "tests.support:TaggedEnv", "num_envs": 1, "replay_capacity": 100,
        "learning_starts": 50,
        "encoder_width": 0.1, "hidden": 16, "encoder": "drq", "precision": "fp32",
        "out": str(tmp_path_factory.mktemp("runs")), "save_replay": False,
    })  # fmt: skip
    session.save()
    session.close()
    return session.run_dir


FIT = ["--resize", "16x20", "--grey"]


def test_a_video_file_ends_by_itself_and_is_reported(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = film(tmp_path / "clip.mp4", 30, 60), tmp_path / "out.mp4"
    words = ["run", str(agent), "--camera", str(clip), "--record", str(out), "--explain", *FIT]
    assert cli.main([*words, "--rate", "0"]) == 0
    captured = capsys.readouterr()
    messages = [json.loads(line) for line in captured.out.splitlines()]
    assert len(messages) > 15 and {m["action"] for m in messages} <= {0, 1, 2}
    assert messages[-1]["safe"] and not messages[-2]["safe"]
    assert set(messages[0]) == {"seq", "time", "action", "frame", "age_ms", "safe"}
    assert "the feed ended after" in captured.err and "not whole" not in captured.err
    report = json.loads((agent / "live" / "001.json").read_text())
    assert report["end"] == "ended" and report["messages"]["actions"] == len(messages) - 1
    assert report["end_to_end_ms"]["p99"] > 0
    with av.open(str(out)) as written:
        frames = list(written.decode(video=0))
    assert frames and frames[0].width > 16 and float(frames[-1].time) < 1.5


def test_a_signal_ends_it_with_the_safe_action(agent: Path, tmp_path: Path) -> None:
    with Stream() as stream:
        report = tmp_path / "report.json"
        command = [sys.executable, "-m", "agents", "run", str(agent), "--camera", stream.url]
        options = ["--safe-action", "2", "--report", str(report), *FIT]
        process = subprocess.Popen(
            command + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stderr is not None
        for _ in range(5):
            assert not json.loads(process.stdout.readline())["safe"]
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stdout]
        errors = process.stderr.read()
        assert process.wait(10) == 0, errors
        process.stdout.close()
        process.stderr.close()
    assert rest[-1]["safe"] and rest[-1]["action"] == 2
    assert json.loads(report.read_text())["end"] == "stopped" and "Traceback" not in errors


def test_a_server_killed_and_started_again(start: Callable[..., Run]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "agents", "camera-sim", "--env", "CartPole-v1",
               "--port", str(port), "--rate", "50"]  # fmt: skip

    def serve() -> subprocess.Popen[str]:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        assert "page" in server.stdout.readline() and "camera" in server.stdout.readline()
        assert f"tcp://127.0.0.1:{port + 1}" in server.stdout.readline()
        return server

    url = f"http://127.0.0.1:{port}/stream.mjpg"
    first = serve()
    run = start(url, Reader(), rate=30, limit=30)
    assert until(lambda: run.acted() > 5)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert until(lambda: run.live.counts["safe"] > 3)
    before = run.acted()
    second = serve()
    assert until(lambda: run.acted() > before + 5)
    second.terminate()
    assert "episodes" in second.communicate()[0] and second.returncode == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--camera is missing, such as: agents run DIR --camera 0"),
        (["--camera", "nowhere.mp4"], "camera 'nowhere.mp4' is no device index (0), no URL"),
        (["--camera", "http://127.0.0.1:9/"], "camera http://127.0.0.1:9/: no answer from"),
        (["--camera", "CLIP"], "camera pictures of 48x64: the observation has shape (48, 64, 3); "
         "this agent was trained on (1, 16, 20) (channels, height, width); where they show what "
         "training did, --resize 16x20 --grey makes them fit"),
        (["--camera", "CLIP", "--crop", "0,0,99,9"], "camera pictures of 48x64: crop (0, 0, 99,"),
        (["--camera", "CLIP", "--crop", "1,2"], "--crop is '1,2'; expected TOP,LEFT,HEIGHT,WIDTH"),
        (["--camera", "CLIP", "--rate", "fast"], "--rate is 'fast'; it must be a number"),
        (["--camera", "CLIP", "--sink", "udq://x:1", *FIT], "unknown sink 'udq://x:1'; expected"),
        (["--camera", "CLIP", "--sink", "tcp://127.0.0.1:9", *FIT], "sink tcp://127.0.0.1:9: "),
        (["--camera", "CLIP", "--safe-action", "3", *FIT], "safe_action is 3; this agent's actions "
         "are 0 to 2"),
        (["--camera", "CLIP", "--undistort", "CLIP"], "CLIP: it is no JSON"),
        (["--camera", "CLIP", "--report", "."], "--report is '.'; that is a folder, expected a"),
        (["--camera", "CLIP", "--report", ""], "--report is ''; it is empty, expected a"),
        (["--camera", "CLIP", "--report", "/dev/null"], "--report is '/dev/null', which is there"),
        (["--camera", "CLIP", "--report", "CLIP"], "--report is 'CLIP', which is there and is"),
        (["--camera", "CLIP", "--record", "CLIP"], "--record is 'CLIP', the film that is the"),
        (["--camera", "host:80/x.mjpg"], "camera 'host:80/x.mjpg' is no device index (0), no URL "
         "(rtsp://, http://), no file or folder that exists, and no module:function; did you mean "
         "http://host:80/x.mjpg?"),
        (["--camera", "CLIP", "--token", "x" * 1025], "the token has 1,025 bytes; it may have 1,0"),
        (["--camera", "CLIP", "--explain"], "--explain needs --record FILE.mp4 or --show"),
        (["--camera", "CLIP", "--record", "x.avi"], "--record is 'x.avi'; its name must end in"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    clip = str(film(tmp_path / "clip.mp4", 10))
    code = cli.main(["run", str(agent), *(clip if word == "CLIP" else word for word in words)])
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    *before, last = err.splitlines()
    assert last.startswith(f"agents: {line.replace('CLIP', clip)}")
    assert before in ([], [f"camera {clip}: 48x64 at 60 frames/s; loading the agent"])


def test_a_report_is_written_over_a_report_alone_and_through_links(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(film(tmp_path / "clip.mp4", 10))
    link, target = tmp_path / "link.json", tmp_path / "report.json"
    link.symlink_to(target)
    words = ["run", str(agent), "--camera", clip, *FIT, "--report"]
    for _ in range(2):
        assert cli.main([*words, str(link)]) == 0
        assert link.is_symlink() and json.loads(target.read_text())["end"] == "ended"
    before = (agent / "config.yaml").read_text()
    assert cli.main([*words, str(agent / "config.yaml")]) == 2
    assert "which is there and is no report" in capsys.readouterr().err
    assert (agent / "config.yaml").read_text() == before


def test_two_processes_do_not_write_one_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    first = Recorder(path)
    with pytest.raises(ValueError, match=r"--record is '.*film.mp4', which another process writes"):
        Recorder(path)
    first.close()
    Recorder(path).close()


def test_a_sink_that_comes_and_goes_is_told_once(start: Callable[..., Run]) -> None:
    with Stream() as stream:
        run = start(stream.url)
        for _ in range(10):
            run.sink.broken = not run.sink.broken
            time.sleep(0.05)
        run.sink.broken = False
        assert until(lambda: run.live.counts["dropped"] > 3 and len(run.told) == 2)
        run.finish()
    assert run.told[0] == "action dropped: broken" and run.told[1].startswith("the sink is back")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sink", "tcp://127.0.0.1:9"], "sink tcp://127.0.0.1:9: Connection refused"),
        (["--crop", "0,0,99,9"], "camera pictures of 48x64: crop (0, 0, 99, 9)"),
    ],
)
def test_camera_and_sink_are_refused_before_the_agent_is_loaded(
    agent: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    line: str,
) -> None:
    monkeypatch.setattr("agents.player.load", lambda _: pytest.fail("it was loaded"))
    clip = str(film(tmp_path / "clip.mp4", 10))
    assert cli.main(["run", str(agent), "--camera", clip, *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"agents: {line}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--host", ""], "host is empty; 127.0.0.1 listens to this machine, 0.0.0.0 to all"),
        (["--max-seconds", "-1"], "max_seconds is -1; it must be at least 0 seconds"),
    ],
)
def test_bad_input_of_a_camera_sim_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert cli.main(["camera-sim", "--env", "CartPole-v1", *words]) == 2
    assert capsys.readouterr() == ("", f"agents: {line}\n")


def test_a_signal_while_it_connects_ends_it_in_one_line(agent: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(60)
        url = f"rtsp://127.0.0.1:{mute.getsockname()[1]}/x"
        command = [sys.executable, "-m", "agents", "run", str(agent), "--camera", url, *FIT]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = mute.accept()
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            errors = process.communicate(timeout=30)[1]
        connection.close()
    assert (process.returncode, errors) == (130, "agents: stopped\n")


def test_a_token_may_stay_out_of_the_list_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.live_commands import TOKEN, _filled

    assert _filled(LiveConfig, {}).token == ""
    monkeypatch.setenv(TOKEN, "secret")
    assert _filled(LiveConfig, {}).token == "secret"
    assert _filled(LiveConfig, {"token": "other"}).token == "other"


def test_a_rate_beyond_the_machine_says_what_it_reaches(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Live, "speed", lambda _: 0.02)
    clip = str(film(tmp_path / "clip.mp4", 10))
    assert cli.main(["run", str(agent), "--camera", clip, "--rate", "60", *FIT]) == 2
    told = "agents: rate is 60; this machine reaches 45 actions a second with this agent, 22.0 ms"
    assert capsys.readouterr().err.splitlines()[-1].startswith(told)


def test_a_noisy_moment_refuses_no_rate(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # so that two numbers of threads are tried
    noisy = iter([0.5, 0.5, 0.5])
    monkeypatch.setattr(Live, "speed", lambda _: next(noisy, 0.001))
    clip = str(film(tmp_path / "clip.mp4", 10))
    report = str(tmp_path / "report.json")  # the agent's own are another test's
    words = ["run", str(agent), "--camera", clip, "--rate", "60", "--report", report, *FIT]
    assert cli.main(words) == 0
    assert "the feed ended" in capsys.readouterr().err


def test_an_agents_own_view_is_taken_and_another_refused(tmp_path: Path) -> None:
    own = View((48, 64), crop=(0, 0, 40, 60), grey=True, resize=(16, 20))
    assert agents_view(tmp_path, None) == View()
    (tmp_path / "camera.json").write_text(own.to_json())
    assert agents_view(tmp_path, None) == own
    assert agents_view(tmp_path, View(None, None, (0, 0, 40, 60), False, True, (16, 20))) == own
    assert agents_view(tmp_path, View(resize=(16, 20))) == own  # what isn't given is its own
    told = r"where mirror was unset, not set, resize was 16x20, not 8x9; leave that out"
    with pytest.raises(ValueError, match=told):
        agents_view(tmp_path, View(mirror=True, resize=(8, 9)))
    with pytest.raises(ValueError, match=r"undistort was unset, not a lens with fx 9; leave that"):
        agents_view(tmp_path, View(undistort=Lens((9, 0, 1, 0, 9, 1, 0, 0, 1))))
