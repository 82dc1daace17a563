"""Priorities by rank, and weights over the greatest in the memory, on every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from replay import Field, PrioritizedReplay, sorting
from replay.tree import PriorityTree
from replay.tree_least import LeastTree
from tests.replay.backends import ALL, DEVICE, TORCH, TRITON, array, leaves

SCALAR = Field((), "float32", 2)
NUMBA_ON = {"device": "cpu", "backend": "numba"}


def filled(where: dict[str, str], count: int = 20, **options: object) -> PrioritizedReplay:
    """One lane, rows 0 .. count - 1 sampleable."""
    given = {"alpha": 1.0, "eps": 1e-3, **where, **options}
    replay = PrioritizedReplay(80, SCALAR, **given)  # type: ignore[arg-type]
    replay.reset(np.zeros(1, np.float32))
    for i in range(count):
        replay.add([np.float32(i)], [0], [0.0], [False], [False])
    return replay


def update(replay: PrioritizedReplay, error: np.ndarray) -> None:
    index = torch.arange(len(error), device=replay.device)
    replay.update(index, torch.from_numpy(error.astype(np.float32)).to(replay.device))


@pytest.mark.parametrize("where", ALL)
def test_leaves_are_ranks(where: dict[str, str]) -> None:
    """Greatest first; equal priorities share the best rank; alpha is the exponent."""
    replay = filled(where, 6, prioritization="rank", alpha=0.5)
    assert leaves(replay)[:6].tolist() == [1.0] * 6  # nobody has learned anything yet
    update(replay, np.array([3.0, 9.0, 1.0, 3.0, 0.5, 7.0]))
    replay.store.settle()
    expected = [3, 1, 5, 3, 6, 2]
    np.testing.assert_allclose(leaves(replay)[:6], np.array(expected) ** -0.5, rtol=1e-6)
    # Until the next sort: 8 would have come second, 0.1 last; the new row is the greatest.
    update(replay, np.array([8.0, 0.1]))
    replay.add([np.float32(6)], [0], [0.0], [False], [False])
    expected = [2, 7, 5, 3, 6, 2, 1]
    np.testing.assert_allclose(leaves(replay)[:7], np.array(expected) ** -0.5, rtol=1e-6)


@pytest.mark.parametrize("where", ALL)
def test_ranks_are_sorted_as_the_memory_turns_over(
    where: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "_LEAST", 24)
    replay = filled(where, 20, prioritization="rank")
    update(replay, np.arange(20.0) + 2)  # greater than all before: every one takes rank 1
    assert leaves(replay)[:20].tolist() == [1.0] * 20
    for step in (22, 23, 24):
        assert leaves(replay)[:20].tolist() == [1.0] * 20, step
        replay.add([np.float32(0)], [0], [0.0], [False], [False])
    # Three new rows beside the greatest come first; the others follow in their order.
    expected = 1 / np.array([*range(23, 4, -1), 1, 1, 1, 1])
    np.testing.assert_allclose(leaves(replay)[:23], expected, rtol=1e-6)


@pytest.mark.parametrize("where", ALL)
def test_global_weights_by_hand(where: dict[str, str]) -> None:
    """The least likely row of all has weight 1, whether it is in the batch or not."""
    replay = filled(where, 20, weights="global")
    error = np.full(20, 4 - 1e-3)
    error[7] = 1 - 1e-3
    update(replay, error)
    for _ in range(3):
        batch = replay.sample(5, 0.5)
        expected = torch.where(batch.index == 7, 1.0, 0.5)  # (4 / 1)^-0.5
        torch.testing.assert_close(batch.weight, expected, rtol=1e-5, atol=0)
    update(replay, np.full(20, 4 - 1e-3))
    assert (replay.sample(5, 0.5).weight == 1).all()


@pytest.mark.parametrize("where", [TORCH, TRITON])
@pytest.mark.parametrize("prioritization", ["proportional", "rank"])
def test_backends_agree_on_every_option(where: dict[str, str], prioritization: str) -> None:
    options = {"prioritization": prioritization, "weights": "global", "alpha": 0.7}
    ours, host = filled(where, 30, **options), filled(NUMBA_ON, 30, **options)
    error = np.random.default_rng(3).normal(size=30) * 5
    for replay in (ours, host):
        update(replay, error)
        for _ in range(4):
            replay.add([np.float32(0)], [0], [0.0], [False], [False])
        replay.store.settle()
        update(replay, error[:10] / 2)
    np.testing.assert_allclose(leaves(ours), leaves(host), rtol=1.2e-7)
    uniforms = np.random.default_rng(5).random(16)
    slots, _ = host.store.tree.draw(uniforms, 0.6)
    held = host.store.tree.leaves
    expected = (held[held > 0].min() / held[slots].astype(np.float64)) ** 0.6
    drawn = ours.store.sample(16, 0.6, torch.from_numpy(uniforms).to(DEVICE))
    assert np.array_equal(array(drawn.index) % 80, slots)
    np.testing.assert_allclose(array(drawn.weight), expected, rtol=1e-6)


def test_ranks_after_a_resume(tmp_path: Path) -> None:
    """Saving sorts, as loading does, so that both go on alike."""
    first = filled(NUMBA_ON, 40, prioritization="rank", seed=1)
    update(first, np.random.default_rng(0).normal(size=40) * 9)
    first.save(tmp_path / "a")
    second = filled(NUMBA_ON, 3, prioritization="rank", seed=2)
    second.load(tmp_path / "a")
    for _ in range(50):
        for replay in (first, second):
            replay.add([np.float32(0)], [0], [0.0], [False], [False])
        a, b = first.sample(8), second.sample(8)
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)
        first.update(a.index, a.index.float() % 7)
        second.update(b.index, b.index.float() % 7)
    assert np.array_equal(leaves(first), leaves(second))


def test_least_of_a_tree() -> None:
    generator = np.random.default_rng(0)
    for size in (1, 16, 17, 300, 5000):
        tree = PriorityTree(size)
        least = LeastTree(tree.leaves)
        assert least.least == np.inf
        for _ in range(30):
            index = generator.integers(0, size, generator.integers(1, 30))
            leaf = generator.random(index.size).astype(np.float32)
            leaf[generator.random(index.size) < 0.4] = 0
            tree.set(index, leaf)
            least.refresh(index)
            some = tree.leaves[tree.leaves > 0]
            assert least.least == (some.min() if some.size else np.inf)


@pytest.mark.parametrize(
    "option, message",
    [
        ({"prioritization": "ranked"}, "prioritization is 'ranked'; try 'rank', of proportional"),
        ({"weights": "max"}, "weights is 'max'; try '.*', of batch, global"),
    ],
)
def test_unknown_options(option: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrioritizedReplay(80, SCALAR, **option)  # type: ignore[arg-type]
