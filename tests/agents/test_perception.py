"""An agent's eyes: options by name, pretrained weights, freezing, a learning rate of their own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vision
from agents import load
from agents.dqn import DQN
from agents.explain import look
from agents.start import create, resume
from configs.dqn import DQNConfig
from replay import Batch
from tests.support import TaggedEnv

SHAPE = (4, 48, 48)
BASE = DQNConfig(
    encoder="resnet18", encoder_width=0.125, hidden=16, precision="fp32", learning_rate=1e-2,
    encoder_head="pool",
)  # fmt: skip


def agent(**options: Any) -> DQN:
    return DQN(replace(BASE, **options), SHAPE, 3, seed=1)


def batch(seed: int = 0, size: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, size, *SHAPE), dtype=torch.uint8, generator=draw)
    return Batch(
        observation=images[0], next_observation=images[1],
        action=torch.randint(0, 3, (size,), generator=draw), reward=torch.randn(size),
        discount=torch.full((size,), 0.9), weight=torch.ones(size), index=torch.arange(size),
    )  # fmt: skip


def weights(folder: Path, channels: int = 3) -> Path:
    """A classifier's file, as torchvision writes them, of a narrow ResNet-18."""
    torch.manual_seed(7)
    net = vision.resnet18(10, in_channels=channels, width=0.125)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[operator, union-attr]
    path = folder / "resnet18.safetensors"
    save_file(net.state_dict(), path)
    return path


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {n for n, v in module.state_dict().items() if not torch.equal(v, before[n])}


def test_weights_come_after_the_initialiser_and_are_the_targets_too(tmp_path: Path) -> None:
    path = weights(tmp_path)
    made = agent(encoder_weights=str(path), init="orthogonal")
    torch.manual_seed(7)
    reference = vision.resnet18(10, in_channels=3, width=0.125)
    for network in (made.online, made.target):
        own = network.encoder.backbone.layer1[0].conv1.weight  # type: ignore[union-attr, index]
        assert torch.equal(own, reference.layer1[0].conv1.weight)  # type: ignore[index, union-attr]
    assert "matched" in made.report and "adapted" in made.report  # 4 channels from 3
    assert made.online.encoder.normalize is True  # type: ignore[comparison-overlap]
    assert agent().report == "" and agent().online.encoder.normalize is False  # type: ignore[comparison-overlap]


def test_a_frozen_encoder_holds_still_statistics_included() -> None:
    made = agent(encoder_freeze=True)
    before = state(made.online.encoder)
    head = state(made.online.first)
    for seed in range(3):
        made.update(batch(seed))
    assert changed(before, made.online.encoder) == set()
    assert changed(head, made.online.first)


def test_an_unfrozen_encoder_learns_and_moves_its_statistics() -> None:
    made = agent()
    before = state(made.online.encoder)
    made.update(batch())
    moved = changed(before, made.online.encoder)
    assert any("running_mean" in name for name in moved) and any("conv1" in n for n in moved)


def test_a_learning_rate_of_the_encoders_own() -> None:
    slow, fast = agent(encoder_learning_rate=1e-9), agent(encoder_learning_rate=1e-2)
    name = "backbone.layer1.0.conv1.weight"
    for made, largest in ((slow, 1e-6), (fast, None)):
        before = state(made.online.encoder)[name]
        made.update(batch())
        step = float((made.online.encoder.state_dict()[name] - before).abs().max())
        assert step < largest if largest else step > 1e-4


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_norms_by_one_word(norm: str) -> None:
    made = agent(encoder_norm=norm)
    kinds = {type(m).__name__ for m in made.online.encoder.modules()}
    assert ("BatchNorm2d" in kinds) == (norm == "batch")
    assert ("GroupNorm" in kinds) == (norm == "group")
    made.update(batch())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoder": "nature", "encoder_norm": "group", "encoder_head": "auto"},
            "no option 'norm'",
        ),
        ({"encoder_freeze": True, "encoder_learning_rate": 1e-3}, "encoder_freeze is on"),
        ({"encoder_learning_rate": -1.0}, "must be 0 or more"),
        ({"encoder": "resnet19"}, "did you mean 'resnet1"),
    ],
)
def test_refusals_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        agent(**options)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_foreign_or_torn(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        agent(encoder_weights=str(tmp_path / "absent.safetensors"))
    path = weights(tmp_path)
    with pytest.raises(ValueError, match="another network"):
        agent(encoder="vgg11", encoder_weights=str(path))
    with pytest.raises(ValueError, match="encoder_width is 0.25 here, and a file of the whole"):
        agent(encoder_width=0.25, encoder_weights=str(path))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="torn"):
        agent(encoder_weights=str(torn))


PARTS = {"left": (4, 48, 48), "right": (1, 40, 56), "pose": (3,)}


def parts(seed: int = 0, size: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def one() -> dict[str, torch.Tensor]:
        found = {
            name: torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=draw)
            for name, shape in PARTS.items()
        }
        return found | {"pose": torch.randn(size, 3, generator=draw)}

    return replace(batch(seed, size), observation=one(), next_observation=one())


def several(**options: Any) -> DQN:
    return DQN(replace(BASE, **options), PARTS, 3, seed=1)  # type: ignore[arg-type]


