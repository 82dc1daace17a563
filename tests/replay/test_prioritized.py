"""The replay by numbers worked by hand, its distribution, and its refusals."""

from __future__ import annotations

import gc
import math
import threading

import numpy as np
import pytest
import torch

from replay import Batch, Field, PrioritizedReplay, memory

SCALAR = Field((), "float32", 2)
ATARI = Field((1, 84, 84), "uint8", 4)


def play(
    replay: PrioritizedReplay, rewards: list[float], terminated: int = -1, truncated: int = -1
) -> None:
    """One lane, frames 0, 1, 2 ... from a reset; step i leads to frame i + 1 by action 10 i."""
    replay.reset(np.zeros(1, np.float32))
    for i, reward in enumerate(rewards):
        frame = np.full(1, i + 1, np.float32)
        replay.add(frame, [10 * i], [reward], [i == terminated], [i == truncated])


def rows(replay: PrioritizedReplay) -> dict[int, tuple]:
    """All sampleable rows of an alpha = 0 replay: strata half a row wide hit each."""
    batch = replay.sample(2 * replay.sampleable)
    return {
        int(batch.index[i]): (
            batch.observation[i].tolist(),
            int(batch.action[i]),
            pytest.approx(float(batch.reward[i])),
            pytest.approx(float(batch.discount[i])),
            batch.next_observation[i].tolist(),
        )
        for i in range(len(batch.index))
    }


def test_termination_by_hand() -> None:
    replay = PrioritizedReplay(20, SCALAR, n_step=3, gamma=0.5, alpha=0.0)
    play(replay, [1, 2, 4, 8], terminated=3)
    assert rows(replay) == {
        0: ([0, 0], 0, 1 + 2 / 2 + 4 / 4, 1 / 8, [2, 3]),
        1: ([0, 1], 10, 2 + 4 / 2 + 8 / 4, 0, [3, 4]),
        2: ([1, 2], 20, 4 + 8 / 2, 0, [3, 4]),
        3: ([2, 3], 30, 8, 0, [3, 4]),
    }


def test_truncation_bootstraps_from_the_final_frame() -> None:
    replay = PrioritizedReplay(20, SCALAR, n_step=2, gamma=0.5, alpha=0.0)
    play(replay, [1, 2], truncated=1)
    # The step after the end begins an episode: frame 50, whose reward belongs to nobody.
    replay.add([np.float32(50)], [7], [100.0], [False], [False])
    replay.add([np.float32(51)], [8], [3.0], [False], [False])
    assert rows(replay) == {
        0: ([0, 0], 0, 1 + 2 / 2, 1 / 4, [1, 2]),
        1: ([0, 1], 10, 2, 1 / 2, [1, 2]),
    }
    replay.add([np.float32(52)], [9], [5.0], [False], [False])
    assert rows(replay)[3] == ([50, 50], 8, 3 + 5 / 2, 1 / 4, [51, 52])


def test_reset_ends_what_runs_as_truncated() -> None:
    replay = PrioritizedReplay(20, SCALAR, n_step=3, gamma=0.5, alpha=0.0)
    play(replay, [1, 2])
    assert replay.sampleable == 0
    replay.reset(np.full(1, 9, np.float32))
    assert rows(replay) == {
        0: ([0, 0], 0, 1 + 2 / 2, 1 / 4, [1, 2]),
        1: ([0, 1], 10, 2, 1 / 2, [1, 2]),
    }
    assert replay.latest().tolist() == [[9, 9]]


def test_smallest_ring_keeps_one_row_or_two() -> None:
    """Stack 2, one step: a row needs the slots before and after it, and one is being written."""
    replay = PrioritizedReplay(4, SCALAR, gamma=0.5, alpha=0.0)
    play(replay, [float(i) for i in range(50)])
    assert {row: values[0] for row, values in rows(replay).items()} == {
        48: [47, 48],
        49: [48, 49],
    }
    with pytest.raises(ValueError, match="capacity is 3; 1 lanes with .* need at least 4"):
        PrioritizedReplay(3, SCALAR)
    with pytest.raises(ValueError, match="need at least 25"):
        PrioritizedReplay(24, SCALAR, lanes=8)
    PrioritizedReplay(25, SCALAR, lanes=8)


