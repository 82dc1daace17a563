"""Saved and loaded, a replay goes on as if nothing had happened; damage is told by file."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import Field, PrioritizedReplay, snapshot
from tests.replay.backends import ALL, leaves

SPEC = {"camera": Field((1, 3, 3), "uint8", 3), "pose": Field((2,), "float32", 2)}


def make(capacity: int = 150, lanes: int = 3, **options: object) -> PrioritizedReplay:
    settings = {"n_step": 3, "gamma": 0.9, "alpha": 0.6, "seed": 5, **options}
    return PrioritizedReplay(capacity, SPEC, lanes=lanes, **settings)  # type: ignore[arg-type]


def frames(generator: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        "camera": generator.integers(0, 256, (count, 1, 3, 3), dtype=np.uint8),
        "pose": generator.normal(size=(count, 2)).astype(np.float32),
    }


def begin(replay: PrioritizedReplay, seed: int = 0) -> None:
    replay.reset(frames(np.random.default_rng(seed), replay.lanes))


def play(replay: PrioritizedReplay, steps: int, seed: int) -> list[torch.Tensor]:
    """Random steps of some lanes, resets and updates; all that was seen on the way."""
    generator = np.random.default_rng(seed)
    seen: list[torch.Tensor] = []
    for _ in range(steps):
        count = int(generator.integers(1, replay.lanes + 1))
        lanes = generator.permutation(replay.lanes)[:count]
        frame = frames(generator, count)
        if generator.random() < 0.05:
            replay.reset(frame, lanes)
        else:
            flags = generator.random((2, count)) < 0.05
            replay.add(
                frame, generator.integers(0, 9, count), generator.normal(size=count), *flags, lanes
            )
        if replay.sampleable and generator.random() < 0.3:
            batch = replay.sample(7, 0.5)
            error = generator.normal(size=7)
            error[generator.random(7) < 0.1] = np.nan
            replay.update(batch.index, torch.from_numpy(error).to(batch.index.device))
            seen += [batch.index, batch.reward, batch.discount, batch.weight, batch.action]
            seen += [*batch.observation.values(), *batch.next_observation.values()]
            seen += replay.latest().values()
    return seen


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(ours, theirs, strict=True))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(0, 200),
    lanes=st.integers(1, 5),
    chunk=st.sampled_from([1, 16, 40, 10_000]),
)
def test_goes_on_as_if_nothing_had_happened(seed: int, steps: int, lanes: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(snapshot, "_CHUNK_SLOTS", chunk)
        first = make(40 * lanes + 1, lanes)
        begin(first)
        play(first, steps, seed)
        first.save(Path(folder) / "a")
        second = make(40 * lanes + 1, lanes, seed=99)
        begin(second, 7)
        play(second, 90, seed + 1)  # what it held before is gone
        second.load(Path(folder) / "a")
    assert second.sampleable == first.sampleable and len(second) == len(first)
    assert np.array_equal(second.store.tree.leaves, first.store.tree.leaves)
    assert second.store.tree.total == first.store.tree.total
    assert second.nan_count == first.nan_count
    assert np.array_equal(second.store.priority, first.store.priority)
    assert np.array_equal(second.store.ring.pending, first.store.ring.pending)
    assert same(list(second.latest().values()), list(first.latest().values()))
    assert same(play(first, 80, seed + 2), play(second, 80, seed + 2))
    assert np.array_equal(second.store.tree.leaves, first.store.tree.leaves)


def chunks(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(folder.glob("*.zst"))}


def test_links_what_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_CHUNK_SLOTS", 30)
    replay = make(300)
    begin(replay)
    generator = np.random.default_rng(1)

    def step(count: int) -> None:
        for _ in range(count):
            nothing = np.zeros((2, 3), bool)
            replay.add(frames(generator, 3), np.zeros(3, int), np.zeros(3), *nothing)

    step(34)  # rows 0..34: three full chunks of ten rows, and a half
    replay.save(tmp_path / "a")
    step(10)
    replay.save(tmp_path / "b", tmp_path / "a")
    a, b = chunks(tmp_path / "a"), chunks(tmp_path / "b")
    assert len(a) == 4 and len(b) == 5
    assert [a[name] == b[name] for name in a] == [True, True, True, False]
    # The ring wraps into chunk 0, and the older snapshots must not feel it.
    step(60)
    replay.save(tmp_path / "c", tmp_path / "b")
    c = chunks(tmp_path / "c")
    assert [b[name] == c[name] for name in b] == [False, True, True, True, False]
    shutil.rmtree(tmp_path / "a")
    for name in ("b", "c"):
        make(300).load(tmp_path / name)
    # A loaded replay is of the same line, so it may link; a stranger with equal counts may not.
    heir = make(300)
    heir.load(tmp_path / "c")
    heir.save(tmp_path / "d", tmp_path / "c")
    assert chunks(tmp_path / "d") == c
    stranger = make(300)
    begin(stranger, 3)
    replay, generator = stranger, np.random.default_rng(4)
    step(104)
    stranger.save(tmp_path / "e", tmp_path / "c")
    assert not set(chunks(tmp_path / "e").values()) & set(c.values())


def test_a_reset_at_a_chunk_edge_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sets the flag of a slot that was saved already, in a chunk that was full."""
    monkeypatch.setattr(snapshot, "_CHUNK_SLOTS", 30)
    replay = make(300)
    begin(replay)
    generator = np.random.default_rng(1)
    for _ in range(9):
        nothing = np.zeros((2, 3), bool)
        replay.add(frames(generator, 3), np.zeros(3, int), np.zeros(3), *nothing)
    replay.save(tmp_path / "a")
    replay.reset(frames(generator, 3))
    replay.save(tmp_path / "b", tmp_path / "a")
    other = make(300)
    other.load(tmp_path / "b")
    assert other.sampleable == replay.sampleable == 27
    other.load(tmp_path / "a")
    assert other.sampleable == 7 * 3


