"""Random bad calls between good ones: each refused in one line, and nothing changed by any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from replay import Field
from tests.replay.backends import ALL, DEVICE, array
from tests.replay.test_prioritized_twin import Pair

SPEC = {"camera": Field((2, 1, 2), "uint8", 3), "pose": Field((2,), "float32", 1)}


def bad_calls(pair: Pair, generator: np.random.Generator) -> dict[str, Callable[[], object]]:
    """One of each kind of mistake, with the values that a mistake may have."""
    replay, lanes = pair.replay, pair.lanes
    good = {
        "frame": {"camera": np.zeros((lanes, 2, 1, 2), np.uint8), "pose": np.zeros((lanes, 2))},
        "action": np.zeros((lanes, *pair.action.shape), pair.action.dtype),
        "reward": np.zeros(lanes),
        "terminated": np.zeros(lanes, bool),
        "truncated": np.zeros(lanes, bool),
    }
    poison = np.zeros(lanes)
    poison[generator.integers(lanes)] = generator.choice([np.nan, np.inf, -np.inf])
    outside = int(generator.choice([-1, lanes, lanes + 7]))
    steps = {
        "frame of other shape": {"frame": {**good["frame"], "pose": np.zeros((lanes, 3))}},
        "frame of other kind": {"frame": {**good["frame"], "camera": np.zeros((lanes, 2, 1, 2))}},
        "field missing": {"frame": {"pose": good["frame"]["pose"]}},
        "field unknown": {"frame": {**good["frame"], "posse": good["frame"]["pose"]}},
        "frame alone": {"frame": good["frame"]["pose"]},
        "action of other shape": {"action": np.zeros((lanes, 5))},
        "action of other kind": {"action": np.zeros((lanes, *pair.action.shape), complex)},
        "reward not finite": {"reward": poison},
        "reward of other shape": {"reward": np.zeros((lanes, 1))},
        "flag of other kind": {"terminated": np.zeros(lanes, int)},
        "flag of other shape": {"truncated": np.zeros(lanes + 1, bool)},
        "lane outside": {"lanes": [*range(lanes - 1), outside]},
        "lane twice": {"lanes": [0] * (lanes + 1)},
        "no lane": {"lanes": []},
        "lane no number": {"lanes": ["a"]},
    }
    calls: dict[str, Callable[[], object]] = {
        name: (lambda change=change: replay.add(**{**good, **change}))
        for name, change in steps.items()
    }
    rows, error = torch.zeros(3, dtype=torch.int64, device=DEVICE), torch.ones(3, device=DEVICE)
    return (
        calls
        | {
            "reset of other shape": lambda: replay.reset(
                {**good["frame"], "pose": np.zeros(lanes)}
            ),
            "reset of a lane outside": lambda: replay.reset(good["frame"], [outside] * lanes),
            "batch of none": lambda: replay.sample(int(generator.integers(-3, 1))),
            "batch no number": lambda: replay.sample(2.5),  # type: ignore[arg-type]
            "beta outside": lambda: replay.sample(3, float(generator.choice([-0.1, 1.1, np.nan]))),
            "beta of other kind": lambda: replay.sample(3, torch.ones(1)),
            "errors too few": lambda: replay.update(rows, error[:2]),
            "errors too deep": lambda: replay.update(rows, error[:, None]),
            "rows of floats": lambda: replay.update(error, error),
            "rows of a list": lambda: replay.update([0, 1, 2], error),  # type: ignore[arg-type]
        }
    )


def content(pair: Pair) -> list[np.ndarray]:
    """All that a replay consists of."""
    store = pair.replay.store
    size = store.rows * store.lanes
    counters = store.counters()
    return [
        *(store.read(name, 0, size).copy() for name in store.arrays),
        array(store.tree.leaves).copy(),
        store.priorities().copy(),
        np.array([*counters["written"], counters["greatest"], counters["nan_count"]]),
        np.array([store.sampleable]),
    ]


@pytest.mark.parametrize("where", ALL)
def test_bad_calls_between_good_ones(where: dict[str, str]) -> None:
    generator = np.random.default_rng(6)
    pair = Pair(SPEC, generator, lanes=3, n_step=2, capacity=40, alpha=0.7, **where)
    with pytest.raises(ValueError, match="lane 0 has no first frame"):
        pair.replay.latest()
    pair.reset(np.arange(3))
    seen = set()
    for turn in range(30):
        pair.add(pair.some(), 0.1)
        if turn % 5 == 4:
            pair.update()
        before, state = content(pair), pair.replay.store.counters()["generator"]
        calls = bad_calls(pair, generator)
        for name in generator.permutation(list(calls))[:4]:
            seen.add(name)
            with pytest.raises((ValueError, TypeError)) as caught:
                calls[name]()
            assert "\n" not in str(caught.value), name
        after = content(pair)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)), seen
        assert pair.replay.store.counters()["generator"] == state
        if turn % 10 == 9:
            pair.check()
    assert len(seen) > 20


@pytest.mark.parametrize("where", ALL)
def test_rows_that_no_batch_had(where: dict[str, str]) -> None:
    """The host refuses them; a device, which would have to be waited for, drops them."""
    generator = np.random.default_rng(2)
    pair = Pair(SPEC, generator, lanes=2, n_step=1, capacity=40, alpha=0.7, **where)
    pair.reset(np.arange(2))
    for _ in range(6):
        pair.add(np.arange(2), 0.0)
    before = content(pair)
    for row in (-1, -(2**40), 14, 2**40):
        index = torch.tensor([row], device=DEVICE)
        if where["backend"] == "numba":
            with pytest.raises(ValueError, match=f"index holds {row}, a row that no batch"):
                pair.replay.update(index, torch.ones(1))
        else:
            pair.replay.update(index, torch.ones(1, device=DEVICE))
    assert all(np.array_equal(a, b) for a, b in zip(before, content(pair), strict=True))