def test_stack_runs_oldest_first_over_channels() -> None:
    replay = PrioritizedReplay(30, Field((2, 1, 1), "uint8", 3), alpha=0.0)
    replay.reset(np.array([[[[1]], [[2]]]], np.uint8))
    replay.add(np.array([[[[3]], [[4]]]], np.uint8), [0], [0.0], [False], [False])
    assert replay.latest().flatten().tolist() == [1, 2, 1, 2, 3, 4]
    assert replay.latest().shape == (1, 6, 1, 1)
    assert replay.sample(1).next_observation.flatten().tolist() == [1, 2, 1, 2, 3, 4]


def test_widest_stack() -> None:
    """An age saturates at 255, which is as far back as a stack of 256 looks."""
    replay = PrioritizedReplay(700, Field((), "float32", 256), alpha=0.0)
    play(replay, [0.0] * 600)
    assert replay.latest().tolist() == [list(range(345, 601))]
    assert rows(replay)[2][0] == [0] * 254 + [1, 2]
    assert rows(replay)[400][0] == list(range(145, 401))


def filled(alpha: float = 1.0, count: int = 50, seed: int = 0) -> PrioritizedReplay:
    replay = PrioritizedReplay(60, SCALAR, alpha=alpha, eps=1e-3, seed=seed)
    play(replay, [0.0] * count)
    return replay


def test_new_rows_get_the_greatest_priority() -> None:
    replay = filled()
    replay.update(torch.tensor([3, 4]), torch.tensor([-8.0, 2.0]))
    replay.add([np.float32(0)], [0], [0.0], [False], [False])
    assert replay.store.tree.leaves[[3, 4, 5, 50]] == pytest.approx([8.001, 2.001, 1, 8.001])


def test_duplicates_and_stale_rows() -> None:
    replay = filled()
    replay.update(torch.tensor([3, 9, 3]), torch.tensor([8.0, 1.0, 2.0]))
    assert replay.store.tree.leaves[3] == pytest.approx(2.001)
    assert replay.store.tree.total == pytest.approx(48 + 1.001 + 2.001)
    for _ in range(60):
        replay.add([np.float32(0)], [0], [0.0], [False], [False])
    before = replay.store.tree.leaves.copy()
    replay.update(torch.tensor([3, 110 - 60]), torch.tensor([99.0, 99.0]))
    assert np.array_equal(before, replay.store.tree.leaves)


def test_nan_zero_and_infinite_errors() -> None:
    replay = filled()
    errors = torch.tensor([math.nan, 0.0, math.inf, 5.0, -math.inf])
    replay.update(torch.arange(5), errors)
    assert replay.nan_count == 1
    assert replay.store.tree.leaves[:5] == pytest.approx([1, 0.001, 5.001, 5.001, 5.001])
    replay.update(torch.tensor([7]), torch.tensor([math.inf]))
    assert replay.store.tree.leaves[7] == pytest.approx(5.001)
    assert np.isfinite(replay.store.tree.total)
    assert replay.sampleable == np.count_nonzero(replay.store.tree.leaves) == 50


def test_error_too_small_for_a_float_keeps_its_row() -> None:
    replay = PrioritizedReplay(60, SCALAR, alpha=1.0, eps=1e-300)
    play(replay, [0.0] * 50)
    replay.update(torch.arange(50), torch.zeros(50))
    assert replay.sampleable == np.count_nonzero(replay.store.tree.leaves) == 50
    assert (replay.store.priority[:50] > 0).all()  # a load takes 0 for a row that never had one
    weight = replay.sample(50).weight
    assert bool((weight > 0).all()) and float(weight.max()) == 1


def test_alpha_zero_ignores_errors_and_counts_nans() -> None:
    replay = filled(alpha=0.0)
    replay.update(torch.arange(4), torch.tensor([9.0, math.nan, 1e9, 0.0]))
    assert replay.nan_count == 1
    assert replay.store.tree.total == 50
    assert (replay.sample(64, 0.5).weight == 1).all()


