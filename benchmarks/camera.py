"""Live control measured on a local camera: camera-sim in a process of its own, over real sockets.

    python -m benchmarks.camera                 actions/s, and latency at 20 Hz
    python -m benchmarks.camera --soak 600      at 30 Hz: memory, descriptors, latency
    python -m benchmarks.camera --faults        what each fault of feed, sink and clock does
    python -m benchmarks.camera --score DIR     a run's score by camera, beside its direct one

The agent of the first three is the Nature network on console pictures (210x160, JPEG), unlearned:
its arithmetic is the same. End to end is from the arrival of a picture's last byte to the action's
hand-over to the socket.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import psutil

from agents.live import Live
from agents.live_config import LiveConfig
from agents.player import Player
from benchmarks.harness import OURS, Row, report
from envs.camera import Feed, View, open_camera, open_sink

LATENCIES = ("age_ms", "inference_ms", "end_to_end_ms")


class Address(NamedTuple):
    """Where a camera-sim is to be found."""

    page: str
    camera: str
    actions: str


@contextlib.contextmanager
def camera_sim(env: str, rate: float, *more: str) -> Iterator[Address]:
    """A camera-sim in a process of its own."""
    words = ["camera-sim", "--env", env, "--port", "0", "--rate", str(rate), *more]
    process = subprocess.Popen([sys.executable, "-m", "agents", *words], stdout=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stdout is not None
    try:
        yield Address(*(process.stdout.readline().split()[1] for _ in range(3)))
    finally:
        process.terminate()
        process.communicate()


def nature() -> Player:
    """The Nature network over four console pictures, as drawn."""
    import torch

    from agents.dqn import DQN
    from configs.dqn import DQNConfig
    from envs.actions import actions
    from replay import Field

    torch.set_num_threads(1)
    agent = DQN(DQNConfig(encoder="nature", encoder_width=1.0, hidden=512, noisy=False,
                          distributional=False, dueling=False), (4, 84, 84), 4)  # fmt: skip
    taken = actions(gymnasium.spaces.Discrete(4), "Breakout")
    return Player(agent, Field((1, 84, 84), "uint8", 4), taken, atari=True)


def live(
    feed: Feed, actions: str, seconds: float, during: Callable[[Live], None] | None = None,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """The report of a loop that ran for so long; `during` is called each second."""
    sink = open_sink(actions)
    loop = Live(nature(), feed, View(), sink, LiveConfig(max_seconds=seconds, **options))
    loop.speed()
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=[stop])
    thread.start()
    try:
        while thread.is_alive():
            thread.join(1)
            if during is not None:
                during(loop)
    finally:
        stop.set()
        thread.join()
        sink.close()
    return loop.report()


def speed(seconds: float) -> list[Row]:
    """The most actions a second, and latency at 20 Hz from a camera of 60."""
    with camera_sim("Breakout", 400) as at, open_camera(at.camera) as feed:
        most = live(feed, at.actions, seconds, rate=0)
        rows = [Row("most actions a second", OURS, most["reached"], "1/s"),
                Row("its camera", OURS, feed.rate, "frames/s")]  # fmt: skip
    with camera_sim("Breakout", 60) as at, open_camera(at.camera) as feed:
        steady = live(feed, at.actions, seconds, rate=20)
    rows += [Row("actions at 20 Hz", OURS, steady["reached"], "1/s"),
             Row("deadlines missed", OURS, steady["messages"]["missed"], "")]  # fmt: skip
    rows += _latencies(steady, "at 20 Hz")
    return rows


def soak(seconds: float) -> list[Row]:
    """30 Hz for a long time: memory and descriptors at the start, the middle and the end."""
    process = psutil.Process()
    samples: list[tuple[float, int]] = []

    def sample(_: Live) -> None:
        samples.append((process.memory_info().rss / 1e6, process.num_fds()))

    with camera_sim("Breakout", 30) as at, open_camera(at.camera) as feed:
        result = live(feed, at.actions, seconds, sample, rate=0)
    warm = min(len(samples) - 1, max(1, len(samples) // 10))
    moments = {"a tenth": warm, "half": len(samples) // 2, "all": -1}
    rows = [Row(f"memory after {name}", OURS, samples[i][0], "MB") for name, i in moments.items()]
    rows += [
        Row("descriptors gained", OURS, samples[-1][1] - samples[warm][1], ""),
        Row("actions", OURS, result["messages"]["actions"], ""),
        Row("actions a second", OURS, result["reached"], "1/s"),
        Row("safe actions but the last", OURS, result["messages"]["safe"] - 1, ""),
    ]
    return rows + _latencies(result, "at 30 Hz")


def score(folder: Path, episodes: int, rate: float, wait: float, quality: int) -> list[Row]:
    """A run's mean score over the camera and directly, with the protocol's share of chance."""
    from agents.config import load
    from agents.evaluate import evaluate_run
    from envs import PROTOCOLS

    chosen = load(folder)
    epsilon = PROTOCOLS[chosen.env.protocol].evaluation_epsilon
    direct = evaluate_run(folder, episodes, epsilon)
    options = ["--protocol", chosen.env.protocol, "--quality", str(quality),
               "--wait", str(wait)]  # fmt: skip
    with camera_sim(chosen.env.env, rate, *options) as at:
        # from the picture's arrival the loop has one period: act as each comes
        words = ["run", str(folder), "--camera", at.camera, "--sink", at.actions, "--rate", "0",
                 "--epsilon", str(epsilon), "--frozen", "0"]  # fmt: skip
        agent = subprocess.Popen([sys.executable, "-m", "agents", *words])
        try:
            skip = None  # what was played before the agent acted does not count
            while True:
                time.sleep(1)
                with urllib.request.urlopen(f"{at.page}status") as answer:
                    status = json.load(answer)
                if skip is None and status["actions"].get("taken"):
                    skip = status["episodes"] + 1
                if skip is not None and status["episodes"] >= skip + episodes:
                    break
                if agent.poll() is not None:
                    raise SystemExit(f"agents run ended with {agent.returncode}")
        finally:
            agent.terminate()
            agent.wait()
    scores = status["scores"][skip : skip + episodes]
    mean = sum(scores) / len(scores)
    return [
        Row(f"{chosen.env.env}, direct", OURS, direct["mean"], f"mean of {episodes}"),
        Row(f"{chosen.env.env}, camera at {rate:g} Hz, wait {wait:g} s, JPEG {quality}", OURS, mean,
            f"mean of {episodes}"),
        Row("share of the direct score", OURS, 100 * mean / direct["mean"], "%"),
        Row("steps that came late", OURS, status["late"], ""),
    ]  # fmt: skip


def _latencies(result: dict[str, Any], case: str) -> list[Row]:
    return [
        Row(f"{name.removesuffix('_ms').replace('_', ' ')} {case}, {share}", OURS,
            result[name][share], "ms")
        for name in LATENCIES
        for share in ("p50", "p95", "p99")
    ]  # fmt: skip


def main() -> None:
    """Run what was asked for, print its table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=30, help="of each speed measurement")
    parser.add_argument("--soak", type=float, help="seconds of a soak at 30 Hz")
    parser.add_argument("--faults", type=float, nargs="?", const=10, help="seconds of each fault")
    parser.add_argument("--score", type=Path, help="run folder whose score to compare")
    parser.add_argument("--episodes", type=int, default=30, help="of each score")
    parser.add_argument("--rate", type=float, default=30, help="of the camera, for --score")
    parser.add_argument("--wait", type=float, default=0.5, help="of camera-sim, for --score")
    parser.add_argument("--quality", type=int, default=90, help="of its JPEGs, for --score")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    if options.faults:
        from benchmarks import camera_faults

        camera_faults.table(options.faults, nature)
        return
    if options.soak:
        rows = soak(options.soak)
    elif options.score:
        rows = score(options.score, options.episodes, options.rate, options.wait, options.quality)
    else:
        rows = speed(options.seconds)
    report("camera", rows, options.json)


if __name__ == "__main__":
    main()
