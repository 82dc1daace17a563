"""DQN: losses by hand and against slow twins, the network's shapes, what an update touches."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.checkpoint import load_tree, save_tree
from agents.dqn import DQN, QNetwork, categorical_loss, project, td_loss, td_target
from agents.noisy import NoisyLinear, resample, silence
from agents.rmsprop import CentredRMSprop
from configs.dqn import DQNConfig
from replay import Batch
from vision import register
from vision.encoder import Encoder

SMALL = DQNConfig(
    encoder="mlp", encoder_width=0.1, hidden=16, precision="fp32", distributional=False
)


@register("test-batchnorm")
class BatchNormEncoder(Encoder):
    """One convolution with BatchNorm, to see when its statistics move."""

    def __init__(self, observation_shape: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__(observation_shape, width)
        self.conv = nn.Conv2d(observation_shape[0], 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.channels, self.strides = (4,), (1,)
        self.feature_dim = 4 * (observation_shape[1] - 2) * (observation_shape[2] - 2)

    def feature_maps(self, observation: Tensor) -> list[Tensor]:
        return [torch.relu(self.norm(self.conv(self.prepare(observation))))]


def batch(size: int = 8, shape: tuple[int, ...] = (5,), actions: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(size)
    if len(shape) == 3:
        frames = torch.randint(0, 256, (2, size, *shape), generator=generator).to(torch.uint8)
    else:
        frames = torch.randn((2, size, *shape), generator=generator)
    return Batch(
        observation=frames[0],
        action=torch.randint(0, actions, (size,), generator=generator),
        reward=torch.randn(size, generator=generator),
        discount=torch.full((size,), 0.9),
        next_observation=frames[1],
        weight=torch.rand(size, generator=generator) + 0.1,
        index=torch.arange(size),
    )


# ---------------------------------------------------------------------------------------- losses


def test_td_target_by_hand() -> None:
    next_q = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    online = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    reward, discount = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.0])
    assert td_target(reward, discount, next_q, next_q).tolist() == [3.5, -1.0]
    assert td_target(reward, discount, next_q, online).tolist() == [1.5, -1.0]


def test_losses_by_hand() -> None:
    error = torch.tensor([0.5, -3.0])
    assert td_loss(error, "mse").tolist() == [0.125, 4.5]
    assert td_loss(error, "huber").tolist() == [0.125, 2.5]


def slow_project(probability: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """Bellemare et al. 2017, algorithm 1, one atom after the other."""
    low, high, count = float(support[0]), float(support[-1]), len(support)
    step = (high - low) / (count - 1)
    out = torch.zeros_like(probability)
    for i in range(len(reward)):
        for j in range(count):
            moved = min(high, max(low, float(reward[i] + discount[i] * support[j])))
            place = (moved - low) / step
            below = min(int(place), count - 2)
            out[i, below] += probability[i, j] * (below + 1 - place)
            out[i, below + 1] += probability[i, j] * (place - below)
    return out


def test_projection_against_the_papers_algorithm() -> None:
    generator = torch.Generator().manual_seed(3)
    support = torch.linspace(-2, 3, 11)
    probability = torch.randn(20, 11, generator=generator).softmax(1)
    reward = torch.randn(20, generator=generator) * 2
    discount = torch.tensor([0.97, 0.0] * 10)
    got = project(probability, reward, discount, support)
    torch.testing.assert_close(
        got, slow_project(probability, reward, discount, support), atol=2e-6, rtol=1e-5
    )
    torch.testing.assert_close(got.sum(1), torch.ones(20))


def test_projection_keeps_the_mean_inside_the_support() -> None:
    support = torch.linspace(-10, 10, 51)
    probability = torch.zeros(1, 51)
    probability[0, 30] = 1.0  # a return of 2
    got = project(probability, torch.tensor([1.1]), torch.tensor([0.5]), support)
    assert (got * support).sum().item() == pytest.approx(2.1, abs=1e-5)


# --------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("distributional", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_network_shapes(dueling: bool, distributional: bool, noisy: bool) -> None:
    config = replace(SMALL, dueling=dueling, distributional=distributional, noisy=noisy)
    network = QNetwork(config, (5,), 3)
    out = network(torch.randn(7, 5))
    assert out.shape == ((7, 3, 51) if distributional else (7, 3))
    assert network.q(out).shape == (7, 3)


def test_dueling_subtracts_the_mean_advantage() -> None:
    network = QNetwork(replace(SMALL, dueling=True), (5,), 3)
    x = torch.randn(4, 5)
    hidden = torch.relu(network.first(network.encoder(x)))
    assert network.value is not None
    value = network.value(hidden[:, 16:]).squeeze(1)
    torch.testing.assert_close(network(x).mean(1), value)


def test_noise_is_factorised_and_can_be_silent() -> None:
    layer = NoisyLinear(64, 8)
    x = torch.randn(3, 64)
    resample(layer, torch.Generator().manual_seed(0))
    noise = torch.outer(layer.noise_out, layer.noise_in)
    weight = layer.weight + layer.weight_sigma * noise
    bias = layer.bias + layer.bias_sigma * layer.noise_out
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, bias))
    silence(layer)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert layer.weight_sigma.mean().item() == pytest.approx(0.5 / 64**0.5)


def test_rmsprop_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = CentredRMSprop([parameter], lr=0.1, decay=0.5, eps=0.01)
    mean = square = 0.0
    expected = 1.0
    for gradient in (2.0, -1.0):
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
        mean = 0.5 * mean + 0.5 * gradient
        square = 0.5 * square + 0.5 * gradient**2
        expected -= 0.1 * gradient / (square - mean**2 + 0.01) ** 0.5
    assert parameter.item() == pytest.approx(expected, rel=1e-6)


# ----------------------------------------------------------------------------------------- agent


def test_error_is_target_minus_value_and_weight_scales_the_loss() -> None:
    agent = DQN(replace(SMALL, double=True, loss="huber"), (5,), 3)
    data = batch()
    with torch.no_grad():
        online, following = agent.online(data.observation), agent.online(data.next_observation)
        bootstrap = agent.target(data.next_observation)
    rows = torch.arange(8)
    best = following.argmax(1)
    expected = data.reward + data.discount * bootstrap[rows, best] - online[rows, data.action]
    metrics, error = agent.update(data)
    torch.testing.assert_close(error, expected)
    loss = (data.weight * nn.functional.huber_loss(expected, expected * 0, reduction="none")).mean()
    torch.testing.assert_close(metrics["loss"], loss)
    assert not error.requires_grad and not metrics["loss"].requires_grad


def test_categorical_loss_by_hand() -> None:
    """Logits of 1/2 and 1/2 against 1/4 and 3/4; the divergence of a distribution from itself."""
    target = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    loss, divergence = categorical_loss(torch.zeros(2, 2), target)
    assert loss.tolist() == pytest.approx([math.log(2), math.log(2)])
    gap = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert divergence.tolist() == pytest.approx([gap, 0.0], abs=1e-6)


def test_the_distributions_error_is_the_divergence() -> None:
    agent = DQN(replace(SMALL, distributional=True, double=False), (5,), 3)
    data = batch()
    rows = torch.arange(8)
    with torch.no_grad():
        chosen = agent.online(data.observation)[rows, data.action].log_softmax(1)
        following = agent.target(data.next_observation)
        best = following[rows, agent.target.q(following).argmax(1)].softmax(1)
    target = slow_project(best, data.reward, data.discount, agent.target.support)
    loss = -(target * chosen).sum(1)
    entropy = -torch.xlogy(target, target).sum(1)
    metrics, error = agent.update(data)
    torch.testing.assert_close(error, loss - entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(metrics["loss"], (data.weight * loss).mean(), atol=1e-4, rtol=1e-4)


def test_double_and_plain_targets_differ() -> None:
    data = batch(64)
    errors = []
    for double in (False, True):
        agent = DQN(replace(SMALL, double=double), (5,), 3, seed=1)
        other = DQN(replace(SMALL, double=double), (5,), 3, seed=2)
        agent.target.load_state_dict(other.online.state_dict())
        errors.append(agent.update(data)[1])
    assert (errors[1] <= errors[0] + 1e-6).all()
    assert not torch.equal(errors[0], errors[1])


def test_target_network_follows_only_at_its_period() -> None:
    agent = DQN(replace(SMALL, target_update_every=3), (5,), 3)
    for update in range(1, 7):
        agent.update(batch())
        same = torch.equal(agent.target.first.weight, agent.online.first.weight)
        assert same == (update % 3 == 0)


def test_batchnorm_in_reinforcement_learning() -> None:
    """Acting uses population statistics, only updates move them, targets copy them."""
    config = replace(SMALL, encoder="test-batchnorm", encoder_width=1.0, target_update_every=2)
    agent = DQN(config, (2, 8, 8), 3)
    norm = agent.online.encoder.norm
    data = batch(16, (2, 8, 8))
    together = agent.values(data.observation)
    alone = torch.cat([agent.values(row[None]) for row in data.observation])
    torch.testing.assert_close(together, alone)
    agent.act(data.observation)
    assert torch.equal(norm.running_mean, torch.zeros(4))
    agent.update(data)
    moved = norm.running_mean.clone()
    assert not torch.equal(moved, torch.zeros(4))
    assert norm.num_batches_tracked.item() == 1  # by the batch's observations, not their next
    assert torch.equal(agent.target.encoder.norm.running_mean, torch.zeros(4))
    agent.update(data)
    assert torch.equal(agent.target.encoder.norm.running_mean, norm.running_mean)


def test_exploration_share_and_range() -> None:
    agent = DQN(SMALL, (5,), 3, seed=5)
    observation = torch.zeros(4000, 5)
    greedy = agent.act(observation, explore=False)
    assert len(set(greedy.tolist())) == 1
    random = agent.act(observation, explore=False, epsilon=0.5)
    share = np.mean(random != greedy[0])
    assert 0.28 < share < 0.39  # half random, a third of which is the greedy action
    assert set(random.tolist()) == {0, 1, 2}


def test_schedules() -> None:
    agent = DQN(replace(SMALL, epsilon_steps=100, epsilon_final=0.1, priority_beta=0.4), (5,), 3)
    assert agent.anneal(0, 1000) == {"epsilon": 1.0, "beta": 0.4}
    middle = agent.anneal(50, 1000)
    assert middle["epsilon"] == pytest.approx(0.55) and middle["beta"] == pytest.approx(0.43)
    end = agent.anneal(1000, 1000)
    assert end["epsilon"] == pytest.approx(0.1) and end["beta"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("switches", "shape"),
    [
        ({}, (5,)),
        ({"noisy": True, "distributional": True}, (5,)),
        ({"encoder": "impala"}, (3, 24, 24)),
        ({"encoder": "resnet18", "encoder_width": 0.05}, (3, 40, 40)),
        ({"encoder": "resnet18", "encoder_width": 0.05, "optimizer": "rmsprop"}, (3, 40, 40)),
    ],
)
def test_a_saved_agent_goes_on_bit_for_bit(
    switches: dict[str, Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    config = replace(SMALL, **switches)
    first, second = DQN(config, shape, 3, seed=1), DQN(config, shape, 3, seed=2)
    for _ in range(3):
        first.update(batch(shape=shape))
        first.act(batch(shape=shape).observation)
    save_tree(tmp_path / "agent", first.state_dict())  # a file forgets how tensors lay in memory
    second.load_state_dict(load_tree(tmp_path / "agent"))
    for agent in (first, second):
        agent.update(batch(6, shape))
    seen = batch(shape=shape).observation
    actions = [a.act(seen, explore=False, epsilon=0.3).tolist() for a in (first, second)]
    assert actions[0] == actions[1]
    for a, b in zip(first.online.parameters(), second.online.parameters(), strict=True):
        assert torch.equal(a, b)


def test_tf32_is_for_gpus() -> None:
    with pytest.raises(ValueError, match="precision is tf32, which the cpu doesn't have"):
        DQN(replace(SMALL, precision="tf32"), (4,), 3)


def test_bf16_stays_close_to_fp32() -> None:
    shape = (4, 84, 84)
    exact = DQN(replace(SMALL, encoder="nature", precision="fp32"), shape, 3, seed=1)
    rounded = DQN(replace(SMALL, encoder="nature", precision="bf16"), shape, 3, seed=1)
    frames = batch(4, shape).observation
    reference = exact.values(frames)
    distance = (rounded.values(frames) - reference).norm() / reference.norm()
    assert 0 < distance < 2e-2


def test_learns_a_fixed_batch() -> None:
    """Supervised, in effect: with terminal transitions the values become the rewards."""
    agent = DQN(replace(SMALL, loss="mse", learning_rate=5e-3, noisy=False), (5,), 3)
    data = replace(batch(16), discount=torch.zeros(16), weight=torch.ones(16))
    for _ in range(400):
        _, error = agent.update(data)
    assert error.abs().max() < 0.05


def test_a_share_of_random_actions_is_one() -> None:
    agent = DQN(SMALL, (5,), 3)
    with pytest.raises(ValueError, match=r"epsilon is 2; it must lie in \[0, 1\]"):
        agent.act(torch.zeros(1, 5), explore=False, epsilon=2)


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"gamma is 1.5; it must lie in \[0, 1\]"):
        DQN(replace(SMALL, gamma=1.5), (5,), 3)
