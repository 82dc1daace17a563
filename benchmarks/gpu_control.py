"""Continuous control on a CUDA GPU: `python -m benchmarks.gpu_control [--minutes 9] [--json FILE]`.

One command that stops by itself: the update as CUDA graphs against the same update eagerly, in
numbers and in updates a second, from states and from pixels; then cartpole swingup from pixels for
the time left, with DrQ-v2's own sizes (its encoder, 1024 units, batches of 256), its curve and a
final evaluation. What fails is told and the rest goes on. `--quick` shrinks everything, to try the
script; without a GPU it runs on the CPU, whose figures mean nothing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from agents.config import resolve
from agents.ddpg import DDPG
from agents.evaluate import summary
from agents.graph import WARM, Learner
from agents.loop import evaluate
from agents.start import create
from benchmarks import sections
from benchmarks.harness import OURS, Row
from benchmarks.sections import Section
from configs.ddpg import DDPGConfig
from envs import make
from replay import Field, PrioritizedReplay

STATES, ACTIONS, LANES = Field((17,), "float32"), 6, 8
DRQV2 = {"encoder": "drq", "hidden": 1024, "batch_size": 256}
TASK = "dmc/cartpole-swingup"
EVALUATION = 30.0
"""Seconds kept for the final evaluation."""


def filled(field: Field, device: str, n_step: int) -> PrioritizedReplay:
    """A replay of a few hundred random steps."""
    replay = PrioritizedReplay(
        4096, field, Field((ACTIONS,), "float32"), lanes=LANES, n_step=n_step, device=device
    )
    draw = np.random.default_rng(0)

    def frame() -> np.ndarray:
        return draw.integers(0, 256, (LANES, *field.shape)).astype(field.dtype)

    replay.reset(frame())
    for _ in range(100):
        flags = draw.random((2, LANES)) < 0.02
        action = draw.uniform(-1, 1, (LANES, ACTIONS)).astype(np.float32)
        replay.add(frame(), action, draw.normal(size=LANES), *flags)
    return replay


def cases(quick: bool) -> dict[str, tuple[DDPGConfig, Field]]:
    """Configs of the updates that are measured, with what they see."""
    states = resolve("ddpg", "default", {}, image=False).agent
    pixels = resolve("ddpg", "pixels", {}, image=True).agent
    size = 24 if quick else 84
    seen = Field((3, size, size), "uint8", 3)
    small = {"batch_size": 8, "hidden": 16} if quick else {}
    wide = {"encoder_width": 0.1, "encoder": "drq", **small} if quick else DRQV2
    return {
        "states, default": (replace(states, **small), STATES),
        "pixels, preset pixels": (replace(pixels, **small), seen),
        "pixels, DrQ-v2's sizes": (replace(pixels, **wide), seen),
    }


def step(config: DDPGConfig, field: Field, device: str, graph: bool) -> Learner:
    """A learner's step on random data, always the same."""
    agent = DDPG(config, field.stacked_shape, ACTIONS, device=device, seed=1)
    return Learner(agent, filled(field, device, config.n_step), config.batch_size, graph=graph)


def updates(quick: bool, device: str, until: float) -> Iterator[Row]:
    """Updates a second, as graphs and eagerly, and how far the two are apart after a few."""
    count, loss = 4 if quick else 300, {}
    for kind in ("eager", "graphs", "compiled graphs") if device == "cuda" else ("eager",):
        for name, (config, field) in cases(quick).items():
            if time.time() > until - 30 * ("compiled" in kind):
                print(f"left out for want of time: {kind}, {name}")
                continue
            one = step(config, field, device, "graphs" in kind)
            if "compiled" in kind:
                torch._dynamo.reset()  # or the kinds before count towards its limit
                one.agent.compile()
            for _ in range(2 * WARM * config.policy_every):
                one()
            loss[name, kind] = float(one()["loss"])
            wait(device)
            begin = time.perf_counter()
            for _ in range(count):
                one()
            wait(device)
            speed = count / (time.perf_counter() - begin)
            yield Row(f"update, {name}", f"{OURS} {kind}", speed, "updates/s")
            if kind != "eager":
                apart = abs(loss[name, kind] - loss[name, "eager"])
                apart /= max(abs(loss[name, "eager"]), 1e-9)
                yield Row(f"loss apart, {name}", f"{OURS} {kind}", apart, "share")


def learn(quick: bool, device: str, until: float, folder: Path) -> Iterator[Row]:
    """Cartpole swingup from pixels until the time is up: curve, frames, final evaluation."""
    seconds = max(5.0, until - time.time() - EVALUATION)
    small: dict[str, Any] = {"size": 24, "learning_starts": 50, "batch_size": 8, "hidden": 16}
    options: dict[str, Any] = {"env": TASK, "pixels": True, "device": device, "steps": 10**6}
    session = create(
        "ddpg", "pixels", {**options, **(small if quick else DRQV2), "out": str(folder)}
    )
    repeat = session.config.env.action_repeat
    begin, scores, told = time.perf_counter(), [], 0.0
    for tick in session.ticks():
        spent = time.perf_counter() - begin
        scores += [episode.score for episode in tick.episodes]
        if spent - told >= 30 and scores:
            told = spent
            print(
                f"{spent:5.0f} s  {tick.step * repeat:,} frames  return {fmean(scores[-10:]):.0f}",
                flush=True,
            )
        if spent >= seconds:
            break
    env = make(session.config.env, seed=1, num_envs=1 if quick else 4, evaluation=True)
    episodes = [e for ended in evaluate(session.agent, env, env.num_envs) for e in ended]
    result = summary(episodes, env, 0.0)
    env.close()
    session.close()
    print(f"{TASK} from pixels after {session.step * repeat:,} frames: {result['text']}")
    yield Row(f"{TASK} from pixels, return", OURS, result["mean"], "return")
    yield Row(f"{TASK} from pixels, frames", OURS, session.step * repeat, "frames")
    yield Row(f"{TASK} from pixels, agent steps", OURS, session.step / seconds, "steps/s")


def wait(device: str) -> None:
    """Let the device finish."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure, train, print the table, write the JSON."""
    options = sections.parser(__doc__, minutes=9.0).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.rows is None:
        print(f"on {torch.cuda.get_device_name() if device == 'cuda' else 'the CPU'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            Section("updates", lambda until: updates(options.quick, device, until), 180),
            Section("learn", lambda until: learn(options.quick, device, until, Path(folder))),
        ]
        sections.run("benchmarks.gpu_control", options, parts, sys.argv[1:])


if __name__ == "__main__":
    main()