def test_weights_by_hand() -> None:
    replay = filled()
    error = torch.full((50,), 1 - 1e-3)
    error[0] = 4 - 1e-3
    replay.update(torch.arange(50), error)
    batch = replay.sample(200, 0.5)
    expected = torch.where(batch.index == 0, 0.5, 1.0)  # (4 / 1)^-0.5
    torch.testing.assert_close(batch.weight, expected, rtol=1e-5, atol=0)


def chi_square(replay: PrioritizedReplay, leaf: np.ndarray, draws: int) -> float:
    """Statistic of batches of one, which strata leave independent; over the 99.9% quantile."""
    seen = np.zeros(leaf.size)
    for _ in range(draws):
        seen[int(replay.sample(1).index)] += 1
    expected = draws * leaf / leaf.sum()
    share = 2 / (9 * (leaf.size - 1))
    limit = (leaf.size - 1) * (1 - share + 3.09 * math.sqrt(share)) ** 3
    return float(((seen - expected) ** 2 / expected).sum() / limit)


def test_skewed_distribution() -> None:
    replay = filled(alpha=0.5)
    error = np.geomspace(0.01, 100, 50)
    replay.update(torch.arange(50), torch.from_numpy(error))
    assert chi_square(replay, (error + 1e-3) ** 0.5, 8000) < 1


def test_alpha_zero_is_uniform() -> None:
    replay = filled(alpha=0.0)
    replay.update(torch.arange(50), torch.arange(50.0) ** 2)
    assert chi_square(replay, np.ones(50), 5000) < 1


def test_same_seed_same_batches() -> None:
    def run(seed: int) -> list[list[int]]:
        replay = filled(alpha=0.7, seed=seed)
        drawn = []
        for _ in range(20):
            batch = replay.sample(8, 0.4)
            replay.update(batch.index, batch.index.float())
            drawn.append(batch.index.tolist())
        return drawn

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_batches_own_their_memory() -> None:
    """Buffers are used again, but only when nothing views the batch that they made."""
    replay = PrioritizedReplay(400, ATARI)
    generator = np.random.default_rng(0)
    replay.reset(generator.integers(0, 256, (1, 1, 84, 84), dtype=np.uint8))
    for _ in range(200):
        frame = generator.integers(0, 256, (1, 1, 84, 84), dtype=np.uint8)
        replay.add(frame, [0], [0.0], [False], [False])
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for i in range(40):
        observation = replay.sample(8).observation
        part = observation[2:4] if i % 2 else observation.flatten()[5:]
        kept.append((part, part.clone()))
        del observation
        if i % 3 == 0:
            kept.pop(generator.integers(len(kept)))
    gc.collect()
    assert all(torch.equal(part, copy) for part, copy in kept)


def test_bytes_per_transition() -> None:
    replay = PrioritizedReplay(100_000, ATARI, lanes=8, n_step=3)
    assert 84 * 84 < replay.bytes_per_transition <= 7_100
    assert replay.nbytes == pytest.approx(100_000 * replay.bytes_per_transition)


def test_refuses_what_memory_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * 10**9)
    message = (
        r"1,000,000 transitions needs 7\.08 GB and 2 GB are available; a capacity of (.*) fits"
    )
    with pytest.raises(MemoryError, match=message) as caught:
        PrioritizedReplay(1_000_000, ATARI, lanes=8)
    fits = int(str(caught.value).split("capacity of ")[1].split()[0].replace(",", ""))
    assert 200_000 < fits < 283_000
    PrioritizedReplay(fits, ATARI, lanes=8)


def test_memory_of_a_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/slice/job\n")
    group = tmp_path / "slice"
    (group / "job").mkdir(parents=True)
    (group / "job" / "memory.max").write_text("max\n")
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("700000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 150000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_OWN", own)
    assert memory.available_bytes() == 1_000_000 - 700_000 + 150_000


