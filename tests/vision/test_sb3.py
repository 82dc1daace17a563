"""Encoders under stable-baselines3: its algorithms learn through them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

sb3 = pytest.importorskip("stable_baselines3")

from tests.support import BothEnv  # noqa: E402
from vision.sb3 import EncoderExtractor  # noqa: E402


class Side(gymnasium.Env[np.ndarray, int]):
    """One picture an episode, bright on one side; right is the action of that side."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        picture = self.np_random.integers(0, 120, (36, 36, 1)).astype(np.uint8)
        picture[:, 18 * self.side : 18 * self.side + 18] += 100
        return picture, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(int(action) == self.side)
        return np.zeros((36, 36, 1), np.uint8), reward, True, False, {}


def score(model: Any) -> float:
    env, right = Side(), 0.0
    for seed in range(100):
        picture, _ = env.reset(seed=seed)
        action, _ = model.predict(picture, deterministic=True)
        right += env.step(int(action))[1]
    return right / 100


@pytest.mark.parametrize("algorithm", ["DQN", "PPO"])
def test_learning_through_an_encoder(algorithm: str) -> None:
    extractor = {"name": "resnet18", "width": 0.0625, "norm": "group", "head": "pool"}
    policy = {"features_extractor_class": EncoderExtractor, "features_extractor_kwargs": extractor}
    shared: dict[str, Any] = {"policy_kwargs": policy, "seed": 1, "device": "cpu"}
    if algorithm == "DQN":
        model = sb3.DQN(
            "CnnPolicy", Side(), learning_starts=100, learning_rate=1e-3, gamma=0.0,
            buffer_size=1_000, exploration_fraction=0.3, batch_size=16, **shared,
        )  # fmt: skip
        steps = 1_200
    else:
        model = sb3.PPO(
            "CnnPolicy", Side(), n_steps=128, n_epochs=4, learning_rate=1e-3, gamma=0.0, **shared
        )
        steps = 1_024
    model.learn(steps)
    assert score(model) > 0.9


def test_weights_and_freezing(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    import vision

    net = vision.resnet18(10, in_channels=1, width=0.0625)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    made = EncoderExtractor(
        space, "resnet18", width=0.0625, weights=str(tmp_path / "net.safetensors"), frozen=True
    )
    assert torch.equal(made.encoder.backbone.conv1.weight, net.conv1.weight)  # type: ignore[union-attr]
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert made(torch.rand(2, 1, 36, 36)).shape == (2, made.features_dim)


def test_pretrained_weights_see_pixels_as_in_training(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    import vision

    net = vision.resnet18(10, width=0.0625)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    x = torch.rand(2, 3, 36, 36)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (x - mean[:, None, None]) / std[:, None, None]
    pretrained = {"width": 0.0625, "weights": str(tmp_path / "net.safetensors")}
    for options, expected in ((pretrained, normal), (pretrained | {"normalize": "none"}, x)):
        made = EncoderExtractor(image, "resnet18", **options)
        torch.testing.assert_close(made.encoder.prepare(x), expected)
        joint = EncoderExtractor(spaces.Dict({"a": image}), "resnet18", **options)
        torch.testing.assert_close(joint.encoder.images["a"].prepare(x), expected)
    drawn = EncoderExtractor(image, "resnet18", width=0.0625)
    assert torch.equal(drawn.encoder.prepare(x), x)


def test_actor_critic_policies_leave_pretrained_weights_alone(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    import vision

    net = vision.resnet18(10, in_channels=1, width=0.0625)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    options = {"name": "resnet18", "width": 0.0625}

    def drawn(**more: Any) -> torch.Tensor:
        policy = {"features_extractor_class": EncoderExtractor,
                  "features_extractor_kwargs": {**options, **more}}  # fmt: skip
        made = sb3.PPO("CnnPolicy", Side(), policy_kwargs=policy, n_steps=8, batch_size=8, seed=0)
        return made.policy.features_extractor.encoder.backbone.conv1.weight

    kept = net.conv1.weight
    assert torch.equal(drawn(weights=str(tmp_path / "net.safetensors")), kept)
    assert torch.equal(drawn(weights=str(tmp_path / "net.safetensors"), frozen=True), kept)
    flat = drawn().flatten(1)  # orthogonal, as SB3 draws what is new
    assert torch.allclose(flat @ flat.T, 2 * torch.eye(len(flat)), atol=1e-4)


def test_learning_from_a_dict() -> None:
    """Picture and sign: neither tells alone what is right."""
    env = BothEnv()
    policy = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": {"name": "nature", "width": 0.25},
    }
    model = sb3.PPO(
        "MultiInputPolicy", env, n_steps=256, n_epochs=6, learning_rate=1e-3, gamma=0.0,
        policy_kwargs=policy, seed=1, device="cpu",
    )  # fmt: skip
    model.learn(2_560)
    right = 0.0
    for seed in range(100):
        seen, _ = env.reset(seed=seed)
        right += env.step(model.predict(seen, deterministic=True)[0])[1]
    assert right / 100 > 0.9


def test_parts_of_a_dict() -> None:
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (1, 36, 36), np.uint8),
            "goal": spaces.Discrete(4),
            "pose": spaces.Box(-1, 1, (2, 3)),
        }
    )
    made = EncoderExtractor(space, "nature", width=0.1, frozen=True)
    shapes = {"camera": (1, 36, 36), "goal": (4,), "pose": (2, 3)}
    out = made({name: torch.rand(5, *shape) for name, shape in shapes.items()})
    assert out.shape == (5, made.features_dim)
    learns = {name.split(".")[1] for name, p in made.named_parameters() if p.requires_grad}
    assert learns == {"vectors"}


def test_refusals() -> None:
    with pytest.raises(ValueError, match="nature takes images, and none of a is one"):
        EncoderExtractor(spaces.Dict({"a": spaces.Discrete(2)}), "nature")
    with pytest.raises(ValueError, match="takes a Box of images or vectors, or a Dict"):
        EncoderExtractor(spaces.Discrete(2), "nature")
    with pytest.raises(ValueError, match="did you mean 'nature'"):
        EncoderExtractor(spaces.Box(0, 255, (1, 84, 84), np.uint8), "natur")
    with pytest.raises(
        ValueError, match=r"\(84, 84, 3\), which reads as channels last; SB3 transposes"
    ):
        EncoderExtractor(spaces.Box(0, 1, (84, 84, 3), np.float32), "nature")
