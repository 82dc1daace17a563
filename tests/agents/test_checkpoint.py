"""Checkpoints: exact, atomic under a kill, and clear about damage."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents import checkpoint
from agents.errors import CheckpointError, StorageError


def writer(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "state.txt").write_text(text)
        (folder / "replay").mkdir()
        (folder / "replay" / "chunk").write_bytes(text.encode() * 100)

    return write


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / checkpoint.FOLDER).iterdir())


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) or (left != left and right != right)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": 1, "b": [1.5, True, None, "text"], 3: {"c": (1, (2,))}, "": {}},
        {"1": "text key", 1: "number key"},
        [math.inf, -math.inf, math.nan, -0.0, 0.1 + 0.2, 2**200, 5e-324],
        {"tensor": {"looks": "like a tag"}, "dict": [["x"]]},
        torch.arange(6).reshape(2, 3),
        {
            "half": torch.ones(3, dtype=torch.bfloat16),
            "scalar": torch.tensor(2.5, dtype=torch.float64),
            "empty": torch.zeros(0, 4),
            "flags": torch.tensor([True, False]),
            "bytes": torch.get_rng_state(),
        },
    ],
)
def test_a_tree_comes_back_exactly(tmp_path: Path, tree: Any) -> None:
    checkpoint.save_tree(tmp_path / "x", tree)
    assert same(checkpoint.load_tree(tmp_path / "x"), tree)


def test_tensors_that_share_memory_or_are_strided(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"base": base, "transposed": base.t(), "row": base[1]}
    checkpoint.save_tree(tmp_path / "x", tree)
    assert same(checkpoint.load_tree(tmp_path / "x"), tree)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop])
def test_an_optimiser_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    def build() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return net, optimizer(net.parameters(), lr=0.1)

    def step(net: torch.nn.Linear, opt: torch.optim.Optimizer) -> None:
        opt.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        opt.step()

    net, opt = build()
    step(net, opt)
    checkpoint.save_tree(tmp_path / "x", {"net": net.state_dict(), "opt": opt.state_dict()})
    twin, twin_opt = build()
    tree = checkpoint.load_tree(tmp_path / "x")
    twin.load_state_dict(tree["net"])
    twin_opt.load_state_dict(tree["opt"])
    step(net, opt)
    step(twin, twin_opt)
    assert torch.equal(net.weight, twin.weight)


@pytest.mark.parametrize("value", [object(), {1.5: 2}, {"a": {1, 2}}, [lambda: 0]])
def test_a_tree_holds_nothing_else(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="save_tree"):
        checkpoint.save_tree(tmp_path / "x", value)


def test_damaged_trees_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def fails(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            checkpoint.load_tree(path)

    fails(r"x\.json is missing")
    checkpoint.save_tree(path, {"w": torch.ones(100)})
    whole, text = Path(f"{path}.safetensors").read_bytes(), Path(f"{path}.json").read_text()
    Path(f"{path}.safetensors").write_bytes(whole[:-10])
    fails(r"x\.safetensors is damaged")
    Path(f"{path}.safetensors").write_bytes(whole)
    for damage in ("{", "[]", "{}", '{"schema": 1, "tree": {"code": "x"}}', text.replace("w", "v")):
        Path(f"{path}.json").write_text(damage)
        fails(r"x\.json is damaged")
    Path(f"{path}.json").write_text('{"schema": 2, "tree": 1}')
    fails("newer schema")


def test_save_keeps_the_newest_and_tidies_up(tmp_path: Path) -> None:
    (tmp_path / checkpoint.FOLDER / ".tmp-step-000000000001-99").mkdir(parents=True)
    for step in (100, 200, 300):
        folder = checkpoint.save(tmp_path, step, writer(str(step)))
    assert folder.name == "step-000000000300"
    assert names(tmp_path) == ["step-000000000200", "step-000000000300"]
    assert (checkpoint.latest(tmp_path) / "state.txt").read_text() == "300"
    assert sorted(checkpoint.steps(tmp_path)) == [200, 300]
    assert checkpoint.verify(folder)["step"] == 300


def test_a_damaged_future_gives_way(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 200, writer("200"))
    truncate(checkpoint.save(tmp_path, 300, writer("300")))
    checkpoint.save(tmp_path, 250, writer("250"))  # the run went back to 200
    assert names(tmp_path) == ["step-000000000200", "step-000000000250"]


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 5, writer("old"))
    checkpoint.save(tmp_path, 5, writer("new"))
    assert names(tmp_path) == ["step-000000000005"]
    assert (checkpoint.latest(tmp_path) / "state.txt").read_text() == "new"


def test_a_kill_between_the_two_renames_keeps_the_old_one(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 5, writer("old"))
    folder.rename(folder.with_name(".old-step-000000000005"))
    assert (checkpoint.latest(tmp_path) / "state.txt").read_text() == "old"
    checkpoint.save(tmp_path, 5, writer("new"))
    assert names(tmp_path) == ["step-000000000005"]
    assert (checkpoint.latest(tmp_path) / "state.txt").read_text() == "new"


def truncate(folder: Path) -> None:
    (folder / "state.txt").write_text("")


def flip(folder: Path) -> None:
    content = (folder / "state.txt").read_text()
    (folder / "state.txt").write_text("x" * len(content))


def remove(folder: Path) -> None:
    (folder / "replay" / "chunk").unlink()


def no_manifest(folder: Path) -> None:
    (folder / checkpoint.MANIFEST).unlink()


def edit_manifest(folder: Path) -> None:
    path = folder / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["files"]["state.txt"]
    path.write_text(json.dumps(manifest))


def torn_manifest(folder: Path) -> None:
    path = folder / checkpoint.MANIFEST
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "state.txt is damaged: it has 0 bytes, not 3"),
        (flip, "state.txt is damaged: its checksum"),
        (remove, "replay/chunk is missing"),
        (no_manifest, "it has no manifest.json"),
        (edit_manifest, "manifest.json is damaged"),
        (torn_manifest, "manifest.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    checkpoint.save(tmp_path, 100, writer("100"))
    damage(checkpoint.save(tmp_path, 200, writer("200")))
    warnings: list[str] = []
    assert checkpoint.latest(tmp_path, warnings.append).name == "step-000000000100"
    assert len(warnings) == 1 and named in warnings[0] and "000200" in warnings[0]
    damage(tmp_path / checkpoint.FOLDER / "step-000000000100")
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        checkpoint.latest(tmp_path)


def test_files_with_their_own_checksum_are_listed_by_size(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, writer("abc"), own_crc=("replay",))
    files = checkpoint.verify(folder)["files"]
    assert files["replay/chunk"] == {"size": 300}
    assert set(files["state.txt"]) == {"size", "crc32"}
    (folder / "replay" / "chunk").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="chunk is damaged: it has 5 bytes, not 300"):
        checkpoint.verify(folder)


def test_a_newer_schema_is_refused_not_passed_over(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 100, writer("100"))
    path = checkpoint.save(tmp_path, 200, writer("200")) / checkpoint.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 7}))
    with pytest.raises(CheckpointError, match="has schema 7, and this version reads up to 1"):
        checkpoint.latest(tmp_path)


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.latest(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "first").write_text("fits")
        Path("/dev/full").write_bytes(b"does not")

    checkpoint.save(tmp_path, 100, writer("100"))
    with pytest.raises(StorageError, match="no space left .* earlier checkpoints stand") as caught:
        checkpoint.save(tmp_path, 200, write)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["step-000000000100"]
    assert checkpoint.latest(tmp_path).name == "step-000000000100"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 100, writer("100"))
    (tmp_path / checkpoint.FOLDER).chmod(0o500)
    with pytest.raises(StorageError, match="can't be written: Permission denied"):
        checkpoint.save(tmp_path, 200, writer("200"))
    (tmp_path / checkpoint.FOLDER).chmod(0o700)
    assert checkpoint.latest(tmp_path).name == "step-000000000100"


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / checkpoint.FOLDER).write_text("")
    with pytest.raises(StorageError, match="a checkpoint in .* failed"):
        checkpoint.save(tmp_path, 1, writer("x"))


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("a fault of its own")

    with pytest.raises(RuntimeError, match="a fault of its own"):
        checkpoint.save(tmp_path, 1, write)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("step", "keep"), [(-1, 2), (1, 0)])
def test_wrong_arguments(tmp_path: Path, step: int, keep: int) -> None:
    with pytest.raises(ValueError, match="it must be"):
        checkpoint.save(tmp_path, step, writer("x"), keep=keep)


SAVER = """
import sys
from pathlib import Path
from agents import checkpoint

run_dir, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    step += 1
    def write(folder):
        for part in range(5):
            (folder / f"part{part}").write_bytes(step.to_bytes(8, "little") * 5000)
    checkpoint.save(run_dir, step, write)
    print(step, flush=True)
"""


def test_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    chance = random.Random(7)
    step = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(step)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()  # it runs
        time.sleep(chance.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        done = process.stdout.read().split()
        process.wait()
        warnings: list[str] = []
        folder = checkpoint.latest(tmp_path, warnings.append)
        assert warnings == []  # whatever carries a checkpoint's name is whole
        found = checkpoint.verify(folder)["step"]
        assert found >= (int(done[-1]) if done else step + 1)
        for part in range(5):
            content = (folder / f"part{part}").read_bytes()
            assert content == found.to_bytes(8, "little") * 5000
        step = found
    checkpoint.save(tmp_path, step + 1, writer("x"))
    assert len(names(tmp_path)) == 2  # what the kills left is gone


def test_nothing_here_can_unpickle() -> None:
    source = Path(checkpoint.__file__).read_text()
    assert "import pickle" not in source and "torch.load" not in source