GOOD = {
    "frame": np.zeros(3, np.float32),
    "action": np.zeros(3, np.int64),
    "reward": np.zeros(3, np.float32),
    "terminated": np.zeros(3, bool),
    "truncated": np.zeros(3, bool),
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frame": np.zeros(2, np.float32)}, r"frame has shape \(2,\); expected \(3,\)"),
        ({"frame": np.zeros((3, 2), np.float32)}, r"frame has shape \(3, 2\)"),
        ({"frame": np.float32([0, np.nan, 0])}, "frame holds NaN or infinity"),
        ({"frame": np.zeros(3, complex)}, "frame has dtype complex128; expected float32"),
        ({"frame": {"frame": np.zeros(3)}}, "frame is a dict; this replay takes an array"),
        ({"action": np.zeros(3)}, "action has dtype float64; expected int64"),
        ({"reward": np.zeros((3, 1))}, r"reward has shape \(3, 1\)"),
        ({"reward": np.array([0, np.nan, 0])}, "reward is nan; it must be finite"),
        ({"terminated": np.zeros(3, int)}, "terminated has dtype int64; expected bool"),
        ({"truncated": np.zeros(4, bool)}, r"truncated has shape \(4,\)"),
        ({"lanes": [0, 1, 3]}, r"lanes holds 3; a lane lies in \[0, 3\)"),
        ({"lanes": [-1, 1, 2]}, "lanes holds -1"),
        ({"lanes": [0, 1, 1]}, "lanes holds a lane twice"),
        ({"lanes": []}, "one lane or more"),
        ({"lanes": [0.0]}, "one lane or more"),
    ],
)
def test_bad_steps_change_nothing(change: dict, message: str) -> None:
    replay = PrioritizedReplay(60, SCALAR, lanes=3)
    replay.reset(np.ones(3, np.float32))
    replay.add(**GOOD)
    state = [a.copy() for a in (*replay.store.ring.arrays.values(), replay.store.tree.leaves)]
    written = replay.store.ring.written.copy()
    with pytest.raises(ValueError, match=message):
        replay.add(**{**GOOD, **change})
    after = [*replay.store.ring.arrays.values(), replay.store.tree.leaves]
    assert all(np.array_equal(a, b) for a, b in zip(state, after, strict=True))
    assert np.array_equal(written, replay.store.ring.written) and replay.sampleable == 3


