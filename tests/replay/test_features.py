"""A replay of features samples what the encoder makes of the very stacks that frames would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from replay import FeatureReplay, Field, PrioritizedReplay
from tests.replay.backends import NUMBA, TORCH

IMAGE = Field((1, 2, 3), "uint8", 4)
PARTS = {"camera": IMAGE, "pose": Field((2,), "float32", 2), "wrist": Field((2, 1, 2), "uint8", 1)}
OPTIONS: dict[str, Any] = {"lanes": 3, "n_step": 2, "gamma": 0.9, "alpha": 0.6, "seed": 4}


class Counting:
    """An encoder that keeps every pixel, as a number below 1, and counts what it encodes."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, observation: Any) -> dict[str, Tensor]:
        parts = observation if isinstance(observation, dict) else {"": observation}
        self.images += len(next(iter(parts.values())))
        return {
            name: part.flatten(1).float() / 256 for name, part in parts.items() if part.dim() == 4
        }


def frames(draw: np.random.Generator, spec: Any, count: int) -> Any:
    def one(field: Field) -> np.ndarray:
        return draw.integers(0, 256, (count, *field.shape)).astype(field.dtype)

    return one(spec) if isinstance(spec, Field) else {n: one(f) for n, f in spec.items()}


def play(replays: list[PrioritizedReplay], spec: Any, steps: int, seed: int = 0) -> None:
    """The same steps of some lanes, resets and priorities into each replay."""
    draw = np.random.default_rng(seed)
    for turn in range(steps):
        lanes = np.sort(draw.permutation(3)[: draw.integers(1, 4)]) if turn else None
        count = 3 if lanes is None else len(lanes)
        frame, flags = frames(draw, spec, count), draw.random((2, count)) < 0.1
        action, reward = draw.integers(0, 5, count), draw.normal(size=count)
        for replay in replays:
            if turn == 0 or flags.all():
                replay.reset(frame, lanes)
            else:
                replay.add(frame, action, reward, *flags, lanes)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return torch.equal(a, b)


def encoded(observation: Any) -> Any:
    found = {name: value.half() for name, value in Counting()(observation).items()}
    return observation | found if isinstance(observation, dict) else found[""]


@pytest.mark.parametrize("where", [NUMBA, TORCH])
@pytest.mark.parametrize("spec", [IMAGE, PARTS], ids=["image", "parts"])
def test_samples_are_the_features_of_the_stacks(spec: Any, where: dict[str, str]) -> None:
    encode = Counting()
    plain = PrioritizedReplay(60, spec, **OPTIONS, **where)
    cached = FeatureReplay(60, spec, encode=encode, **OPTIONS, **where)
    play([plain, cached], spec, 70)
    assert equal(encoded(plain.latest()), cached.latest())
    # features reach back to no older frame, so rows stay open that frames would have closed
    assert cached.sampleable >= plain.sampleable > 0
    batch = cached.sample(40, 0.5)
    ours, theirs = (_by_row(replay, 400) for replay in (cached, plain))
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 5 and batch.weight.shape == (40,)
    for row in shared:
        assert equal(ours[row][0], encoded(theirs[row][0]))
        assert equal(ours[row][1], encoded(theirs[row][1]))
        assert ours[row][2:] == theirs[row][2:]


def _by_row(replay: PrioritizedReplay, count: int) -> dict[int, tuple[Any, ...]]:
    batch, found = replay.sample(count), {}

    def at(observation: Any, i: int) -> Any:
        if isinstance(observation, dict):
            return {name: value[i : i + 1] for name, value in observation.items()}
        return observation[i : i + 1]

    for i, row in enumerate(batch.index.tolist()):
        seen, then = at(batch.observation, i), at(batch.next_observation, i)
        rest = (batch.action[i].item(), batch.reward[i].item(), batch.discount[i].item())
        found[row] = (seen, then, *rest)
    return found


