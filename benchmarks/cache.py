"""A frozen encoder's features in the replay, beside the frames: memory, and time to act and learn.

    python -m benchmarks.cache [--json FILE] [--names nature resnet18] [--capacity 100000]

DQN with a frozen encoder on random frames of 84x84 in stacks of four, which eight environments
write. Both ways have the same network and batch. "step" is what a vector step costs beside the
environment: storing it and choosing the next actions; "update" samples, learns and hands the
errors back. Memory is that of a full replay, over its capacity. In turns, medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from agents.dqn import DQN
from agents.graph import Learner
from benchmarks.harness import OURS, Row, interleave, report
from configs.dqn import DQNConfig
from replay import FeatureReplay, Field, PrioritizedReplay

FRAMES = "frames"
LANES = 8
FIELD = Field((1, 84, 84), "uint8", 4)
ENCODERS: dict[str, dict[str, object]] = {
    "nature": {"encoder": "nature"},
    "resnet18": {"encoder": "resnet18", "encoder_head": "pool"},
    "resnet18, width 0.25": {
        "encoder": "resnet18",
        "encoder_head": "pool",
        "encoder_width": 0.25,
    },
}


def system(name: str, cached: bool, capacity: int, batch: int) -> tuple[PrioritizedReplay, DQN]:
    """A replay with enough in it to sample from, and an agent whose encoder is frozen."""
    config = DQNConfig(**ENCODERS[name], encoder_freeze=True, encoder_cache=cached)  # type: ignore[arg-type]
    agent = DQN(config, FIELD.stacked_shape, 6, seed=1)
    make = partial(FeatureReplay, encode=agent.encode) if cached else PrioritizedReplay
    replay = make(capacity, FIELD, lanes=LANES, n_step=config.n_step, seed=1)
    replay.reset(frames())
    for _ in range(max(20, 2 * batch // LANES)):
        step(replay, agent)()
    return replay, agent


def frames() -> np.ndarray:
    """The newest frame of each environment."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (LANES, *FIELD.shape), dtype=np.uint8)


def step(replay: PrioritizedReplay, agent: DQN) -> Callable[[], object]:
    """Store a vector step, and choose the actions of the next."""
    frame, still = frames(), np.zeros((2, LANES), bool)
    agent.epsilon = 0.0

    def run() -> None:
        action = agent.act(replay.latest())
        replay.add(frame, action, np.zeros(LANES), *still)

    return run


def measure(name: str, capacity: int, batch: int, repeats: int) -> list[Row]:
    """One encoder both ways: bytes, milliseconds, and ratios."""
    systems = {kind: system(name, kind == OURS, capacity, batch) for kind in (OURS, FRAMES)}
    rows = [
        Row(f"{name}: memory a transition", kind, replay.bytes_per_transition, "B")
        for kind, (replay, _) in systems.items()
    ]
    cases: dict[str, dict[str, Callable[[], object]]] = {
        "step": {kind: step(*both) for kind, both in systems.items()},
        "update": {
            kind: Learner(agent, replay, batch) for kind, (replay, agent) in systems.items()
        },
    }
    for case, runs in cases.items():
        seconds = interleave(runs, repeats)
        rows += [
            Row(f"{name}: {case}", kind, 1e3 * median(times), "ms")
            for kind, times in seconds.items()
        ]
        pairs = zip(seconds[FRAMES], seconds[OURS], strict=True)
        ratio = median(a / b for a, b in pairs)
        rows.append(Row(f"{name}: {case}, frames over features", OURS, ratio, "x"))
    return rows


def main() -> None:
    """Measure every encoder, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="transitions an update")
    parser.add_argument("--capacity", type=int, default=100_000, help="transitions held")
    parser.add_argument("--repeats", type=int, default=30, help="rounds that count")
    parser.add_argument("--names", nargs="+", choices=ENCODERS, default=[*ENCODERS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    options = parser.parse_args()
    rows = []
    for name in options.names:
        rows += measure(name, options.capacity, options.batch, options.repeats)
        print(f"{name}: done", flush=True)
    report("cached features", rows, options.json)


if __name__ == "__main__":
    main()