def test_of_several_parts_the_options_concern_the_images(tmp_path: Path) -> None:
    path = str(weights(tmp_path))
    made = several(encoder_weights=path, encoder_freeze=True)
    assert made.report.startswith("left: ") and "\nright: " in made.report
    assert "averaged from 3 to 4" in made.report and "averaged from 3 to 1" in made.report
    encoder = made.online.encoder
    before = state(encoder)
    made.update(parts())
    assert {name.partition(".")[0] for name in changed(before, encoder)} == {"vectors"}
    slow = several(encoder_learning_rate=1e-9)
    before = state(slow.online.encoder)
    slow.update(parts())
    step = {
        n: float((v.detach() - before[n]).abs().max())
        for n, v in slow.online.encoder.named_parameters()
    }
    assert all((value > 1e-4) == name.startswith("vectors") for name, value in step.items())


@pytest.mark.parametrize(
    "switches",
    [
        {"noisy": True, "distributional": True},
        {"precision": "bf16", "encoder_norm": "group"},
        {"precision": "bf16", "encoder_freeze": True, "optimizer": "rmsprop"},
    ],
)
def test_several_parts_learn_under_every_switch(switches: dict[str, Any]) -> None:
    made, before = several(**switches), state(several(**switches).online)
    for seed in range(2):
        metrics, error = made.update(parts(seed))
        assert error.shape == (8,) and torch.isfinite(error).all()
        assert torch.isfinite(metrics["loss"])
    moved = changed(before, made.online)
    assert "encoder.vectors.layers.0.weight" in moved and len(made.act(parts().observation)) == 8


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_stand_for_the_images_that_they_are_of(precision: str) -> None:
    """In float16, whose 11 bits cost less than the networks' own rounding."""
    for made, seen in ((agent, batch().observation), (several, parts().observation)):
        frozen = made(encoder_freeze=True, encoder_cache=True, precision=precision)  # type: ignore[operator]
        features = {name: value.half() for name, value in frozen.encode(seen).items()}
        instead = seen | features if isinstance(seen, dict) else features[""]
        values = frozen.values(seen)
        assert torch.allclose(frozen.values(instead), values, atol=1e-2 * float(values.std()))


def test_cameras_that_share_an_encoder(tmp_path: Path) -> None:
    shapes = {"left": (4, 48, 48), "pose": (3,), "right": (4, 48, 48)}
    options = {"encoder_share": True, "encoder_weights": str(weights(tmp_path))}
    made = DQN(replace(BASE, **options), shapes, 3, seed=1)  # type: ignore[arg-type]
    assert made.report.count("matched") == 1
    images = batch().observation
    seen = {"left": images, "right": images.flip(2), "pose": torch.randn(8, 3)}  # type: ignore[union-attr]
    maps = [look(made, seen, np.zeros(8, int), camera)[0] for camera in ("left", "right")]
    assert maps[0].shape == (8, 48, 48) and not np.allclose(*maps)
    with pytest.raises(ValueError, match="encoder_share is on, and observations have one part"):
        agent(encoder_share=True)
    # features that a cache holds, float16, in the place of both
    cached = {"encoder_freeze": True, "encoder_cache": True, "precision": "bf16"}
    made = DQN(replace(BASE, encoder_share=True, **cached), shapes, 3, seed=1)  # type: ignore[arg-type]
    values = made.values(seen)
    features = {name: value.half() for name, value in made.encode(seen).items()}
    again = made.values(seen | features)
    assert torch.allclose(again, values, atol=1e-2 * float(values.std()))


def test_a_cache_asks_for_a_frozen_encoder() -> None:
    with pytest.raises(ValueError, match="encoder_cache is on, and encoder_freeze is off"):
        agent(encoder_cache=True)


def test_a_files_digest_is_an_option(tmp_path: Path) -> None:
    path = weights(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert agent(encoder_weights=str(path), encoder_weights_sha256=digest[:8]).report
    with pytest.raises(ValueError, match=r"has the sha256 \w+, not 00000000$"):
        agent(encoder_weights=str(path), encoder_weights_sha256="0" * 8)
    with pytest.raises(ValueError, match="names no file"):
        agent(encoder_weights_sha256=digest)


def test_a_run_goes_on_without_the_file(tmp_path: Path) -> None:
    """Resuming and loading read the checkpoint; the weights' file may be gone by then."""
    path = weights(tmp_path)
    session = create(
        "dqn",
        "default",
        {
            "env": "tests.support:TaggedEnv", "steps": 60, "num_envs": 2, "learning_starts": 20,
            "replay_capacity": 200, "eval_episodes": 1, "out": str(tmp_path / "runs"),
            "encoder": "resnet18", "encoder_width": 0.125, "hidden": 16, "frame_stack": 3,
            "encoder_weights": str(path), "encoder_freeze": True, "precision": "fp32",
        },
    )  # fmt: skip
    assert any("matched" in note for note in session.notes)
    session.run(console=False)
    frozen = state(session.agent.online.encoder)  # type: ignore[attr-defined]
    session.close()
    path.unlink()
    again = resume(session.run_dir, steps=80)
    again.run(console=False)
    again.close()
    assert changed(frozen, again.agent.online.encoder) == set()  # type: ignore[attr-defined]
    player = load(session.run_dir)
    assert player.agent.online.encoder.normalize is True  # type: ignore[attr-defined]
    observation, _ = TaggedEnv().reset(seed=0)
    assert 0 <= player.act(np.asarray(observation)) < 3
