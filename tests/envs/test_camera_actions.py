"""Sinks, and the ports that take actions: real sockets, and everything that goes wrong on them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs.actions import actions
from envs.camera import open_camera, open_sink
from envs.camera.actions import MAX_MESSAGE, ActionPort, Inbox
from envs.camera.sim import Sim
from envs.config import EnvConfig
from tests.envs.test_camera import until
from tests.sim import playing
from tests.support import Tag, TaggedEnv

DISCRETE = actions(gymnasium.spaces.Discrete(4, start=1), "env")
BOX = actions(gymnasium.spaces.Box(-2, 2, (2,), np.float32), "env")


def message(seq: int = 1, action: Any = 2) -> dict[str, Any]:
    return {"seq": seq, "time": 0.0, "action": action, "frame": 1, "age_ms": 0.0, "safe": False}


@pytest.fixture
def port() -> Iterator[tuple[Inbox, ActionPort]]:
    inbox = Inbox(DISCRETE, "secret", tell=lambda _: None)
    port = ActionPort(inbox, "127.0.0.1", 0)
    yield inbox, port
    port.close()


# The inbox


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"action": 4, "token": "secret"}', "taken"),
        ('{"action": 4}', "token"),
        ('{"action": 4, "token": "secres"}', "token"),
        ('{"action": 4, "token": ["secret"]}', "token"),
        ('{"action": 4, "token": "\\ud800"}', "token"),
        ('{"action": 0, "token": "secret"}', "action"),
        ('{"action": 5, "token": "secret"}', "action"),
        ('{"action": true, "token": "secret"}', "action"),
        ('{"action": 2.0, "token": "secret"}', "action"),
        ('{"action": null, "token": "secret"}', "action"),
        ("[4]", "malformed"),
        ("{", "malformed"),
        ("\x00\xff", "malformed"),
        ("[" * (MAX_MESSAGE - 1), "malformed"),
        ('{"token": "secret"}', "malformed"),
        ('{"action": 4, "token": "secret", "x": "' + "y" * MAX_MESSAGE + '"}', "long"),
    ],
)
def test_a_message_is_taken_or_counted(text: str, kind: str) -> None:
    told: list[str] = []
    inbox = Inbox(DISCRETE, "secret", tell=told.append)
    refusal = inbox.take(text.encode("utf-8", "surrogatepass"))
    assert inbox.counts == {kind: 1}
    assert (refusal.kind if refusal else "taken") == kind
    assert (refusal is None) == (not told)
    assert inbox.newest().tolist() == ([3] if kind == "taken" else [0])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"action": [0.5, -1]}', "taken"),
        ('{"action": [0.5]}', "action"),
        ('{"action": [0.5, NaN]}', "action"),
        ('{"action": [0.5, 1e999]}', "action"),
        ('{"action": ["a", "b"]}', "action"),
        ('{"action": {"a": 1}}', "action"),
    ],
)
def test_floats_for_a_box(text: str, kind: str) -> None:
    inbox = Inbox(BOX, tell=lambda _: None)
    inbox.take(text.encode())
    assert inbox.counts == {kind: 1}
    # the agent's side of the space is [-1, 1]
    assert inbox.newest().tolist() == [[0.25, -0.5] if kind == "taken" else [0, 0]]


def test_a_flood_of_nonsense_is_told_once_a_second() -> None:
    told: list[str] = []
    inbox = Inbox(DISCRETE, tell=told.append)
    for _ in range(500):
        inbox.take(b"nonsense")
    assert len(told) == 1 and inbox.counts["malformed"] == 500


def test_a_line_without_an_end_closes_its_connection_alone(port: tuple[Inbox, ActionPort]) -> None:
    inbox, server = port
    good = open_sink(f"tcp://127.0.0.1:{server.port}", token="secret")
    with socket.create_connection(("127.0.0.1", server.port)) as bad:
        bad.sendall(b"x" * (MAX_MESSAGE + 1))
        with bad.makefile() as answers:  # then the connection is closed
            (answer,) = [json.loads(line) for line in answers]
        assert answer == {"refused": "long", "why": f"it is longer than {MAX_MESSAGE} bytes"}
    assert inbox.counts["long"] == 1
    with socket.create_connection(("127.0.0.1", server.port)) as split:
        line = json.dumps({**message(action=3), "token": "secret"}).encode() + b"\n"
        for byte in (line[:5], line[5:20], line[20:] + line[:7]):
            split.sendall(byte)
            time.sleep(0.02)
        assert until(lambda: inbox.counts["taken"] == 1)
    assert good.send(message(action=4)) and until(lambda: inbox.newest().tolist() == [3])
    good.close()


# Sinks


def test_tcp_sends_lines_with_the_token(port: tuple[Inbox, ActionPort]) -> None:
    inbox, server = port
    sink = open_sink(f"tcp://127.0.0.1:{server.port}", token="secret")
    assert sink.send(message(action=2)) and sink.fault == ""
    assert until(lambda: inbox.counts["taken"] == 1)
    sink.close()


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_token_that_is_refused_is_hopeless(port: tuple[Inbox, ActionPort], token: str) -> None:
    inbox, server = port
    sink = open_sink(f"tcp://127.0.0.1:{server.port}", token=token)
    sink.send(message(action=2))
    assert until(lambda: not sink.send(message(action=2)))
    assert sink.hopeless and "its token is missing or wrong (--token, or" in sink.fault
    before = inbox.counts["token"]
    assert not sink.send(message(action=2)) and inbox.counts["token"] == before > 0
    sink.close()


def test_each_refusal_counts_as_one_dropped(port: tuple[Inbox, ActionPort]) -> None:
    inbox, server = port
    sink = open_sink(f"tcp://127.0.0.1:{server.port}", token="secret")
    assert sink.send(message(action=2))
    for _ in range(3):
        sink.send(message(action=17))
        assert until(lambda: inbox.counts["action"] > 0)
    assert until(lambda: inbox.counts["action"] == 3)
    time.sleep(0.1)
    told = [sink.send(message(action=3)) for _ in range(6)]
    faults = 3 - told.count(False)  # of those that the loop above was told already
    assert 0 <= faults < 3 and told[-3:] == [True] * 3 and sink.fault == ""
    assert not sink.hopeless and until(lambda: inbox.newest().tolist() == [2])
    sink.send(message(action=17))
    assert until(lambda: not sink.send(message(action=3)))
    assert "refused it: action is 17; expected 1 to 4" in sink.fault
    sink.close()


def test_a_function_that_hangs_drops_actions_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("envs.camera.sinks.PATIENCE", 0.05)
    free, calls = threading.Event(), []

    def move(action: int) -> None:
        calls.append(action)
        free.wait(5)

    sink = open_sink(move)
    began = time.monotonic()
    assert not sink.send(message(action=1)) and not sink.send(message(action=2))
    assert time.monotonic() - began < 1 and "has not returned for" in sink.fault
    free.set()
    assert until(lambda: sink.send(message(action=3)))
    assert calls == [1, 3] and sink.fault == ""
    sink.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (OSError("no\npower"), "OSError: no power"),
    ],
)
def test_a_function_that_raises_drops_the_action_alone(error: BaseException, text: str) -> None:
    def move(action: int) -> None:
        if action == 1:
            raise error

    sink = open_sink(move)
    assert not sink.send(message(action=1))
    assert sink.fault == f"the sink raised {text}"
    assert sink.send(message(action=2))
    sink.close()


@pytest.mark.parametrize(
    "answer",
    [b"ok\n", b"[1]\n", b'{"refused": 3}\n', b"[" * 9_999 + b"\n", b"x" * 70_000, b"\xff\n"],
)
def test_other_answers_are_thrown_away(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sink = open_sink(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answer)
            time.sleep(0.05)
            assert all(sink.send(message(n)) for n in range(8))
            connection.sendall(b'\n{"refused": "x", "why": "red\\u001b[31m"}\n')
            assert until(lambda: not sink.send(message())) and sink.fault.endswith("red [31m")
        sink.close()


def test_a_tcp_sink_reconnects_and_sends_nothing_old() -> None:
    def serve(listener: socket.socket) -> list[int]:
        connection, _ = listener.accept()
        with connection, connection.makefile() as lines:
            return [json.loads(next(lines))["seq"]]

    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    sink = open_sink(f"tcp://{address[0]}:{address[1]}")
    assert sink.send(message(1)) and serve(listener) == [1]  # then the connection is closed
    listener.close()
    assert until(lambda: not sink.send(message(2)))
    assert "closed" in sink.fault or "reset" in sink.fault or "refused" in sink.fault
    listener = socket.create_server(address)
    for seq in range(3, 200):
        if sink.send(message(seq)):
            break
        time.sleep(0.02)
    assert seq > 3 and serve(listener) == [seq]  # the first line is the one that was told as sent
    sink.close()
    listener.close()


def test_a_receiver_that_does_not_read_holds_nothing_up() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sink = open_sink(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    long = {**message(), "action": [0.5] * 400}
    started = time.monotonic()
    sent = [sink.send(long) for _ in range(3000)]
    assert time.monotonic() - started < 3
    assert sent[0] and not sent[-1] and sink.fault
    sink.close()
    listener.close()


def test_udp_sends_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(2)
        sink = open_sink(f"udp://127.0.0.1:{receiver.getsockname()[1]}", token="t")
        assert sink.send(message(7))
        content = json.loads(receiver.recv(MAX_MESSAGE))
        assert content == {**message(7), "token": "t"}
    assert until(lambda: not sink.send(message(8))) and "refused" in sink.fault
    sink.close()


def test_a_function_gets_the_action_and_may_fail() -> None:
    got: list[Any] = []

    def move(action: Any) -> None:
        got.append(action)
        if action == 3:
            raise OSError("motor")

    sink = open_sink(move)
    assert sink.send(message(action=2)) and not sink.send(message(action=3))
    assert sink.fault == "the sink raised OSError: motor" and got == [2, 3]
    assert sink.send(message(action=2)) and sink.fault == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stdot", "unknown sink 'stdot'; expected stdout, tcp://HOST:PORT"),
        ("tcp://127.0.0.1", "unknown sink 'tcp://127.0.0.1'"),
        ("tcp://127.0.0.1:99999", "port 99999 must lie in"),
        ("tcp://127.0.0.1:9", "sink tcp://127.0.0.1:9: .*refused"),
        ("tests.support:Tagged", "sink 'tests.support:Tagged': tests.support has no 'Tagged'; did"),
    ],
)
def test_a_sink_that_does_not_open(name: str, text: str) -> None:
    with pytest.raises((ValueError, ConnectionError), match=text):
        open_sink(name)


# An environment as a camera


class Drawn(TaggedEnv):
    """A TaggedEnv that draws its whole tag in grey blocks that JPEG can't blur."""

    def render(self) -> np.ndarray:
        tag = self._tag()
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[:32, :32], picture[:32, 32:] = tag.step * 20, (tag.action + 1) * 60
        picture[32:] = tag.episode * 30
        return picture