def test_links_by_copy_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    replay = make()
    begin(replay)
    play(replay, 50, 1)
    replay.save(tmp_path / "a")
    replay.save(tmp_path / "b", tmp_path / "a")
    name = "chunk-00000.zst"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    make().load(tmp_path / "b")


def test_reset_after_a_load_ends_the_open_episodes(tmp_path: Path) -> None:
    replay = make(alpha=0.0)
    begin(replay)
    generator = np.random.default_rng(2)
    for _ in range(10):
        nothing = np.zeros((2, 3), bool)
        replay.add(frames(generator, 3), np.zeros(3, int), np.ones(3), *nothing)
    replay.save(tmp_path / "a")
    other = make(alpha=0.0)
    other.load(tmp_path / "a")
    assert other.sampleable == 8 * 3
    new = frames(generator, 3)
    other.reset(new)
    assert other.sampleable == 10 * 3
    batch = other.sample(400)
    newest = batch.next_observation["pose"][:, 2:]
    assert not (newest[:, None] == torch.from_numpy(new["pose"])).all(-1).any()
    last = batch.index // 3 == 9
    assert torch.allclose(batch.discount[last], torch.tensor(0.9))
    assert torch.allclose(batch.reward[last], torch.tensor(1.0))


def test_another_n_step_and_alpha_read_the_same_snapshot(tmp_path: Path) -> None:
    replay = make(600)
    begin(replay)
    play(replay, 150, 4)
    replay.save(tmp_path / "a")
    one = make(600, n_step=1, alpha=0.3)
    one.load(tmp_path / "a")
    assert one.sampleable > replay.sampleable
    new = (one.store.priority > 0) & (replay.store.priority == 0)
    assert (one.store.priority[new] == replay.store.greatest[0]).all()
    priority = replay.store.priority
    expected = priority[priority > 0].astype(np.float64) ** 0.3
    leaves = one.store.tree.leaves[: priority.size]
    np.testing.assert_allclose(leaves[priority > 0], expected, rtol=1e-6)


