"""The priority tree against its twin, at the edges, and its sums after many updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.tree import FAN_OUT, PriorityTree
from tests.replay.tree_reference import ReferenceTree

LAST = np.nextafter(1.0, 0.0)  # the greatest uniform that a generator returns


def chi_square_limit(freedom: int) -> float:
    """The 99.9% quantile, by Wilson and Hilferty (1931)."""
    share = 2 / (9 * freedom)
    return freedom * (1 - share + 3.09 * math.sqrt(share)) ** 3


def level_sums(leaves: np.ndarray) -> list[np.ndarray]:
    """The sums of each level from the blocks of leaves up, added in the tree's own order."""
    levels = [leaves.astype(np.float64)]
    while len(levels) < 3 or levels[-1].size > 1:
        values = np.pad(levels[-1], (0, -levels[-1].size % FAN_OUT)).reshape(-1, FAN_OUT)
        levels.append(values.cumsum(1)[:, -1])
    return levels[2:]  # of four leaves no sum is stored


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 700))
def test_agrees_with_its_twin(seed: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    ours, twin = PriorityTree(size), ReferenceTree(size)
    for _ in range(6):
        index = generator.integers(0, size, generator.integers(1, 40))
        # Whole numbers add up without rounding in either, so equal means equal.
        leaf = generator.integers(0, 9, index.size).astype(np.float32)
        ours.set(index, leaf)
        twin.set(index, leaf)
        assert np.array_equal(ours.leaves[:size], twin.leaves)
        assert ours.total == twin.total
        if not ours.total:
            continue
        edges = np.arange(int(ours.total)) / ours.total
        uniforms = np.concatenate([generator.random(50), edges, [0.0, LAST]])
        np.testing.assert_array_equal(ours.sample(uniforms), twin.sample(uniforms))
        uniforms = generator.random(int(generator.integers(1, 70)))
        found, weight = ours.draw(uniforms, 0.7)
        expected, share = twin.draw(uniforms, 0.7)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(weight, share, rtol=1e-5)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 5000), share=st.floats(0.0, 0.99))
def test_never_returns_a_zero_leaf(seed: int, size: int, share: float) -> None:
    """Masses from 1e-30 to 1e30, so that every sum rounds."""
    generator = np.random.default_rng(seed)
    leaf = (10.0 ** generator.uniform(-30, 30, size)).astype(np.float32)
    leaf[generator.random(size) < share] = 0
    leaf[generator.integers(size)] = 1
    tree = PriorityTree(size)
    tree.fill(leaf)
    edges = np.cumsum(leaf.astype(np.float64)) / tree.total
    uniforms = np.concatenate([[0.0, LAST], generator.random(200), edges[edges < 1]])
    found = tree.sample(uniforms)
    assert ((found >= 0) & (found < size)).all()
    assert (leaf[found] > 0).all()
    assert (leaf[tree.draw(np.full(64, LAST), 1.0)[0]] > 0).all()


def test_each_of_a_million_leaves_is_reached() -> None:
    size = 1 << 20
    tree = PriorityTree(size)
    tree.fill(np.full(size, 0.1, np.float32))
    found = tree.sample((np.arange(size) + 0.5) / size)
    np.testing.assert_array_equal(found, np.arange(size))


def test_sums_stay_exact_over_ten_million_updates() -> None:
    generator = np.random.default_rng(0)
    size, count = 30_000, 10_000
    tree = PriorityTree(size)
    for _ in range(1000):
        index = generator.integers(0, size, count)
        leaf = np.exp(generator.uniform(-18, 18, count)).astype(np.float32)
        leaf[index % 10 == 0] = 0
        tree.set(index, leaf)
    levels = level_sums(tree.leaves)
    for first, expected in zip(tree._levels, levels, strict=True):
        found = tree._sums[first:].reshape(-1)[: expected.size]
        np.testing.assert_array_equal(found, expected)
    assert tree.total == pytest.approx(math.fsum(tree.leaves.tolist()), rel=1e-14)
    tree.set(np.arange(size), np.zeros(size, np.float32))
    assert tree.total == 0


def test_sum_is_of_float64() -> None:
    """A float32 total would lose each one beside 2^24."""
    tree = PriorityTree(1000)
    tree.fill(np.ones(1000, np.float32))
    tree.set(np.array([3]), np.array([2.0**24], np.float32))
    assert tree.total == 2**24 + 999


def test_last_of_duplicates_wins() -> None:
    tree = PriorityTree(40)
    tree.set(np.array([5, 7, 5, 39, 5]), np.array([1, 2, 3, 4, 9], np.float32))
    assert tree.leaves[5] == 9
    assert tree.total == 9 + 2 + 4


def test_draws_in_proportion() -> None:
    generator = np.random.default_rng(1)
    leaf = (np.arange(300) % 30).astype(np.float32) ** 2
    tree = PriorityTree(300)
    tree.fill(leaf)
    draws = 200_000
    seen = np.bincount(tree.sample(generator.random(draws)), minlength=300)
    expected = draws * leaf / leaf.sum()
    some = expected > 0
    statistic = ((seen - expected)[some] ** 2 / expected[some]).sum()
    assert (seen[~some] == 0).all()
    assert statistic < chi_square_limit(int(some.sum()) - 1)


def test_strata_each_give_one() -> None:
    tree = PriorityTree(64)
    tree.fill(np.ones(64, np.float32))
    found, weight = tree.draw(np.random.default_rng(2).random(64), 0.4)
    np.testing.assert_array_equal(found, np.arange(64))
    assert (weight == 1).all()


@pytest.mark.parametrize("index, leaf", [(-1, 1.0), (10, 1.0), (3, -1.0), (3, np.nan), (3, np.inf)])
def test_refuses_what_would_break_it(index: int, leaf: float) -> None:
    tree = PriorityTree(10)
    tree.set(np.array([0]), np.array([2.0], np.float32))
    with pytest.raises(ValueError, match=rf"leaf {index} cannot become"):
        tree.set(np.array([1, index]), np.array([5.0, leaf], np.float32))
    with pytest.raises(ValueError, match=r"index has shape \(2,\) and leaf \(1,\)"):
        tree.set(np.array([1, 2]), np.array([5.0], np.float32))
    assert tree.total == 2 and tree.leaves[1] == 0


def test_empty_tree_says_so() -> None:
    with pytest.raises(ValueError, match="holds no mass"):
        PriorityTree(10).sample(np.zeros(1))
    with pytest.raises(ValueError, match="size is 0"):
        PriorityTree(0)
    with pytest.raises(ValueError, match="4 finite masses"):
        PriorityTree(4).fill(np.array([1, 2, 3, np.nan], np.float32))
