"""The device's kernels against the host's: trees, uniforms, whole samples; and their compilation.

Without a GPU, Triton interprets them (tests/conftest.py); sizes are small for its sake.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from replay import Field, PrioritizedReplay
from replay import device as replay_device
from replay.device import kernels_for, launch_one
from replay.tree import PriorityTree
from replay.tree_torch import put
from tests.replay.backends import (
    DEVICE,
    TORCH,
    TRITON,
    NoSync,
    array,
    leaves,
    needs_triton,
    row_ids,
    total,
)
from tests.replay.tree_reference import ReferenceTree

LAST = np.nextafter(1.0, 0.0)  # the greatest uniform that a generator returns
HOUSE = Path(__file__).parents[2]


@dataclass
class Drawn:
    """A replay of one lane, none of whose rows was written: its leaves are set as they are."""

    replay: PrioritizedReplay

    @classmethod
    def of(cls, size: int, where: dict[str, str]) -> Drawn:
        return cls(PrioritizedReplay(size, Field((), "float32"), **where))

    @property
    def store(self) -> Any:
        return self.replay.store

    def set(self, index: np.ndarray, leaf: np.ndarray) -> None:
        """Give leaves `index`, each once, their masses."""
        at = torch.from_numpy(index).to(DEVICE)
        self.store.tree.leaves[at] = torch.from_numpy(leaf).to(DEVICE)
        if hasattr(self.store.tree, "touch"):
            self.store.tree.touch(at)

    def draw(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leaves and weights of a stratified draw."""
        batch = self.store.sample(len(uniforms), 0.7, torch.from_numpy(uniforms).to(DEVICE))
        return array(batch.index) % self.store.rows, array(batch.weight)