def test_each_observation_is_encoded_once_and_none_to_learn() -> None:
    encode = Counting()
    replay = FeatureReplay(60, IMAGE, encode=encode, **OPTIONS)
    assert encode.images == 1  # of zeros, for their length
    draw = np.random.default_rng(0)
    replay.reset(frames(draw, IMAGE, 3))
    for _ in range(10):
        replay.add(frames(draw, IMAGE, 3), np.zeros(3, int), np.zeros(3), *np.zeros((2, 3), bool))
    assert encode.images == 1 + 11 * 3
    for _ in range(5):
        batch = replay.sample(8)
        replay.update(batch.index, batch.reward)
        replay.latest()
    assert encode.images == 1 + 11 * 3


def test_saved_and_loaded_it_goes_on(tmp_path: Path) -> None:
    def make() -> FeatureReplay:
        return FeatureReplay(60, PARTS, encode=Counting(), **OPTIONS)

    whole, before, after = make(), make(), make()
    play([whole, before], PARTS, 30)
    before.save(tmp_path / "a")
    after.load(tmp_path / "a")
    after.save(tmp_path / "b", tmp_path / "a")
    again = make()
    again.load(tmp_path / "b")
    for replay in (whole, again):
        draw = np.random.default_rng(9)
        for _ in range(6):  # the first stacks reach back before the snapshot
            flags = np.zeros((2, 3), bool)
            replay.add(frames(draw, PARTS, 3), np.zeros(3, int), np.zeros(3), *flags)
    a, b = whole.sample(30, 0.5), again.sample(30, 0.5)
    assert equal(a.observation, b.observation) and torch.equal(a.index, b.index)
    assert equal(whole.latest(), again.latest())


def test_values_beyond_half_precision_become_its_bound() -> None:
    def encode(observation: Any) -> dict[str, Tensor]:
        return {"": torch.full((len(observation), 2), 1e6) * torch.tensor([1, -1])}

    replay = FeatureReplay(60, IMAGE, encode=encode, **OPTIONS)
    replay.reset(frames(np.random.default_rng(0), IMAGE, 3))
    latest = replay.latest()
    assert isinstance(latest, Tensor) and latest[0].tolist() == [65504, -65504]


def test_a_part_costs_its_own_bytes() -> None:
    """And a feature 2 bytes a number, whatever the frames."""
    rest = PrioritizedReplay(10_000, Field((1,), "uint8")).nbytes - 10_000
    for part, size in (("camera", 6), ("pose", 8), ("wrist", 4)):
        alone = PrioritizedReplay(10_000, {part: PARTS[part]})
        assert alone.nbytes - rest == 10_000 * size
    together = PrioritizedReplay(10_000, PARTS)
    assert together.nbytes - rest == 10_000 * (6 + 8 + 4)
    cached = FeatureReplay(10_000, PARTS, encode=Counting())
    # a stack of 4 frames has 24 numbers, the other image 4; the pose stays as it is
    assert cached.nbytes - cached.recent.nbytes - rest == 10_000 * (2 * 24 + 8 + 2 * 4)
    assert cached.recent.nbytes < 10_000


def test_vectors_have_no_features() -> None:
    with pytest.raises(ValueError, match=r"needs an image; observations are \(3,\)"):
        FeatureReplay(60, Field((3,), "float32"), encode=Counting())


def test_lanes_whose_encoding_failed_begin_anew() -> None:
    encode = Counting()
    replay = FeatureReplay(60, IMAGE, encode=encode, **OPTIONS)
    play([replay], IMAGE, 4)
    written = replay.store.written.copy()
    never, frame = np.zeros(1, bool), np.ones((1, *IMAGE.shape), np.uint8)

    def full(observation: Any) -> dict[str, Tensor]:
        raise MemoryError("no room for the features")

    replay.encode = full
    with pytest.raises(MemoryError, match="no room"):
        replay.add(frame, [0], [0.0], never, never, lanes=[1])
    replay.encode = encode
    assert np.array_equal(replay.store.written, written)
    replay.add(frame, [0], [0.0], never, never, lanes=[0])
    with pytest.raises(ValueError, match="frame of lane 1 was not encoded; call reset first"):
        replay.add(frame, [0], [0.0], never, never, lanes=[1])
    replay.reset(frame, lanes=[1])
    replay.add(frame, [0], [0.0], never, never, lanes=[1])
    assert np.array_equal(replay.store.written, written + [1, 2, 0])
