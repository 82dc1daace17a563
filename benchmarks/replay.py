"""Prioritised replay on one thread: `python -m benchmarks.replay [--json FILE]`.

The first cases draw a batch of indices with importance weights from 2^20 transitions and hand new
errors back; the peers run where they are installed (the extra bench). cpprb can't draw without its
batch: it gathers one float a transition. TorchRL's wheels each fit one torch, so that it is no part
of the extra (torchrl 0.13.3 fits torch 2.11). The other cases are Atari's: 84x84 frames, stack 4,
n-step 3, eight lanes, in a ring of 60,000.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness import OURS, Row, interleave, positive, report
from replay import Field, PrioritizedReplay
from replay.device import reason

SIZE = 1 << 20
ALPHA, BETA = 0.6, 0.4
BATCHES = (32, 256, 1024)

Step = Callable[[int], object]


def errors(count: int) -> np.ndarray:
    """Skewed like errors are: half-normal, in float32."""
    return np.abs(np.random.default_rng(count).normal(size=count)).astype(np.float32)


def sightline() -> Step:
    """Ours; its tree is asked for slots, which are the row ids while the ring has not wrapped."""
    lanes = 1024
    replay = PrioritizedReplay(SIZE, Field((), "float32"), lanes=lanes, alpha=ALPHA)
    frame, action = np.zeros(lanes, np.float32), np.zeros(lanes, np.int64)
    never = np.zeros(lanes, np.bool_)
    replay.reset(frame)
    for _ in range(SIZE // lanes - 1):
        replay.add(frame, action, frame, never, never)
    for first in range(0, replay.sampleable, 1 << 16):
        index = torch.arange(first, min(first + (1 << 16), replay.sampleable))
        replay.update(index, torch.from_numpy(errors(len(index))))
    given = {batch: torch.from_numpy(errors(batch)) for batch in BATCHES}

    store: Any = replay.store

    def step(batch: int) -> None:
        index, _ = store.tree.draw(store.generator.random(batch), BETA)
        replay.update(torch.from_numpy(index), given[batch])

    return step


def tianshou() -> Step:
    """Its sampler's three calls; the data beside them are one transition and are not gathered."""
    from tianshou.data import Batch, PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(SIZE, alpha=ALPHA, beta=BETA)
    buffer.add(
        Batch(obs=0.0, act=0, rew=0.0, terminated=False, truncated=False, obs_next=0.0, info={})
    )
    buffer.update_weight(np.arange(SIZE), errors(SIZE))
    given = {batch: errors(batch) for batch in BATCHES}

    def step(batch: int) -> None:
        index = buffer.sample_indices(batch)
        weight = buffer.get_weight(index)
        weight / np.max(weight)
        buffer.update_weight(index, given[batch])

    return step


def cpprb() -> Step:
    """Its prioritised buffer with one float a transition."""
    from cpprb import PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(SIZE, {"obs": {}}, alpha=ALPHA)
    buffer.add(obs=np.zeros((SIZE, 1)), priorities=errors(SIZE))
    given = {batch: errors(batch) for batch in BATCHES}

    def step(batch: int) -> None:
        drawn = buffer.sample(batch, beta=BETA)
        buffer.update_priorities(drawn["indexes"], given[batch])

    return step


def torchrl(device: str = "cpu") -> Step:
    """Its sampler's two calls, on trees there; RuntimeError where its wheel doesn't fit."""
    from torchrl.data import LazyTensorStorage, PrioritizedSampler

    sampler = PrioritizedSampler(SIZE, alpha=ALPHA, beta=BETA)
    storage = LazyTensorStorage(SIZE, device=device)
    storage.set(range(SIZE), torch.zeros(SIZE, 1, device=device))
    every = torch.arange(SIZE, device=device)
    sampler.extend(every)
    sampler.update_priority(every, torch.from_numpy(errors(SIZE)).to(device))
    given = {batch: torch.from_numpy(errors(batch)).to(device) for batch in BATCHES}

    def step(batch: int) -> None:
        index, _ = sampler.sample(storage, batch)
        sampler.update_priority(index, given[batch])

    return step


def priorities(rounds: int) -> list[Row]:
    """Microseconds of sample, weights and update, by system and batch size."""
    systems: dict[str, Step] = {OURS: sightline()}
    for make in (tianshou, cpprb, torchrl):
        try:
            systems[make.__name__] = make()
        except (ImportError, RuntimeError) as error:
            print(f"{make.__name__} is left out: {reason(error)}")
    rows = []
    for batch in BATCHES:
        cases = {name: partial(step, batch) for name, step in systems.items()}
        for name, seconds in interleave(cases, rounds, calls=100).items():
            case = f"sample + weights + update, batch {batch}"
            rows.append(Row(case, name, 1e6 * median(seconds), "µs"))
    return rows


def atari(rounds: int) -> list[Row]:
    """What the training loop calls, with whole frames, and the bytes that they take."""
    lanes, generator = 8, np.random.default_rng(0)
    replay = PrioritizedReplay(60_000, Field((1, 84, 84), "uint8", 4), lanes=lanes, n_step=3)
    frame = generator.integers(0, 256, (lanes, 1, 84, 84), dtype=np.uint8)
    action, reward = np.zeros(lanes, np.int64), np.zeros(lanes, np.float32)
    never = np.zeros(lanes, np.bool_)
    replay.reset(frame)

    def add() -> None:
        replay.add(frame, action, reward, never, never)

    for _ in range(replay.capacity // lanes):
        add()
    batch = replay.sample(32)
    error = torch.from_numpy(errors(32))
    cases: dict[str, Callable[[], object]] = {
        "add, 8 lanes of 84x84": add,
        "latest, 8 lanes of 4x84x84": replay.latest,
        "sample, batch 32 of 4x84x84": partial(replay.sample, 32, BETA),
        "update, batch 32": lambda: replay.update(batch.index, error),
    }
    rows = [
        Row(case, OURS, 1e6 * median(seconds), "µs")
        for case, seconds in interleave(cases, rounds, calls=50).items()
    ]
    rows.append(Row("84x84 transition", OURS, replay.bytes_per_transition, "bytes"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--rounds", type=positive, default=20, help="turns that each case takes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report("replay", [*priorities(options.rounds), *atari(options.rounds)], options.json)


if __name__ == "__main__":
    main()
