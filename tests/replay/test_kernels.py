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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from replay import Field, PrioritizedReplay
from replay import device as replay_device
from replay.device import kernels_for, launch_one
from replay.tree import PriorityTree
from replay.tree_torch import TorchTree, put
from tests.replay.backends import (
    DEVICE,
    TORCH,
    TRITON,
    NoSync,
    array,
    leaves,
    needs_triton,
    row_ids,
)
from tests.replay.tree_reference import ReferenceTree

LAST = np.nextafter(1.0, 0.0)  # the greatest uniform that a generator returns
HOUSE = Path(__file__).parents[2]


class OnDevice:
    """A tree over tensors behind the host trees' interface of arrays."""

    def __init__(self, tree: object) -> None:
        self.tree = tree

    def __getattr__(self, name: str) -> object:
        value = getattr(self.tree, name)
        if not callable(value):
            return array(value)

        def call(*arguments: object) -> object:
            sent = [torch.from_numpy(a).to(DEVICE) if isinstance(a, np.ndarray) else a
                    for a in arguments]  # fmt: skip
            out = value(*sent)
            return tuple(map(array, out)) if isinstance(out, tuple) else array(out)

        return call


def triton_tree(size: int) -> OnDevice:
    from replay.tree_triton import TritonTree

    return OnDevice(TritonTree(size, DEVICE, 16 if size <= 16**3 else None))


def torch_tree(size: int) -> OnDevice:
    return OnDevice(TorchTree(size, DEVICE))


Make = Callable[[int], OnDevice]
TREES = [pytest.param(torch_tree, id="torch"), pytest.param(triton_tree, id="triton",
                                                           marks=needs_triton)]  # fmt: skip


# ----------------------------------------------------------------------------------------- trees


@pytest.mark.parametrize("make", TREES)
@pytest.mark.parametrize("size", [1, 7, 16, 17, 250, 700, 4000, 5000])
def test_trees_agree(make: Make, size: int) -> None:
    generator = np.random.default_rng(size)
    ours, host, twin = make(size), PriorityTree(size), ReferenceTree(size)
    for turn in range(3):
        index = generator.integers(0, size, generator.integers(1, 40))
        # Whole numbers add up without rounding in any order, so equal means equal.
        leaf = generator.integers(turn == 0, 9, index.size).astype(np.float32)
        for tree in (ours, host, twin):
            tree.set(index, leaf)
        assert np.array_equal(ours.leaves[:size], twin.leaves)
        assert ours.total == twin.total == host.total
        if not host.total:
            continue
        edges = generator.permutation(int(host.total))[:40] / host.total
        uniforms = np.concatenate([generator.random(20), edges, [0.0, LAST]])
        np.testing.assert_array_equal(ours.sample(uniforms), twin.sample(uniforms))
        uniforms = generator.random(int(generator.integers(1, 50)))
        found, weight = ours.draw(uniforms, 0.7)
        expected, share = host.draw(uniforms, 0.7)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(weight, share, rtol=2e-7)


@pytest.mark.parametrize("make", TREES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_never_returns_a_zero_leaf(make: Make, share: float) -> None:
    """Masses from 1e-30 to 1e30, so that every sum rounds, and uniforms at every edge."""
    generator = np.random.default_rng(int(100 * share))
    for size in (3, 300, 2000):
        leaf = (10.0 ** generator.uniform(-30, 30, size)).astype(np.float32)
        leaf[generator.random(size) < share] = 0
        leaf[generator.integers(size)] = 1
        tree = make(size)
        tree.fill(leaf)
        edges = np.cumsum(leaf.astype(np.float64)) / tree.total
        edges = generator.permutation(edges[edges < 1])[:150]
        found = tree.sample(np.concatenate([[0.0, LAST], generator.random(50), edges]))
        assert ((found >= 0) & (found < size)).all()
        assert (leaf[found] > 0).all()
        assert (leaf[tree.draw(np.full(20, LAST), 1.0)[0]] > 0).all()


@pytest.mark.parametrize("make", TREES)
def test_tree_sums_are_exact_after_many_sets(make: Make) -> None:
    """Recomputed, never changed by a difference: as if the leaves had been set once."""
    generator = np.random.default_rng(0)
    size = 500
    tree = make(size)
    for _ in range(20):
        index = generator.integers(0, size, 50)
        leaf = (10.0 ** generator.uniform(-8, 8, 50)).astype(np.float32)
        leaf[generator.random(50) < 0.1] = 0
        tree.set(index, leaf)
    fresh = make(size)
    fresh.fill(tree.leaves[:size])
    assert tree.total == fresh.total
    assert tree.total == pytest.approx(math.fsum(tree.leaves.tolist()), rel=1e-14)
    tree.set(np.arange(size), np.zeros(size, np.float32))
    assert tree.total == 0
    tree.set(np.array([3, 5]), np.array([2.0**24, 1], np.float32))
    assert tree.total == 2**24 + 1


@pytest.mark.parametrize("make", TREES)
def test_tree_draws_in_proportion(make: Make) -> None:
    generator = np.random.default_rng(1)
    leaf = (np.arange(40) % 10).astype(np.float32) ** 2
    tree = make(40)
    tree.fill(leaf)
    draws = 2000
    seen = np.bincount(tree.sample(generator.random(draws)), minlength=40)
    expected = draws * leaf / leaf.sum()
    some = expected > 0
    assert (seen[~some] == 0).all()
    statistic = ((seen - expected)[some] ** 2 / expected[some]).sum()
    assert statistic < 69.3  # 99.9% quantile for 35 degrees of freedom, 66.6, and some air


@pytest.mark.parametrize("make", TREES)
def test_tree_last_of_duplicates_wins(make: Make) -> None:
    tree = make(40)
    tree.set(np.array([5, 7, 5, 39, 5]), np.array([1, 2, 3, 4, 9], np.float32))
    assert tree.leaves[5] == 9 and tree.total == 9 + 2 + 4


@pytest.mark.parametrize("make", TREES)
@pytest.mark.parametrize("index, leaf", [(-1, 1.0), (10, 1.0), (3, -1.0), (3, np.nan), (3, np.inf)])
def test_tree_refuses_what_would_break_it(make: Make, index: int, leaf: float) -> None:
    tree = make(10)
    tree.set(np.array([0]), np.array([2.0], np.float32))
    with pytest.raises(ValueError, match=rf"leaf {index} cannot become"):
        tree.set(np.array([1, index]), np.array([5.0, leaf], np.float32))
    with pytest.raises(ValueError, match=r"index has shape \(2,\) and leaf \(1,\)"):
        tree.set(np.array([1, 2]), np.array([5.0], np.float32))
    with pytest.raises(ValueError, match="10 finite masses"):
        tree.fill(np.array([1, 2, 3, np.nan], np.float32))
    with pytest.raises(ValueError, match="holds no mass"):
        make(10).sample(np.zeros(1))
    with pytest.raises(ValueError, match="size is 0"):
        make(0)
    assert tree.total == 2 and tree.leaves[1] == 0


@needs_triton
def test_fan_out_by_capacity() -> None:
    from replay.tree_triton import TritonTree, width

    assert [width(2**n) for n in (0, 20, 21, 22, 24, 25, 30)] == [
        128,
        128,
        128,
        256,
        256,
        512,
        1024,
    ]
    with pytest.raises(ValueError, match="size is 4097; three levels of 16 can't hold it"):
        TritonTree(4097, DEVICE, 16)


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