def test_bad_updates_change_nothing() -> None:
    replay = filled()
    before = replay.store.tree.leaves.copy()
    one = torch.ones(2)
    for index, error, message in (
        (torch.tensor([1, -1]), one, "index holds -1, a row that no batch"),
        (torch.tensor([1, 51]), one, "index holds 51, a row that no batch"),
        (torch.tensor([1, 2**62]), one, "a row that no batch"),
        (torch.tensor([1]), one, "index holds 1 rows, error 2"),
        (torch.tensor([[1, 2]]), one, r"index has shape \(1, 2\)"),
        (torch.tensor([1.0, 2.0]), one, "index has dtype torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            replay.update(index, error)
    with pytest.raises(TypeError, match="error is a list"):
        replay.update(torch.tensor([1]), [1.0])  # type: ignore[arg-type]
    assert np.array_equal(before, replay.store.tree.leaves) and replay.nan_count == 0
    replay.update(torch.empty(0, dtype=torch.int64), torch.empty(0))


def test_too_early() -> None:
    replay = PrioritizedReplay(60, SCALAR, lanes=2, n_step=3)
    with pytest.raises(ValueError, match="lane 0 has no first frame yet; call reset"):
        replay.latest()
    replay.reset(np.zeros(1, np.float32), lanes=[0])
    with pytest.raises(ValueError, match="lane 1 has no first frame yet"):
        replay.add(np.zeros(2, np.float32), [0, 0], [0.0, 0.0], [False] * 2, [False] * 2)
    with pytest.raises(ValueError, match="none of the 1 frames can start .* at least 3 steps"):
        replay.sample(4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        replay.sample(0)
    with pytest.raises(ValueError, match="beta is 2"):
        replay.sample(4, 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"capacity": 1e6}, "capacity is 1000000.0; it must be a whole number"),
        ({"lanes": 0}, "lanes is 0"),
        ({"lanes": -1}, "lanes is -1"),
        ({"n_step": 0}, "n_step is 0"),
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"device": "cuda:99"}, "device is 'cuda:99', and torch sees . CUDA GPUs; try 'cpu'"),
        ({"device": "gpu"}, "device is 'gpu'; try 'cpu', 'cuda'"),
        ({"backend": "trition"}, "backend is 'trition'; try 'triton', of auto"),
        ({"device": "meta"}, "device is 'meta'; a replay lives on 'cpu' or 'cuda'"),
        ({"device": "mps"}, "device is 'mps'; a replay lives on 'cpu' or 'cuda'"),
        ({"seed": -1}, r"seed is -1; it must be a whole number in \[0, 2\^63\)"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": 1 << 63}, "seed is 9223372036854775808; it must be a whole number"),
        ({"observation": {}}, "observation names no field"),
        ({"observation": Field((3,), "U3")}, "dtype 'U3'; PyTorch knows no such"),
        ({"observation": Field((0,), "uint8")}, r"frame has shape \(0,\)"),
        ({"observation": Field((3,), "uint8", 257)}, r"stack 257; it must lie in \[1, 256\]"),
        ({"action": Field((), "int64", 2)}, "action has stack 2"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrioritizedReplay(**{"capacity": 1000, "observation": SCALAR, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"gamma": "x"}, "gamma is 'x'; it must be a number"),
        ({"alpha": None}, "alpha is None; it must be a number"),
        ({"eps": "x"}, "eps is 'x'; it must be a number"),
        ({"observation": None}, "observation is a NoneType; describe it by a Field, or a dict"),
        ({"observation": [SCALAR]}, "observation is a list; describe it by a Field, or a dict"),
        ({"observation": {1: SCALAR}}, "observation has a field named 1; a name is a str"),
        ({"observation": {"a": (2,)}}, "a is a tuple; describe it by a Field"),
    ],
)
def test_arguments_of_other_kinds(change: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        PrioritizedReplay(**{"capacity": 1000, "observation": SCALAR, **change})


@pytest.mark.parametrize(
    "given, message",
    [
        (((3,), "float31"), "dtype 'float31'; expected one of NumPy's"),
        (((3,), None), "dtype None; expected one of NumPy's"),
        ((3, "uint8"), "shape 3 and stack 1; expected whole numbers"),
        (((2.0,), "uint8"), r"shape \(2.0,\) and stack 1; expected whole numbers"),
        (((2,), "uint8", "4"), r"shape \(2,\) and stack '4'; expected whole numbers"),
    ],
)
def test_what_is_no_field(given: tuple, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Field(*given)


def test_a_field_is_plain_whatever_it_was_made_of() -> None:
    made = Field(np.array([2, 3]), np.dtype(">f4"), np.int64(2))  # type: ignore[arg-type]
    assert made == Field((2, 3), "float32", 2) and type(made.shape[0]) is int


def test_nothing_is_wrapped_or_without_a_number() -> None:
    replay = PrioritizedReplay(50, Field((1,), "uint8"), Field((), "int8"), lanes=1)
    replay.reset(np.array([[255]], np.int64))  # it fits, so its width doesn't matter

    def add(frame: object = 1, action: object = 1) -> None:
        replay.add(np.array([[frame]]), np.array([action]), [0.0], [False], [False])  # type: ignore[arg-type]

    add(0, -128)
    for frame in (256, -1):
        with pytest.raises(ValueError, match=f"frame holds {frame}; uint8 reaches from 0 to 255"):
            add(frame=frame)
    with pytest.raises(ValueError, match="action holds 300; int8 reaches from -128 to 127"):
        add(action=300)
    floats = PrioritizedReplay(50, Field((), "complex64"), Field((2,), "float32"))
    floats.reset(np.zeros(1, np.complex64))
    with pytest.raises(ValueError, match="action holds NaN or infinity"):
        floats.add(np.zeros(1), [[np.nan, 0.0]], [0.0], [False], [False])
    with pytest.raises(ValueError, match="frame holds NaN or infinity"):
        floats.add([complex(np.nan, 0)], [[0.0, 0.0]], [0.0], [False], [False])
    assert len(replay) == 2 and len(floats) == 1


def test_tensors_are_taken_where_they_have_numbers() -> None:
    replay = PrioritizedReplay(50, Field((2,), "float32"))
    replay.reset(torch.ones(1, 2, requires_grad=True))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frame is no array of float32, .*BFloat16"):
        replay.reset(torch.ones(1, 2, dtype=torch.bfloat16))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frame is no array of float32, .*inhomogeneous"):
        replay.reset([[1.0, 2.0], [3.0]])


def test_beta_is_a_share_as_a_tensor_too() -> None:
    replay = PrioritizedReplay(50, SCALAR)
    replay.reset(np.zeros(1, np.float32))
    replay.add(np.zeros(1, np.float32), [0], [0.0], [False], [False])
    for beta in (5.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"beta is {beta}; it must lie in"):
            replay.sample(2, torch.tensor([beta], dtype=torch.float64))
    for other in ("x", None, [0.4], np.array([0.4])):
        with pytest.raises(TypeError, match="beta is .*; it must be a number"):
            replay.sample(2, other)  # type: ignore[arg-type]


def test_named_fields() -> None:
    spec = {"camera": Field((1, 2, 2), "uint8", 2), "pose": Field((3,), "float32")}
    replay = PrioritizedReplay(40, spec, Field((2,), "float32"), lanes=2, alpha=0.0)
    frame = {"camera": np.ones((2, 1, 2, 2), np.uint8), "pose": np.ones((2, 3))}
    replay.reset(frame)
    for key, message in (
        ("cam", "frame holds 'cam'.*try 'camera'"),
        (None, "frame lacks 'camera'"),
    ):
        bad = {"pose": frame["pose"]} | ({} if key is None else {key: frame["camera"]})
        with pytest.raises(ValueError, match=message):
            replay.reset(bad)
    with pytest.raises(ValueError, match="frame is a ndarray; this replay takes a dict of camera"):
        replay.reset(frame["camera"])
    replay.add(frame, np.zeros((2, 2)), [0.0] * 2, [False] * 2, [True] * 2)
    batch = replay.sample(3)
    assert batch.observation["camera"].shape == (3, 2, 2, 2)
    assert batch.next_observation["pose"].shape == (3, 3)
    assert batch.action.shape == (3, 2) and batch.action.dtype == torch.float32
    moved = batch.to("cpu")
    assert isinstance(moved, Batch) and torch.equal(
        moved.observation["pose"], batch.observation["pose"]
    )


def test_writer_beside_a_learner() -> None:
    replay = PrioritizedReplay(500, Field((1, 8, 8), "uint8", 4), lanes=4, n_step=3)
    generator = np.random.default_rng(0)
    frame = np.zeros((4, 1, 8, 8), np.uint8)
    replay.reset(frame)
    flags = generator.random((3000, 2, 4)) < 0.02
    wrong: list[Exception] = []

    def write() -> None:
        try:
            for terminated, truncated in flags:
                replay.add(frame, np.zeros(4, int), np.zeros(4), terminated, truncated)
        except Exception as error:  # noqa: BLE001 (shown by the main thread)
            wrong.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    updates = 0
    while thread.is_alive():
        if replay.sampleable:
            batch = replay.sample(16)
            replay.update(batch.index, torch.rand(16) * 5)
            updates += 1
    thread.join()
    assert not wrong and updates > 0
    is_open = replay.store.ring.open_slots()
    assert np.array_equal(is_open, replay.store.tree.leaves[: is_open.size] > 0)
    assert replay.sampleable == is_open.sum()
    assert replay.store.tree.total == pytest.approx(
        math.fsum(replay.store.tree.leaves.tolist()), rel=1e-12
    )