def at_edges(edges: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Uniforms (count,), of which each lies at an edge, a share of the mass, in its stratum."""
    uniforms = generator.random(count)
    uniforms[0], uniforms[-1] = 0.0, LAST
    for edge in generator.permutation(edges[edges < 1]):
        stratum = int(edge * count)
        uniforms[stratum] = min(max(edge * count - stratum, 0.0), LAST)
    return uniforms


DEVICES = [TORCH, TRITON]


# ----------------------------------------------------------------------------------------- trees


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("size", [3, 17, 127, 128, 129, 4000, 16_384, 16_385, 40_000])
def test_trees_agree(where: dict[str, str], size: int) -> None:
    generator = np.random.default_rng(size)
    ours, host, twin = Drawn.of(size, where), PriorityTree(size), ReferenceTree(size)
    for turn in range(3):
        index = generator.choice(size, min(size, int(generator.integers(1, 40))), replace=False)
        # Whole numbers add up without rounding in any order, so equal means equal.
        leaf = generator.integers(turn == 0, 9, index.size).astype(np.float32)
        ours.set(index, leaf)
        for tree in (host, twin):
            tree.set(index, leaf)
        assert np.array_equal(leaves(ours.replay)[:size], twin.leaves)
        assert total(ours.replay) == twin.total == host.total
        if not host.total:
            continue
        edges = np.arange(int(host.total)) / host.total
        for count in (1, 50):
            uniforms = at_edges(edges, count, generator)
            found, weight = ours.draw(uniforms)
            expected, share = host.draw(uniforms, 0.7)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(found, twin.draw(uniforms, 0.7)[0])
            np.testing.assert_allclose(weight, share, rtol=2e-7)


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_never_returns_a_zero_leaf(where: dict[str, str], share: float) -> None:
    """Masses from 1e-30 to 1e30, so that every sum rounds, and uniforms at every edge."""
    generator = np.random.default_rng(int(100 * share))
    for size in (3, 300, 2000, 20_000):
        leaf = (10.0 ** generator.uniform(-30, 30, size)).astype(np.float32)
        leaf[generator.random(size) < share] = 0
        leaf[generator.integers(size)] = 1
        tree = Drawn.of(size, where)
        tree.set(np.arange(size), leaf)
        edges = np.cumsum(leaf.astype(np.float64)) / total(tree.replay)
        for uniforms in (at_edges(edges, 200, generator), np.full(20, LAST), np.zeros(20)):
            found, _ = tree.draw(uniforms)
            assert ((found >= 0) & (found < size)).all()
            assert (leaf[found] > 0).all()


@pytest.mark.parametrize("where", DEVICES)
def test_tree_sums_are_exact_after_many_sets(where: dict[str, str]) -> None:
    """Recomputed, never changed by a difference: as if the leaves had been set once."""
    generator = np.random.default_rng(0)
    size = 500
    tree = Drawn.of(size, where)
    for _ in range(20):
        index = generator.choice(size, 50, replace=False)
        leaf = (10.0 ** generator.uniform(-8, 8, 50)).astype(np.float32)
        leaf[generator.random(50) < 0.1] = 0
        tree.set(index, leaf)
    fresh, held = Drawn.of(size, where), leaves(tree.replay)[:size]
    fresh.set(np.arange(size), held)
    assert total(tree.replay) == total(fresh.replay)
    assert total(tree.replay) == pytest.approx(math.fsum(held.tolist()), rel=1e-14)
    tree.set(np.arange(size), np.zeros(size, np.float32))
    assert total(tree.replay) == 0
    tree.set(np.array([3, 5]), np.array([2.0**24, 1], np.float32))
    assert total(tree.replay) == 2**24 + 1


@pytest.mark.parametrize("where", DEVICES)
def test_tree_draws_in_proportion(where: dict[str, str]) -> None:
    leaf = (np.arange(40) % 10).astype(np.float32) ** 2
    tree = Drawn.of(40, where)
    tree.set(np.arange(40), leaf)
    seen = np.zeros(40)
    for _ in range(20):  # by the store's own generator
        batch = tree.store.sample(100, 0.7)
        seen += np.bincount(array(batch.index) % 40, minlength=40)
    expected = 2000 * leaf / leaf.sum()
    assert (seen[leaf == 0] == 0).all()
    assert np.abs(seen - expected).max() <= 2 * 20  # strata: within 2 of its share in each draw


@needs_triton
def test_fan_out_by_capacity() -> None:
    from replay.tree_triton import TritonTree, width

    sizes = {0: 128, 20: 128, 21: 128, 22: 256, 24: 256, 25: 512, 30: 1024}
    assert {n: width(2**n) for n in sizes} == sizes
    with pytest.raises(ValueError, match="size is 1073741825; it must be at most 1073741824"):
        TritonTree(2**30 + 1, "meta")


def test_put_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        index = generator.integers(-1, 6, int(generator.integers(0, 12)))
        value = generator.random(index.size).astype(np.float32)
        target, expected = torch.full((6,), 7.0), [7.0] * 6
        put(target, torch.from_numpy(index), torch.from_numpy(value))
        for i, v in zip(index.tolist(), value.tolist(), strict=True):
            if i >= 0:
                expected[i] = v
        assert target.tolist() == expected


# --------------------------------------------------------------------------------------- replays

SPEC = {"camera": Field((1, 3, 3), "uint8", 3), "pose": Field((2,), "float32", 2)}


def lived(where: dict[str, str], steps: int = 25, alpha: float = 0.5) -> PrioritizedReplay:
    """A replay with a history, the same on every backend."""
    replay = PrioritizedReplay(
        60, SPEC, Field((2,), "float32"), lanes=3, n_step=2, alpha=alpha, seed=11, **where
    )
    generator = np.random.default_rng(4)

    def frame() -> dict[str, np.ndarray]:
        return {
            "camera": generator.integers(0, 256, (3, 1, 3, 3), dtype=np.uint8),
            "pose": generator.normal(size=(3, 2)).astype(np.float32),
        }

    replay.reset(frame())
    for _ in range(steps):
        action, reward = generator.normal(size=(3, 2)), generator.normal(size=3)
        replay.add(frame(), action, reward, *(generator.random((2, 3)) < 0.1))
    rows = row_ids(replay, np.flatnonzero(leaves(replay)))
    rows = np.concatenate([rows, generator.choice(rows, 20), [0, 1]])  # duplicates, stale ones
    error = (10.0 ** generator.uniform(-3, 3, rows.size)).astype(np.float32)
    error[:3] = [np.nan, np.inf, 0]
    replay.update(torch.from_numpy(rows), torch.from_numpy(error))
    return replay


@pytest.mark.parametrize("where", [TORCH, TRITON])
def test_same_uniforms_same_sample_as_numba(where: dict[str, str]) -> None:
    ours, host = lived(where), lived({"device": "cpu", "backend": "numba"})
    assert ours.nan_count == host.nan_count == 1
    assert ours.sampleable == host.sampleable > 30
    np.testing.assert_allclose(leaves(ours), leaves(host), rtol=1.2e-7)
    assert np.array_equal(ours.store.priorities(), host.store.priorities())
    uniforms = np.random.default_rng(5).random(29)
    slots, weight = host.store.tree.draw(uniforms, 0.6)
    rows = host.store.ring.follow(slots)
    drawn = ours.store.sample(29, 0.6, torch.from_numpy(uniforms).to(DEVICE))
    assert np.array_equal(array(drawn.index), rows.row)
    assert np.array_equal(array(drawn.reward), rows.reward)
    assert np.array_equal(array(drawn.discount), rows.discount)
    np.testing.assert_allclose(array(drawn.weight), weight, rtol=2e-7)
    assert np.array_equal(array(drawn.action), host.store.ring.actions_at(rows.after))
    for found, at in ((drawn.observation, slots), (drawn.next_observation, rows.bootstrap)):
        for name, expected in host.store.ring.stacks(at).items():
            assert np.array_equal(array(found[name]), expected)
    for name, expected in host.latest().items():
        assert np.array_equal(array(ours.latest()[name]), expected)


@pytest.mark.parametrize("where", [TORCH, TRITON])
@pytest.mark.parametrize("count", [16, 17, 1024, 1025, 1300])
def test_updates_of_every_size_agree(where: dict[str, str], count: int) -> None:
    """Of one chunk and of several, whose duplicates lie in others, with NaN and infinity."""
    ours, host = lived(where), lived({"device": "cpu", "backend": "numba"})
    generator = np.random.default_rng(count)
    row = generator.choice(row_ids(host, np.flatnonzero(leaves(host))), count)
    error = (10.0 ** generator.uniform(-3, 3, count)).astype(np.float32)
    error[generator.integers(0, count, 3)] = [np.nan, np.inf, 0]
    for replay in (ours, host):
        replay.update(torch.from_numpy(row), torch.from_numpy(error))
    assert np.array_equal(ours.store.priorities(), host.store.priorities())
    np.testing.assert_allclose(leaves(ours), leaves(host), rtol=1.2e-7)
    assert ours.nan_count == host.nan_count


@needs_triton
def test_triton_and_torch_draw_the_same_batches() -> None:
    """They share their generator, whose state is a seed and a count."""
    first, second = (lived({"device": DEVICE, "backend": name}) for name in ("triton", "torch"))
    seen = set()
    for _ in range(3):
        a, b = first.sample(21, 0.4), second.sample(21, 0.4)
        assert torch.equal(a.index, b.index) and torch.equal(a.reward, b.reward)
        torch.testing.assert_close(a.weight, b.weight, rtol=2e-7, atol=0)
        first.update(a.index, a.weight * 3)
        second.update(b.index, b.weight * 3)
        seen.add(tuple(a.index.tolist()))
    assert len(seen) == 3
    np.testing.assert_allclose(leaves(first), leaves(second), rtol=1.2e-7)


def test_uniforms_of_a_device() -> None:
    """Known answer of Philox 4x32-10 (Random123's kat_vectors), and the moments."""
    from replay.ring_torch import philox

    zeros = philox(torch.tensor([0, 0]), 1)
    expected = ((0x6627E8D5 >> 5) * 2**26 + (0xE169C58D >> 6)) / 2**53
    assert zeros.item() == expected
    uniforms = torch.cat([philox(torch.tensor([2**62 + 9, n + 2**40]), 1000) for n in range(50)])
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert uniforms.mean().item() == pytest.approx(0.5, abs=0.005)
    assert uniforms.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert len(uniforms.unique()) == len(uniforms)


@pytest.mark.parametrize("where", [TORCH, TRITON])
def test_an_empty_replay_draws_nothing(where: dict[str, str]) -> None:
    """Episodes of one frame close every row; a graph that samples then must not go astray."""
    replay = PrioritizedReplay(8, Field((), "float32"), **where)
    zero, no, yes = np.zeros(1, np.float32), [False], [True]
    with pytest.raises(ValueError, match="none of the 0 frames"):
        replay.sample(4)
    replay.reset(zero)
    replay.add(zero, [0], [1.0], no, no)
    assert replay.ready and replay.sampleable == 1
    for _ in range(12):
        replay.add(zero, [0], [1.0], yes, no)
    assert replay.sampleable == 0
    batch = replay.sample(4)
    assert batch.index.tolist() == [-1] * 4 and batch.weight.tolist() == [0.0] * 4
    replay.update(batch.index, torch.ones(4))
    assert not leaves(replay).any()


@pytest.mark.parametrize("where", [TORCH, TRITON])
def test_nothing_waits_for_the_device(where: dict[str, str]) -> None:
    """On a GPU PyTorch itself objects; elsewhere the operations that would wait are refused."""
    replay = lived(where)
    assert replay.ready
    frame = {"camera": np.zeros((3, 1, 3, 3), np.uint8), "pose": np.zeros((3, 2), np.float32)}
    beta = torch.full((1,), 0.5, dtype=torch.float64, device=DEVICE)

    def work() -> None:
        replay.reset(frame, [0, 1, 2])
        replay.add(frame, np.zeros((3, 2)), np.zeros(3), np.zeros(3, bool), np.ones(3, bool))
        replay.latest()
        batch = replay.sample(5, beta)
        replay.update(batch.index, batch.weight)
        replay.sample(5, 0.7)

    if DEVICE == "cpu":
        with NoSync():
            work()
        with pytest.raises(AssertionError, match="waits for the device"), NoSync():
            int(beta)
    else:
        work()  # compiled, and staging memory made
        torch.cuda.set_sync_debug_mode("error")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_triton
def test_every_kernel_compiles_for_gpus_that_are_not_there(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.replay.compile_kernels"], cwd=HOUSE, capture_output=True,
        text=True, env={**env, "TRITON_CACHE_DIR": str(tmp_path)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"write_kernel", "draw_kernel", "gather_kernel", "refresh_kernel"} <= set(found)
    for name, sizes in found.items():
        assert {arch for arch, *_ in sizes} == {80, 90}, name
        assert all(ptx > 1000 and cubin > 1000 for _, ptx, cubin in sizes), name


def test_work_is_for_the_replays_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches, and events record, on the current device, which may be another."""
    replay = lived({"device": "cpu", "backend": "torch"})
    gpus: list[int] = []
    real = torch.cuda.device

    def chosen(number: int) -> torch.cuda.device:
        gpus.append(number)
        return real(-1)

    monkeypatch.setattr(torch.cuda, "device", chosen)
    frame = {"camera": np.zeros((3, 1, 3, 3), np.uint8), "pose": np.zeros((3, 2), np.float32)}
    never = np.zeros(3, bool)
    for place, number in (("cuda:1", 1), ("cuda", -1), ("cpu", -1)):
        monkeypatch.setattr(replay.store, "device", torch.device(place))
        replay.add(frame, np.zeros((3, 2)), np.zeros(3), never, never)
        replay.latest()
        batch = replay.sample(4)
        monkeypatch.setattr(replay.store, "device", torch.device("cpu"))
        replay.update(batch.index, batch.weight)
        assert gpus == [number] * 3 + [-1]
        gpus.clear()


@needs_triton
def test_triton_serves_where_a_kernel_runs() -> None:
    launch_one(torch.device(DEVICE))
    if DEVICE == "cuda":
        assert kernels_for(torch.device("cuda")) == "triton"
    assert kernels_for(torch.device("cpu")) == "torch"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'triton'"), "No module named 'triton'"),
        (RuntimeError("Failed to find C compiler.\nSet CC."), "Failed to find C compiler"),
        (KeyError(), "KeyError"),
    ],
)
def test_where_triton_fails_plain_torch_serves_and_says_so(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(device: torch.device) -> None:
        raise error

    monkeypatch.setattr(replay_device, "launch_one", fails)
    with pytest.warns(UserWarning, match=re.escape(f"doesn't work here ({told}), so the replay")):
        assert kernels_for(torch.device("cuda")) == "torch"


def test_backends_are_what_they_say() -> None:
    with pytest.raises(ValueError, match="backend is 'triton', which serves CUDA"):
        environment = os.environ.pop("TRITON_INTERPRET", None)
        try:
            PrioritizedReplay(60, Field((), "float32"), device="cpu", backend="triton")
        finally:
            if environment is not None:
                os.environ["TRITON_INTERPRET"] = environment
