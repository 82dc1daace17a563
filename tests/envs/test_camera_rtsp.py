"""RTSP cameras, through OpenCV's FFmpeg and a real, small server."""

from __future__ import annotations

import subprocess
import sys
import time

import av
import numpy as np
import pytest

from envs.camera import open_camera, sources
from tests.envs.test_camera import until
from tests.rtsp import RtspStream

if "libx264" not in av.codecs_available:
    pytest.skip("PyAV has no encoder of H.264 here", allow_module_level=True)


def test_it_plays_is_dropped_and_plays_again(capfd: pytest.CaptureFixture[str]) -> None:
    with RtspStream(rate=30) as stream:
        began = time.monotonic()
        with open_camera(stream.url, stale=0.3) as camera:
            assert time.monotonic() - began < 3  # no second is spent on guessing its frame rate
            assert camera.shape == (48, 64, 3)
            for turn in (1, 2):
                before = camera.latest().number
                assert until(lambda before=before: camera.latest().number > before + 20)
                # FFmpeg hands a picture out with the next one; threads of its would hold more back
                behind = []
                for _ in range(9):
                    frame = camera.read(1)
                    assert frame is not None
                    behind.append((stream.value - int(frame.image[20, 20, 0])) % 250)
                assert np.median(behind) <= 3
                assert camera.trouble() == "" and stream.plays == turn
                stream.drop()
                assert until(lambda turn=turn: camera.counts["reconnects"] == turn)
    assert capfd.readouterr().err == ""


def test_one_that_falls_silent_is_opened_again_and_closed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "STREAM_SILENCE", 0.5)
    with RtspStream() as stream, open_camera(stream.url, stale=0.3) as camera:
        assert until(lambda: camera.latest().number > 5)
        stream.fault = "silent"
        assert until(lambda: camera.trouble().endswith("gave no picture"), 4)
        stream.fault = ""
        assert until(lambda: not camera.trouble())
        stream.fault = "silent"
        camera.close()
        assert camera._thread is not None and not camera._thread.is_alive()


def test_a_password_is_given_and_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    with RtspStream(password="me:se@cret") as stream:
        url = stream.url.replace("//", "//me:se%40cret@")
        with open_camera(url) as camera:
            assert camera.name == stream.url
        wrong = url.replace("cret", "cure")
        with pytest.raises(ConnectionError) as caught, open_camera(wrong):
            pass
    where = f"127.0.0.1:{stream.port}"
    assert str(caught.value) == f"camera {stream.url}: it answered 401 Unauthorized"
    with pytest.raises(ConnectionError) as caught, open_camera(url):
        pass
    refused = f"camera {stream.url}: no answer from {where}: Connection refused"
    assert str(caught.value) == refused
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("rtsp://127.0.0.1:port/x", "no address: Port"),
        ("rtsp://", "it names no host"),
        ("rtsp://nowhere.invalid/x", "no answer from nowhere.invalid:554: "),
    ],
)
def test_an_address_that_is_none(url: str, why: str) -> None:
    with pytest.raises(ConnectionError, match=f": {why}"), open_camera(url):
        pass


def test_one_that_never_answers_is_waited_for_so_long() -> None:
    with RtspStream() as stream:
        stream.fault = "mute"
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="timed out"):
            open_camera(stream.url, timeout=0.5).__enter__()
        assert time.monotonic() - began < 4


def test_a_process_that_ends_while_it_waits_ends_well() -> None:
    """A thread that waited in FFmpeg while Python ended would abort the process."""
    code = "import sys; from envs.camera import open_camera\nwith open_camera(sys.argv[1]): input()"
    with RtspStream() as stream:
        command = [sys.executable, "-c", code, stream.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert until(lambda: stream.plays and stream.value > 30, 20)
            stream.fault = "silent"
            assert process.stdin is not None
            process.communicate(b"\n", timeout=10)
        assert process.returncode == 0