def saved(folder: Path) -> PrioritizedReplay:
    replay = make()
    begin(replay)
    play(replay, 60, 8)
    replay.save(folder)
    return replay


@pytest.mark.parametrize("name", ["replay.json", "state.safetensors", "chunk-00000.zst"])
@pytest.mark.parametrize("how", ["truncated", "tampered", "missing", "empty"])
def test_damage_is_told_by_file(tmp_path: Path, name: str, how: str) -> None:
    saved(tmp_path / "a")
    path = tmp_path / "a" / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "tampered":
        middle = len(data) // 2
        digit = bytes([data[middle] ^ 1])
        path.write_bytes(data[:middle] + digit + data[middle + 1 :])
    else:
        path.write_bytes(data[: len(data) // 2] if how == "truncated" else b"")
    other = make()
    begin(other)
    play(other, 40, 9)
    leaves = other.store.tree.leaves.copy()
    kind = FileNotFoundError if (name, how) == ("replay.json", "missing") else ValueError
    with pytest.raises(kind, match=name) as caught:
        other.load(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert np.array_equal(leaves, other.store.tree.leaves)
    play(other, 40, 10)


def forge(folder: Path, **change: object) -> None:
    """A manifest whose checksum is right although its content is not."""
    path = folder / "replay.json"
    manifest = {**json.loads(path.read_text()), **change}
    manifest.pop("crc32")
    path.write_text(json.dumps({**manifest, "crc32": snapshot._crc(manifest)}))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema": 9}, "replay.json has schema 9; this version reads 2"),
        ({"capacity": 151}, "holds a replay of capacity 151; expected 150"),
        ({"lanes": 2}, "holds a replay of lanes 2; expected 3"),
        ({"written": [1, -2, 3]}, "replay.json is damaged"),
        ({"written": [1, 2]}, "replay.json is damaged"),
        ({"written": "x"}, "replay.json is damaged"),
        ({"chunks": []}, "replay.json is damaged"),
        ({"generator": {"bit_generator": "MT19937"}}, "replay.json is damaged"),
        ({"greatest": None}, "replay.json is damaged"),
        ({"greatest": -1.0}, "replay.json is damaged"),
        ({"nan_count": "x"}, "replay.json is damaged"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    saved(tmp_path / "a")
    forge(tmp_path / "a", **change)
    with pytest.raises(ValueError, match=message):
        make().load(tmp_path / "a")


def test_other_fields_do_not_fit(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    spec = {**SPEC, "pose": Field((3,), "float32", 2)}
    with pytest.raises(ValueError, match="holds a replay of fields"):
        PrioritizedReplay(150, spec, lanes=3).load(tmp_path / "a")


def named(values: dict[str, float]) -> tuple[dict[str, Field], dict[str, np.ndarray]]:
    """Fields of one number each, and a frame that holds `values`."""
    spec = {name: Field((1 + len(name),), "float32") for name in values}
    return spec, {n: np.full((1, *spec[n].shape), v, np.float32) for n, v in values.items()}


@pytest.mark.parametrize("old", [False, True])
def test_fields_come_back_by_name_in_any_order(tmp_path: Path, old: bool) -> None:
    one, other = {"a": 1.0, "bc": 2.0, "d": 3.0}, {"d": 3.0, "bc": 2.0, "a": 1.0}
    spec, frame = named(one)
    first = PrioritizedReplay(40, spec)
    first.reset(frame)
    for _ in range(5):
        first.add(frame, [0], [1.0], [False], [False])
    first.save(tmp_path / "a")
    if old:  # the schema before, which told the action among the fields
        manifest = json.loads((tmp_path / "a" / "replay.json").read_text())
        fields = manifest["fields"] | {"action": manifest["action"]}
        forge(tmp_path / "a", schema=1, fields=fields, action=None)
    second = PrioritizedReplay(40, named(other)[0])
    second.load(tmp_path / "a")
    second.save(tmp_path / "b", tmp_path / "a")
    third = PrioritizedReplay(40, spec)
    third.load(tmp_path / "b")
    for replay in (second, third):
        for name, values in replay.sample(3).observation.items():  # type: ignore[union-attr]
            assert values.shape == (3, 1 + len(name)) and values.unique().tolist() == [one[name]]


def test_a_field_may_be_called_action(tmp_path: Path) -> None:
    spec, frame = named({"action": 7.0, "reward": 8.0})
    replay = PrioritizedReplay(40, spec)
    replay.reset(frame)
    replay.add(frame, [3], [1.0], [False], [False])
    replay.save(tmp_path / "a")
    again = PrioritizedReplay(40, spec)
    again.load(tmp_path / "a")
    batch = again.sample(2)
    assert batch.action.tolist() == [3, 3]
    assert {n: v.unique().tolist() for n, v in batch.observation.items()} == {  # type: ignore[union-attr]
        "action": [7.0], "reward": [8.0]
    }  # fmt: skip
    other = PrioritizedReplay(40, spec | {"action": Field((9,), "float32")})
    with pytest.raises(ValueError, match="holds a replay of fields"):
        other.load(tmp_path / "a")
    with pytest.raises(ValueError, match="holds a replay of action"):
        PrioritizedReplay(40, spec, Field((), "int32")).load(tmp_path / "a")


def test_a_full_disk_is_told_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make()
    begin(replay)

    def full(self: object, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot._Sink, "write", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'a'}'"):
        replay.save(tmp_path / "a")


def test_a_snapshot_is_never_overwritten(tmp_path: Path) -> None:
    replay = saved(tmp_path / "a")
    with pytest.raises(FileExistsError, match="holds a snapshot already"):
        replay.save(tmp_path / "a")
    # Leftovers of a save that was killed may share an inode with an older snapshot.
    (tmp_path / "b").mkdir()
    os.link(tmp_path / "a" / "chunk-00000.zst", tmp_path / "b" / "chunk-00000.zst")
    play(replay, 20, 3)
    replay.save(tmp_path / "b")
    make().load(tmp_path / "a")
    make().load(tmp_path / "b")


def test_a_lost_predecessor_only_costs_its_links(tmp_path: Path) -> None:
    replay = saved(tmp_path / "a")
    (tmp_path / "a" / "replay.json").write_text("{")
    replay.save(tmp_path / "b", tmp_path / "a")
    replay.save(tmp_path / "c", tmp_path / "nowhere")
    make().load(tmp_path / "c")


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize("target", ALL)
def test_moves_between_backends(
    tmp_path: Path, source: dict[str, str], target: dict[str, str]
) -> None:
    """All that is in the ring and the leaves; within a kind the draws that follow too."""
    first = make(90, **source)
    begin(first)
    play(first, 40, 3)
    first.save(tmp_path / "a")
    second = make(90, **{**target, "seed": 99})
    begin(second, 7)
    play(second, 5, 4)
    second.load(tmp_path / "a")
    assert second.sampleable == first.sampleable > 0
    assert second.nan_count == first.nan_count and len(second) == len(first)
    assert np.array_equal(second.store.priorities(), first.store.priorities())
    np.testing.assert_allclose(leaves(second), leaves(first), rtol=1.2e-7)
    assert same([*second.latest().values()], [*first.latest().values()])
    if (source["backend"] == "numba") == (target["backend"] == "numba"):
        assert torch.equal(first.sample(9).index.cpu(), second.sample(9).index.cpu())
        assert same(play(first, 4, 5), play(second, 4, 5)) or source != target
    second.save(tmp_path / "b")
    if source == target:
        return
    third = make(90, **source)
    third.load(tmp_path / "b")
    assert third.sampleable == second.sampleable
    again, once_more = make(90, **target), make(90, **target)
    again.load(tmp_path / "a")
    once_more.load(tmp_path / "a")
    assert torch.equal(again.sample(9).index, once_more.sample(9).index)