def tag(image: np.ndarray) -> Tag:
    blocks = (image[48, 32], image[16, 16], image[16, 48])
    episode, step, action = (int(block[0]) for block in blocks)
    return Tag(0, round(episode / 30), round(step / 20), round(action / 60) - 1)


@pytest.fixture
def sim() -> Iterator[Callable[..., Sim]]:
    with ExitStack() as stack:

        def start(**options: Any) -> Sim:
            env = "tests.envs.test_camera_actions:Drawn"
            return stack.enter_context(playing(env, **{"rate": 20, **options}))

        yield start


def post(sim: Sim, body: bytes, kind: str = "application/json") -> int:
    with closing(http.client.HTTPConnection(sim.page.split("/")[2], timeout=5)) as connection:
        connection.request("POST", "/action", body, {"Content-Type": kind})
        return connection.getresponse().status


def get(sim: Sim, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(sim.page.split("/")[2], timeout=5)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_the_loop_is_closed_over_sockets(sim: Callable[..., Sim]) -> None:
    """Each action taken is seen in a later picture, and episodes follow one another."""
    running = sim(rate=40)
    sink = open_sink(running.actions)
    with open_camera(running.stream) as camera:
        for action in (2, 0, 1):
            sink.send(message(action=action))
            assert until(lambda action=action: tag(camera.latest().image).action == action)
        seen = set()
        assert until(lambda: seen.add(tag(camera.latest().image).episode) or len(seen) > 2)
    status = json.loads(get(running, "/status")[1])
    assert status["episodes"] >= 2 and status["lengths"][:2] == [5, 7]
    # rewards of TaggedEnv: episode + step / 1000
    assert status["scores"][0] == pytest.approx(sum(s / 1000 for s in range(1, 6)), abs=1e-4)
    assert status["actions"]["taken"] == 3 and 20 < status["measured_rate"] < 60
    sink.close()


def test_a_sim_that_waits_steps_once_for_each_answer(sim: Callable[..., Sim]) -> None:
    running = sim(rate=100, wait=30)
    sink = open_sink(running.actions)
    with open_camera(running.stream, frozen=0) as camera:
        sink.send(message(action=1))  # from the first action on
        assert until(lambda: tag(camera.latest().image).action == 1)
        time.sleep(0.1)
        for action in (2, 0, 2):
            before = running.status()["step"]
            sink.send(message(action=action))
            assert until(lambda before=before: running.status()["step"] == before + 1)
            time.sleep(0.1)
            assert running.status()["step"] == before + 1
    sink.close()
    for _ in range(2):  # so that closing need not wait
        post(running, b'{"action": 0}')


def test_actions_by_post_and_the_page(sim: Callable[..., Sim]) -> None:
    running = sim(token="secret")
    with open_camera(running.stream) as camera:
        assert post(running, b'{"action": 2, "token": "secret"}') == 200
        assert until(lambda: tag(camera.latest().image).action == 2)
    assert post(running, b'{"action": 1, "token": "wrong"}') == 403
    assert post(running, b'{"action": 9, "token": "secret"}') == 400
    assert post(running, b"action=1", "application/x-www-form-urlencoded") == 415
    assert post(running, b"x" * (MAX_MESSAGE + 1)) == 413
    code, page = get(running, "/")
    assert code == 200 and b"/stream.mjpg" in page and b"/status" in page
    assert get(running, "/frame.jpg")[1].startswith(b"\xff\xd8")
    assert get(running, "/etc/passwd")[0] == 404
    assert json.loads(get(running, "/status")[1])["actions"] == {
        "taken": 1, "token": 1, "action": 1, "long": 1
    }  # fmt: skip


def test_a_camera_sim_listens_to_this_machine_alone(sim: Callable[..., Sim]) -> None:
    running = sim()
    assert "127.0.0.1" in running.page and "127.0.0.1" in running.actions
    port = int(running.page.split(":")[2].strip("/"))
    with pytest.raises(ConnectionError, match=f"port {port} on 127.0.0.1: .*in use; --port gives"):
        sim(port=port)
    taken = int(running.actions.rpartition(":")[2])
    with pytest.raises(ConnectionError, match=f"action port {taken} on 127.0.0.1: .*--action-port"):
        sim(action_port=taken)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quality": 0}, "quality is 0; it must lie"),
        ({"rate": -1}, "rate is -1; it must lie in"),
        ({"wait": 61}, "wait is 61; it must lie in"),
    ],
)
def test_a_wrong_option_of_the_sim(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Sim(EnvConfig(env="CartPole-v1"), **options)
