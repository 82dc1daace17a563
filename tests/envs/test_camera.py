"""Sources of pictures, the feed around them, and what is made of a picture."""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from benchmarks.stream import Stream, flat, jpeg
from envs.camera import Feed, Lens, View, open_camera
from envs.camera.mjpeg import MAX_HEAD, MAX_PART, PartParser, jpeg_size
from envs.camera.sources import public
from envs.camera.view import lens


def until(true: Callable[[], object], limit: float = 15.0) -> bool:
    """Whether `true` became so within the limit."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.005)
    return False


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    row, column = np.mgrid[:height, :width]
    return np.stack([row * 4, column * 4, (row + column) * 2], 2).astype(np.uint8)


def film(path: Path, pictures: int = 30, rate: int = 60) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in range(pictures):
            frame = av.VideoFrame.from_ndarray(flat(8 * value % 250), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# The view


def test_a_view_does_its_steps_in_order() -> None:
    picture = gradient()
    view = View(crop=(10, 20, 16, 24), mirror=True, grey=True, resize=(8, 12))
    kept = picture[10:26, 20:44][:, ::-1].astype(float)
    grey = kept @ np.array([0.299, 0.587, 0.114])
    area = grey.reshape(8, 2, 12, 2).mean((1, 3))
    assert view(picture).shape == view.fixed_shape == (8, 12)
    assert np.abs(view(picture) - area).max() <= 1
    assert (View()(picture) == picture).all()
    assert View(resize=(80, 120)).fixed_shape == View(resize=(80, 120))(picture).shape


def test_undistortion_straightens_what_the_lens_bent() -> None:
    matrix = (50.0, 0.0, 30.0, 0.0, 50.0, 20.0, 0.0, 0.0, 1.0)
    plain, bent = Lens(matrix), Lens(matrix, (-0.4, 0.1, 0.0, 0.0))
    picture = gradient()
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(View(undistort=plain)(picture)[inner] - picture[inner].astype(int)).max() <= 1
    expected = cv2.undistort(picture, np.array(matrix).reshape(3, 3), np.array(bent.distortion))
    assert np.abs(View(undistort=bent)(picture).astype(int) - expected).mean() < 0.5
    assert np.abs(View(undistort=bent)(picture).astype(int) - picture).mean() > 1


def test_a_view_survives_its_file_and_tells_differences() -> None:
    bent = Lens((9.0, 0.0, 4.0, 0.0, 9.0, 5.0, 0.0, 0.0, 1.0), (0.1,) * 5)
    view = View((40, 60), bent, (1, 2, 3, 4), True, True, (8, 9))
    assert View.from_json(view.to_json()) == view
    assert View.from_json(View().to_json()) == View()
    other = View((40, 60), bent, (1, 2, 3, 5), True, False, (8, 9))
    assert view.differences(view) == ""
    told = view.differences(other)
    assert told == "crop is (1, 2, 3, 4) here and (1, 2, 3, 5), grey is True here and False"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: View(crop=(0, 0, 0, 4)), r"crop is \(0, 0, 0, 4\); expected 4 whole numbers"),
        (lambda: View(resize=(84, 84.5)), r"resize is \(84, 84.5\); expected 2 whole numbers"),
        (lambda: Lens((1.0,) * 8), "the lens's matrix has 8 numbers; expected 9"),
        (lambda: Lens((1.0,) * 9, (0.0,) * 3), "the lens has 3 distortion coefficients"),
        (lambda: Lens((0.0,) * 9), r"the lens's matrix is \(0.0, .*expected \(fx, 0, cx, 0, fy"),
        (lambda: lens({"matrix": "abc"}), "the lens's matrix is abc; expected a list of numbers"),
        (lambda: lens({"matrix": [[1, 2], [3]]}), r"matrix is \[\[1, 2\], \[3\]\]; expected a"),
        (lambda: lens({"matrix": None}), "the lens's matrix is None; expected a list"),
        (lambda: View(resize=(1, 10**6)), r"resize is \(1, 1000000\); a side has 16,384 pixels"),
        (lambda: View(crop=(30, 0, 20, 20))(gradient()), "reaches beyond .* picture, 40x60"),
        (lambda: View(source=(48, 64))(gradient()), "pictures are 40x60; this view is for 48x64"),
        (lambda: View(grey=True).fixed_shape, "the view fixes no size; give it resize"),
        (lambda: View.from_json("[]", "x.json"), "x.json holds no view of a camera"),
        (lambda: View.from_json('{"schema": 1, "zoom": 2}'), "unknown key 'zoom'"),
    ],
)
def test_a_wrong_view_is_one_line(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


# The parser of streams


def part(data: bytes, length: bool = True, stamp: str = "") -> bytes:
    head = b"Content-Type: image/jpeg\r\n" + b"Content-Length: %d\r\n" % len(data) * length
    if stamp:
        head += f"X-Timestamp: {stamp}\r\n".encode()
    return b"--cut\r\n" + head + b"\r\n" + data + b"\r\n"


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_parts_are_found_whatever_the_pieces(length: bool, piece: int) -> None:
    pictures = [jpeg(flat(value)) for value in (10, 100, 200)]
    stream = b"".join(part(picture, length) for picture in pictures) + b"--cut\r\n"
    parser = PartParser(b"cut", counts := Counter())
    found = []
    for at in range(0, len(stream), piece):
        found += parser.feed(stream[at : at + piece])
    assert [part.jpeg for part in found] == pictures
    assert not counts


def test_a_part_with_a_length_does_not_wait_for_the_next() -> None:
    parser = PartParser(b"cut", Counter())
    data = jpeg(flat(9))
    stream = part(data, stamp="12.5")
    assert [tuple(found) for found in parser.feed(stream[:-2])] == [(data, "12.5")]
    assert len(parser.feed(stream[-2:] + part(data))) == 1


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (part(jpeg(flat(1))[:300], length=False), "half"),
        (part(jpeg(flat(1)))[:300] + b"\r\n", "half"),  # its length promises more
        (part(b"hello"), "noise"),
        (b"--cut\r\nno header ends here\r\n", "noise"),
        (part(b"\xff\xd8" + bytes(MAX_PART) + b"\xff\xd9"), "long"),
        (b"--cut\r\n" + b"x" * (MAX_PART + 2 * MAX_HEAD), "long"),
    ],
)
def test_a_bad_part_is_counted_and_the_next_is_read(bad: bytes, kind: str) -> None:
    good = jpeg(flat(7))
    parser = PartParser(b"cut", counts := Counter())
    found = parser.feed(part(good) + bad)
    found += parser.feed(part(good) + part(good) + b"--cut\r\n")
    assert [part.jpeg for part in found] == [good] * 3
    assert counts == {kind: 1}


def test_the_size_of_a_jpeg_is_read_before_it_is_decoded() -> None:
    assert jpeg_size(jpeg(flat(3, (20, 30)))) == (20, 30)
    assert jpeg_size(b"\xff\xd8\xff\xd9") is None
    assert jpeg_size(b"\xff\xd8\xff\xe0\x00\x10") is None


# Feeds over real sockets and files


def test_a_stream_gives_the_newest_frame_and_its_age() -> None:
    with Stream(rate=100) as stream, open_camera(stream.url) as camera:
        assert camera.shape == (48, 64, 3)
        first = camera.read(1)
        assert first is not None and until(lambda: camera.latest().number > first.number + 5)
        newest = camera.read(1)
        assert newest is not None and newest.number >= first.number + 5  # no backlog
        assert newest.age < 0.5 and camera.trouble() == ""
        assert abs(int(newest.image[0, 0, 0]) - int(camera.latest().image[0, 0, 0])) < 10
        assert camera.rate == 0  # two or three pictures tell nothing
        assert until(lambda: 50 < camera.rate < 150)


def test_a_film_that_waits_for_its_reader_is_not_frozen(tmp_path: Path) -> None:
    with open_camera(str(film(tmp_path / "clip.mp4", 30)), frozen=0.2) as camera:
        time.sleep(0.5)
        assert camera.read(1, after=0) is not None
        assert camera.trouble() == ""


def test_the_last_picture_of_a_live_source_grows_old() -> None:
    pictures = iter([flat(1), flat(2)])
    with open_camera(lambda: next(pictures), stale=0.2) as camera:
        assert until(lambda: camera.ended)  # though nobody has read it
        assert camera.latest().age > 0.2


def test_broken_pictures_are_told(tmp_path: Path) -> None:
    with Stream(rate=100) as stream, open_camera(stream.url, stale=0.2) as camera:
        stream.fault = "noise"
        assert until(lambda: "that came were broken" in camera.trouble())
        stream.fault = ""
        assert until(lambda: camera.trouble() == "")


def test_a_fast_camera_tells_its_rate() -> None:
    picture = flat(1)
    with open_camera(lambda: picture) as camera:  # called 30 times a second
        assert until(lambda: 20 < camera.rate < 35)
    with Stream(rate=400) as stream, open_camera(stream.url) as camera:
        assert until(lambda: camera.rate > 120)


def test_a_film_tells_its_rate_before_it_plays(tmp_path: Path) -> None:
    with open_camera(str(film(tmp_path / "clip.mp4", 80))) as camera:
        assert camera.rate == 60
        while (frame := camera.read(1)) and frame.number < 60:
            pass
        assert 30 < camera.rate < 75


def test_read_waits_for_the_next_frame_alone() -> None:
    with Stream(rate=20) as stream, open_camera(stream.url) as camera:
        numbers = [frame.number for _ in range(5) if (frame := camera.read(1))]
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        stream.fault = "silent"
        time.sleep(0.1)
        camera.read(0.1)
        started = time.monotonic()
        assert camera.read(0.1) is None
        assert 0.09 < time.monotonic() - started < 0.5


@pytest.mark.parametrize("fault", ["silent", "still", "half", "size", "noise"])
def test_trouble_is_told_and_passes(fault: str) -> None:
    with Stream() as stream, open_camera(stream.url, stale=0.2, frozen=0.2) as camera:
        assert until(lambda: camera.latest().number > 3)
        stream.fault = fault
        assert until(camera.trouble, 2)
        expected = "the same frame for" if fault == "still" else "no frame for"
        assert camera.trouble().startswith(expected)
        if fault in ("half", "size", "noise"):
            assert until(lambda: camera.counts[fault] > 0)
        stream.fault = ""
        assert until(lambda: not camera.trouble(), 2)
        assert camera.counts["reconnects"] == 0 and stream.connections == 1


def test_a_dropped_connection_is_made_again() -> None:
    with Stream() as stream, open_camera(stream.url, stale=0.3) as camera:
        for turn in (1, 2):
            before = camera.latest().number
            stream.drop()
            assert until(lambda turn=turn: camera.counts["reconnects"] == turn)
            assert until(lambda before=before: camera.latest().number > before + 3)
        assert camera.trouble() == ""


def test_a_server_that_is_away_is_waited_for() -> None:
    stream = Stream()
    with open_camera(stream.url, stale=0.2) as camera:
        stream.close()
        assert until(lambda: "no answer" in camera.trouble() or "refused" in camera.trouble())
        with Stream(port=stream.port):
            assert until(lambda: not camera.trouble())


def test_a_still_scene_after_a_new_connection_is_news() -> None:
    with Stream() as stream, open_camera(stream.url, stale=0.2, frozen=0.6) as camera:
        assert until(lambda: camera.latest().number > 3)
        stream.fault = "still"
        stream.drop()  # each connection shows level 0 and stays there
        assert until(lambda: camera.latest().image[0, 0, 0] == 0)
        assert until(camera.trouble, 2) and camera.trouble().startswith("the same frame")
        stream.drop()
        assert until(lambda: not camera.trouble(), 2) and camera.latest().image[0, 0, 0] == 0


def test_closing_ends_a_read_and_the_thread() -> None:
    with Stream() as stream:
        camera = open_camera(stream.url, timeout=30)
        with camera:
            stream.fault = "silent"
            started = time.monotonic()
        assert time.monotonic() - started < 1
        assert camera._thread is not None and not camera._thread.is_alive()
        assert camera.read(5) is None or time.monotonic() - started < 1


def test_the_clock_of_the_wall_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stream() as stream, open_camera(stream.url, stale=0.3) as camera:
        monkeypatch.setattr(time, "time", lambda: -1e9)
        assert until(lambda: camera.latest().number > 5)
        assert camera.latest().age < 0.3 and camera.trouble() == ""


def test_a_camera_that_tells_pictures_apart_is_not_frozen_by_a_still_scene() -> None:
    pictures = Counter[str]()

    def scene() -> np.ndarray:
        pictures["taken"] += 1
        return flat(7)

    with open_camera(scene, frozen=0.1) as camera:
        assert until(camera.trouble) and camera.trouble().startswith("the same frame")
    with open_camera(scene, frozen=0) as camera:
        time.sleep(0.3)
        assert camera.trouble() == ""


def test_a_video_file_plays_at_its_pace_and_ends(tmp_path: Path) -> None:
    seen = []
    with open_camera(str(film(tmp_path / "clip.mp4", pictures=30, rate=60))) as camera:
        time.sleep(0.3)  # it waits for its first reader
        assert camera.latest().number == 1
        started = time.monotonic()
        while not camera.ended:
            if frame := camera.read(1):
                seen.append(int(frame.image[20, 20, 0]))
    assert 0.4 < time.monotonic() - started < 3
    assert (
        seen[0] < 8
        and len(seen) > 20
        and abs(seen[-1] - 8 * 29 % 250) < 8
        and camera.trouble() == ""
    )


def test_a_folder_is_read_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), flat(10 * number))
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    with open_camera(str(tmp_path)) as camera:
        seen = []
        while frame := camera.read(2):
            seen.append(int(frame.image[0, 0, 0]))
    assert seen == [10, 20, 100] and camera.counts["noise"] == 1


def test_a_function_is_a_camera_and_may_fail_for_a_while() -> None:
    state = {"value": 0, "broken": False}

    def take() -> np.ndarray:
        if state["broken"]:
            raise OSError("cable")
        state["value"] += 1
        return flat(state["value"] % 250)[:, :, 0]

    with open_camera(take, stale=0.2) as camera:
        assert camera.shape == (48, 64, 3)
        state["broken"] = True
        assert until(lambda: "cable" in camera.trouble())
        state["broken"] = False
        assert until(lambda: not camera.trouble())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("77", r"camera 77: device 77 doesn't open with OpenCV; there (are|is no) /dev/video"),
        ("http://127.0.0.1:9/x", "camera http://127.0.0.1:9/x: no answer from 127.0.0.1:9"),
        ("http://me:secret@127.0.0.1:9/x", "camera http://127.0.0.1:9/x: no answer from 127.0.0.1"),
        ("http://127.0.0.1:99999/x", "no address: Port out of range"),
        ("http://me:p@127.0.0.1:x/y", "no address: Port could not be cast to integer value"),
        ("http://[::1/x", "no address: Invalid IPv6 URL"),
        ("http://me@/x", "camera http:///x: it names no host"),
        ("HTTP://127.0.0.1:9/a ü", "no answer from 127.0.0.1:9: Connection refused"),
        ("htp://127.0.0.1/x", r"doesn't open with OpenCV's FFmpeg; did you mean http://\?"),
        ("EMPTY", "is empty: 0 bytes"),
        ("NO IMAGES", "none of its 2 images can be decoded"),
        (sys.exit, "the function raised SystemExit"),
        ("CLIP", "is no video that OpenCV's FFmpeg can open"),
        (lambda: None, "the function returned None"),
        (lambda: np.zeros((4, 4)), r"the function returned float64 of shape \(4, 4\); expected"),
    ],
)
def test_a_camera_that_does_not_open_says_what_was_tried(
    source: object, text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if source == "CLIP":
        (tmp_path / "clip.mp4").write_bytes(bytes(1000))
        source = str(tmp_path / "clip.mp4")
    if source == "EMPTY":
        (tmp_path / "clip.mp4").touch()
        source = str(tmp_path / "clip.mp4")
    if source == "NO IMAGES":
        (tmp_path / "1.png").touch()
        (tmp_path / "2.png").mkdir()
        source = str(tmp_path)
    with pytest.raises(ConnectionError, match=text) as caught, open_camera(source):  # type: ignore[arg-type]
        pass
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("no/such/file.mp4", "camera 'no/such/file.mp4' is no device index"),
        ("tests.sim:Playing", "camera 'tests.sim:Playing': tests.sim has no 'Playing'; did you"),
        (" ", "the camera's name is empty"),
        ("nowhere:take", "camera 'nowhere:take': no module 'nowhere'"),
    ],
)
def test_a_text_that_is_no_camera(source: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        open_camera(source)
    with pytest.raises(ValueError, match="stale is 0; it must be above 0 seconds"):
        open_camera(lambda: flat(0), stale=0)


def test_a_camera_gets_its_password_and_nobody_else() -> None:
    asked: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.0 401 Unauthorized\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=[listener])
        thread.start()
        port = listener.getsockname()[1]
        url = f"http://me:se%40cret@127.0.0.1:{port}/x?y=1"
        with pytest.raises(ConnectionError, match="answered 401") as caught, open_camera(url):
            pass
        thread.join(5)
    assert asked[0].startswith(b"GET /x?y=1 ") and b"Basic bWU6c2VAY3JldA==" in asked[0]
    assert "cret" not in str(caught.value)


def test_what_came_and_was_no_picture_is_told() -> None:
    with Stream() as stream:
        stream.fault = "half"
        with pytest.raises(ConnectionError) as caught, open_camera(stream.url, timeout=0.3):
            pass
    assert re.search(r": no picture came within 0.3 s \(dropped: half \d+\)$", str(caught.value))


def test_an_empty_folder_holds_no_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images"), open_camera(str(tmp_path)):
        pass


def test_a_feed_needs_its_with_block() -> None:
    with pytest.raises(RuntimeError, match="use it in a `with` block"):
        Feed(lambda _: None).latest()  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://admin:p@ss@10.0.0.2/x", "rtsp://10.0.0.2/x"),
        ("rtsp://admin:p/s@s@10.0.0.2:554/x", "rtsp://10.0.0.2:554/x"),
        ("http://user@cam/stream", "http://cam/stream"),
        ("rtsp://admin:12/3@10.0.0.2/x", "rtsp://10.0.0.2/x"),
        ("http://cam:8090/stream.mjpg", "http://cam:8090/stream.mjpg"),
        ("http://cam/a@b.mjpg", "http://cam/a@b.mjpg"),
        ("http://[::1]:8090/x", "http://[::1]:8090/x"),
        ("clip@home.mp4", "clip@home.mp4"),
    ],
)
def test_no_password_is_shown(source: str, shown: str) -> None:
    assert public(source) == shown
