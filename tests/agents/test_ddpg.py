"""DDPG's losses, noise, networks and updates against plain references."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.checkpoint import load_tree, save_tree
from agents.ddpg import DDPG, ActorCritic, critic_loss, smooth, td_target
from agents.exploration import Held, Noise
from agents.graph import Learner
from agents.heads import Layers
from agents.polyak import Polyak
from configs.ddpg import DDPGConfig
from replay import Batch, Field, PrioritizedReplay
from tests.replay.backends import NoSync
from vision import freeze
from vision.augment import random_shift

TINY = DDPGConfig(
    hidden=16, hidden_second=12, batch_size=8, random_steps=0, target_noise=0.0, policy_every=1,
    twin=False, tau=0.1, actor_learning_rate=1e-2, critic_learning_rate=1e-2,
)  # fmt: skip
PIXELS: dict[str, Any] = {"encoder": "ddpg2015", "encoder_width": 0.2}
SWITCHES: list[dict[str, Any]] = [
    {},
    {"twin": True, "policy_every": 2},
    {"layer_norm": True, "critic_l2": 0.1},
    {"batch_norm": True, "action_layer": 2, "final_init": 3e-3},
    {"trunk": 5, "init": "orthogonal", "final_init": 0.0},
    {**PIXELS, "trunk": 5, "twin": True},
    {**PIXELS, "shared_encoder": False},
]


def shape_of(switches: dict[str, Any]) -> tuple[int, ...]:
    return (3, 20, 20) if "encoder" in switches else (5,)


def agent(switches: dict[str, Any], **options: Any) -> DDPG:
    return DDPG(replace(TINY, **switches), shape_of(switches), 2, seed=1, **options)


def batch(shape: tuple[int, ...], seed: int = 0, size: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def observation() -> Tensor:
        if len(shape) == 3:
            return torch.randint(0, 256, (size, *shape), generator=draw, dtype=torch.uint8)
        return torch.randn((size, *shape), generator=draw)

    return Batch(
        observation=observation(),
        action=torch.rand((size, 2), generator=draw) * 2 - 1,
        reward=torch.randn(size, generator=draw),
        discount=0.99 * (torch.rand(size, generator=draw) < 0.8).float(),
        next_observation=observation(),
        weight=torch.rand(size, generator=draw),
        index=torch.arange(size),
    )


def numbers(module: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def test_target_is_reward_and_the_least_critic() -> None:
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    next_q = torch.tensor([[4.0, 7.0], [6.0, 5.0]])
    assert td_target(reward, discount, next_q).tolist() == [3.0, 2.0]
    assert td_target(reward, discount, next_q[1:]).tolist() == [4.0, 2.0]


def test_loss_sums_the_critics_squares() -> None:
    assert critic_loss(torch.tensor([[1.0, -2.0], [3.0, 0.5]])).tolist() == [10.0, 4.25]


def test_smoothing_clips_noise_then_action() -> None:
    action = torch.tensor([[0.9, 0.0, -0.8]])
    noise = torch.tensor([[2.0, -0.3, -0.4]])
    expected = torch.tensor([[1.0, -0.3, -1.0]])
    torch.testing.assert_close(smooth(action, noise, 0.5), expected)


def test_random_shift_is_padding_by_repetition_and_a_crop() -> None:
    images = torch.randint(0, 256, (400, 2, 6, 7), dtype=torch.uint8)
    moved = random_shift(images, 2, torch.Generator().manual_seed(0)).numpy()
    seen = set()
    for image, found in zip(images.numpy(), moved, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
        crops = {
            (row, column): padded[:, row : row + 6, column : column + 7]
            for row in range(5)
            for column in range(5)
        }
        hits = [at for at, crop in crops.items() if np.array_equal(crop, found)]
        assert len(hits) == 1
        seen.add(hits[0])
    assert len(seen) == 25


@pytest.mark.parametrize("pixels", [1, 4, 30])
def test_bytes_move_as_other_numbers_do(pixels: int) -> None:
    images = torch.randint(0, 256, (50, 3, 9, 20), dtype=torch.uint8)
    moved = [
        random_shift(x, pixels, torch.Generator().manual_seed(0)) for x in (images, images.int())
    ]
    assert torch.equal(*moved)


def test_polyak_moves_parameters_and_statistics_and_copies_counts() -> None:
    online = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    target = copy.deepcopy(online)
    online(torch.randn(9, 3))
    with torch.no_grad():
        online[0].weight.add_(1.0)
    before = copy.deepcopy(target)
    Polyak(target, online)(0.25)
    for name, value in target.state_dict().items():
        here, there = online.state_dict()[name], before.state_dict()[name]
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * there + 0.25 * here)
        else:
            assert torch.equal(value, here) and int(value) == 1


def test_gaussian_noise_has_its_deviation() -> None:
    drawn = Noise("gaussian", 0.15)((20_000, 2), 0.3, np.random.default_rng(0))
    assert drawn.std() == pytest.approx(0.3, rel=0.02) and abs(drawn.mean()) < 0.01


def test_ornstein_uhlenbeck_is_its_recursion() -> None:
    noise, draw, twin = Noise("ou", 0.15), np.random.default_rng(3), np.random.default_rng(3)
    state = np.zeros((2, 3))
    for _ in range(5):
        state = state - 0.15 * state + 0.2 * twin.standard_normal((2, 3))
        np.testing.assert_allclose(noise((2, 3), 0.2, draw), state)
    path = np.array([noise((2, 3), 0.2, draw) for _ in range(20_000)])
    assert path.std() == pytest.approx(0.2 / (1 - 0.85**2) ** 0.5, rel=0.05)
    after = (path[1:] * path[:-1]).mean() / path.var()
    assert after == pytest.approx(0.85, abs=0.02)


def test_pink_noise_has_as_much_power_in_every_octave() -> None:
    noise, draw = Noise("pink", 0.15), np.random.default_rng(3)
    path = np.array([noise((40, 2), 0.3, draw) for _ in range(4096)]).reshape(4096, -1)
    assert path.std() == pytest.approx(0.3, rel=0.05)
    power = (np.abs(np.fft.rfft(path, axis=0)) ** 2).mean(1)
    octaves = [power[2**k : 2 ** (k + 1)].sum() for k in range(4, 10)]  # 8 to 256 steps long
    assert max(octaves) < 1.3 * min(octaves)
    assert Noise("gaussian", 0.15)((3, 2), 0.3, draw).shape == noise((3, 2), 0.3, draw).shape


def test_held_actions_fill_each_octave_of_lengths_alike() -> None:
    held, draw = Held(64), np.random.default_rng(3)
    path = np.array([held((30, 2), 1.0, draw)[0].copy() for _ in range(4_000)])
    assert path.std() == pytest.approx(1 / 3**0.5, rel=0.05) and abs(path).max() <= 1
    changes = (path[1:] != path[:-1]).all(2)
    assert np.array_equal(changes, (path[1:] != path[:-1]).any(2))
    lengths = np.concatenate([np.diff(np.flatnonzero(lane)) for lane in changes.T])
    assert lengths.max() == 64
    steps = [lengths[(lengths >= n) & (lengths < 2 * n)].sum() for n in (2, 4, 8, 16, 32)]
    assert max(steps) < 1.5 * min(steps)


def test_held_actions_begin_by_chance_in_lanes_of_their_own() -> None:
    held, draw = Held(1), np.random.default_rng(3)
    takes = np.array([held((4, 1), 0.1, draw)[1] for _ in range(5_000)])
    assert takes.shape == (5_000, 4, 1)
    np.testing.assert_allclose(takes.mean((0, 2)), 0.1, atol=0.02)
    assert abs(np.corrcoef(takes[:, :, 0].T) - np.eye(4)).max() < 0.05


def test_the_actors_tanh_stays_where_it_slopes() -> None:
    """A critic that always wants more pushes an actor without the penalty far out."""
    before = {}
    for penalty in (0.0, 0.1):
        made = agent({"preactivation_l2": penalty, "actor_learning_rate": 0.02})
        steep = made.online.critics[0]
        steep.forward = lambda feature, action: action.sum(1, keepdim=True)  # type: ignore[method-assign]
        observation = torch.randn(64, 5)
        for _ in range(300):
            made._update_actor(observation, made.online.see(observation))
        before[penalty] = made.online.preactivation(observation).detach()
    assert before[0.0].min() > 3
    torch.testing.assert_close(1 - before[0.1].tanh() ** 2, 0.2 * before[0.1], atol=0.03, rtol=0)


def test_a_share_of_random_actions_is_kept_up_between_the_policys_own() -> None:
    made = agent({"random_share": 0.2, "random_hold": 20, "noise_final": 0.0})
    made.anneal(10, 100)
    observation = torch.randn(2, 5)
    own = made.act(observation, explore=False)
    seen = np.array([made.act(observation) for _ in range(600)])
    random = (seen != own).all(2)
    again = random[1:] & (seen[1:] == seen[:-1]).all(2)
    assert 0.2 < random.mean() < 0.6 and 0.3 < again.sum() / random.sum() < 0.9
    assert np.array_equal(made.act(observation, explore=False), own)


def reference(made: DDPG, batches: list[Batch]) -> tuple[nn.Module, nn.Module]:
    """The papers' algorithm written out: no freezing, no shared passes, one loss after another."""
    config = made.config
    online: ActorCritic = copy.deepcopy(made.online)
    target: ActorCritic = copy.deepcopy(online)
    own = online.eye is not None
    critic_side = [*online.encoder.parameters(), *online.critics.parameters()]
    actor_side = [*online.actor.parameters(), *(online.eye.parameters() if own else [])]  # type: ignore[union-attr]
    learn_critic = torch.optim.Adam(
        critic_side, config.critic_learning_rate, weight_decay=config.critic_l2, foreach=False
    )
    learn_actor = torch.optim.Adam(actor_side, config.actor_learning_rate, foreach=False)
    for turn, b in enumerate(batches):
        with torch.no_grad():
            next_action = torch.tanh(
                target.actor((target.eye if own else target.encoder)(b.next_observation))
            )
            following = target.encoder(b.next_observation)
            values = [critic(following, next_action)[:, 0] for critic in target.critics]
            y = b.reward + b.discount * torch.stack(values).min(0).values
        online.critics.train()
        feature = online.encoder(b.observation)
        loss = sum(
            (b.weight * (critic(feature, b.action)[:, 0] - y) ** 2).mean()
            for critic in online.critics
        )
        online.critics.eval()
        learn_critic.zero_grad()
        loss.backward()
        learn_critic.step()
        if turn % config.policy_every != config.policy_every - 1:
            continue
        before = feature.detach()  # of the encoder before its step
        online.actor.train()
        seen = online.eye(b.observation) if own else before  # type: ignore[misc]
        action = torch.tanh(online.actor(seen))
        online.actor.eval()
        loss = -online.critics[0](before, action).mean()
        learn_actor.zero_grad()
        loss.backward()
        learn_actor.step()
        for there, here in zip(
            target.state_dict().values(), online.state_dict().values(), strict=True
        ):
            if there.is_floating_point():
                there.copy_((1 - config.tau) * there + config.tau * here)
            else:
                there.copy_(here)
    return online, target


@pytest.mark.parametrize("switches", SWITCHES)
def test_updates_are_the_papers(switches: dict[str, Any]) -> None:
    made = agent(switches)
    batches = [batch(shape_of(switches), seed) for seed in range(4)]
    online, target = reference(made, batches)
    start = numbers(made.online)
    for b in batches:
        made.update(b)
    assert not torch.allclose(start, numbers(made.online), atol=1e-3)
    torch.testing.assert_close(numbers(made.online), numbers(online), rtol=2e-3, atol=5e-4)
    torch.testing.assert_close(numbers(made.target), numbers(target), rtol=2e-3, atol=5e-4)


def test_errors_are_the_critics_mean_distance() -> None:
    made = agent({"twin": True})
    b = batch((5,))
    with torch.no_grad():
        feature = b.observation
        next_action = made.target.policy(b.next_observation)
        y = td_target(b.reward, b.discount, made.target.q(b.next_observation, next_action))
        expected = (made.online.q(feature, b.action) - y).abs().mean(0)
    _, error = made.update(b)
    torch.testing.assert_close(error, expected)


def test_actor_and_targets_wait_for_their_turn() -> None:
    made = agent({"policy_every": 3})
    for turn in range(6):
        actor, target = numbers(made.online.actor), numbers(made.target)
        critic = numbers(made.online.critics)
        made.update(batch((5,), turn))
        assert not torch.equal(critic, numbers(made.online.critics))
        due = turn % 3 == 2
        assert torch.equal(actor, numbers(made.online.actor)) != due
        assert torch.equal(target, numbers(made.target)) != due


def test_the_critic_alone_teaches_a_shared_encoder() -> None:
    made = agent({**PIXELS, "critic_learning_rate": 1e-12, "tau": 1.0})
    before = numbers(made.online.encoder), numbers(made.online.actor)
    made.update(batch((3, 20, 20)))
    torch.testing.assert_close(numbers(made.online.encoder), before[0], atol=1e-9, rtol=0)
    assert not torch.allclose(numbers(made.online.actor), before[1], atol=1e-4)
    own = agent({**PIXELS, "shared_encoder": False, "critic_learning_rate": 1e-12})
    assert own.online.eye is not None
    eye = numbers(own.online.eye)
    own.update(batch((3, 20, 20)))
    assert not torch.allclose(numbers(own.online.eye), eye, atol=1e-4)


def test_a_frozen_encoder_stays_and_critics_learn() -> None:
    made = agent({**PIXELS, "encoder_freeze": True})
    eye, critics = numbers(made.online.encoder), numbers(made.online.critics)
    for turn in range(2):
        made.update(batch((3, 20, 20), turn))
    assert torch.equal(numbers(made.online.encoder), eye)
    assert not torch.equal(numbers(made.online.critics), critics)


def test_an_encoder_that_is_frozen_later_stays() -> None:
    made = agent({**PIXELS, "trunk": 5})
    made.update(batch((3, 20, 20)))
    freeze(made.online.encoder)
    before = numbers(made.online.encoder)
    for seed in range(3):
        made.update(batch((3, 20, 20), seed))
    assert torch.equal(numbers(made.online.encoder), before)


def test_smoothing_noise_moves_the_target() -> None:
    b = batch((5,))
    plain, noisy = agent({}), agent({"target_noise": 0.5})
    for made in (plain, noisy):
        with torch.no_grad():
            made.target.critics[0].last.weight.mul_(100)
    assert not torch.allclose(plain.update(b)[1], noisy.update(b)[1], atol=1e-3)


def test_batch_norm_is_where_the_paper_has_it() -> None:
    config = replace(TINY, batch_norm=True, action_layer=2)

    def kinds(layers: Layers) -> list[bool]:
        return [isinstance(m, nn.BatchNorm1d) for m in (layers.scale, *layers.norms)]

    assert kinds(Layers(config, 5, 2)) == [True, True, True]
    assert kinds(Layers(config, 5, 1, action=2)) == [True, True, False]
    first = replace(config, action_layer=1)
    assert kinds(Layers(first, 5, 1, action=2)) == [True, False, False]


def test_layers_are_as_wide_as_told() -> None:
    late = Layers(replace(TINY, action_layer=2), 5, 1, action=2)
    assert (late.first.in_features, late.second.in_features) == (5, 18)
    early = Layers(TINY, 5, 1, action=2)
    assert (early.first.in_features, early.second.in_features) == (7, 16)
    assert early.second.out_features == 12
    assert early.last.weight.abs().max() <= 3e-3 and early.last.bias.abs().max() <= 3e-3


def test_bf16_tells_states_apart_and_stays_near_fp32() -> None:
    wide = {"hidden": 64, "hidden_second": 48, "layer_norm": True, "final_init": 0.0}
    exact, rounded = agent(wide), agent({**wide, "precision": "bf16"})
    state = torch.randn(64, 5)
    a, b = exact.online(state), rounded.online(state)
    torch.testing.assert_close(a, b, atol=0.02, rtol=0.05)
    # below the resolution of bfloat16 at 1
    near = torch.ones(1, 5), torch.ones(1, 5) + 1e-3
    assert not torch.equal(*(rounded.online.see(x) for x in near))
    b1, error = batch((5,)), []
    for made in (exact, rounded):
        error.append(made.update(b1)[1])
    torch.testing.assert_close(*error, atol=0.05, rtol=0.05)
    assert all(p.dtype == torch.float32 for p in rounded.online.parameters())


def test_actions_lie_in_the_unit_box_and_are_random_at_first() -> None:
    made = agent({"random_steps": 100, "noise_start": 2.0, "noise_final": 2.0})
    observation = torch.randn(500, 5)
    made.anneal(0, 1000)
    first = made.act(observation)
    assert first.dtype == np.float32 and first.shape == (500, 2)
    assert abs(first.mean()) < 0.1 and first.std() == pytest.approx(1 / 3**0.5, rel=0.05)
    made.anneal(100, 1000)
    noisy = made.act(observation)
    assert (np.abs(noisy) <= 1).all() and (np.abs(noisy) == 1).mean() > 0.4
    greedy = made.act(observation, explore=False)
    np.testing.assert_allclose(greedy, made.online(observation).detach().numpy(), atol=1e-6)


def test_an_evaluation_leaves_trainings_numbers_alone() -> None:
    one, other = agent({"noise": "ou"}), agent({"noise": "ou"})
    observation = torch.randn(3, 5)
    one.act(observation, explore=False, epsilon=0.5, explorer=np.random.default_rng(0))
    for made in (one, other):
        made.anneal(10, 100)
    np.testing.assert_array_equal(one.act(observation), other.act(observation))


def test_the_noise_falls_as_told() -> None:
    made = agent({"noise_start": 1.0, "noise_final": 0.2, "noise_steps": 100})
    told = [made.anneal(step, 1000)["noise"] for step in (0, 50, 100, 900)]
    assert told == pytest.approx([1.0, 0.6, 0.2, 0.2])
    at_once = agent({"noise_start": 1.0, "noise_final": 0.2}).anneal(0, 9)
    assert at_once["noise"] == pytest.approx(0.2)


def test_random_shift_refuses_vectors() -> None:
    with pytest.raises(ValueError, match=r"random_shift is 4; .*\(5,\): show pictures by --pixels"):
        agent({"random_shift": 4})


@pytest.mark.parametrize(
    "switches",
    [
        *SWITCHES,
        {"noise": "ou", "target_noise": 0.2},
        {"noise": "pink"},
        {"random_steps": 50, "random_hold": 30},
        {"random_share": 0.3, "random_hold": 30},
    ],
)
def test_a_saved_agent_goes_on_bit_for_bit(switches: dict[str, Any], tmp_path: Path) -> None:
    one, shape = agent(switches), shape_of(switches)
    one.anneal(5, 10)
    for turn in range(3):
        one.update(batch(shape, turn))
        one.act(batch(shape).observation)
    other = DDPG(replace(TINY, **switches), shape, 2, seed=9)
    save_tree(tmp_path / "agent", one.state_dict())  # a file forgets how tensors lay in memory
    other.load_state_dict(load_tree(tmp_path / "agent"))
    for made in (one, other):
        made.anneal(6, 10)
    for turn in range(3):
        metrics = [made.update(batch(shape, 10 + turn))[0] for made in (one, other)]
        assert metrics[0] == metrics[1]
        actions = [made.act(batch(shape).observation) for made in (one, other)]
        np.testing.assert_array_equal(*actions)
    assert torch.equal(numbers(one.online), numbers(other.online))
    assert torch.equal(numbers(one.target), numbers(other.target))


def filled(shape: tuple[int, ...], **where: str) -> PrioritizedReplay:
    dtype = "uint8" if len(shape) == 3 else "float32"
    replay = PrioritizedReplay(
        200, Field(shape, dtype), Field((2,), "float32"), lanes=4, n_step=2, **where
    )
    draw = np.random.default_rng(0)

    def frame() -> np.ndarray:
        return draw.integers(0, 256, (4, *shape)).astype(dtype)

    replay.reset(frame())
    for _ in range(20):
        flags = draw.random((2, 4)) < 0.05
        action = draw.uniform(-1, 1, (4, 2)).astype(np.float32)
        replay.add(frame(), action, draw.normal(size=4), *flags)
    return replay


STEPS = [{"policy_every": 2, "twin": True}, {**PIXELS, "random_shift": 2, "target_noise": 0.2}]


@pytest.mark.parametrize("switches", STEPS)
def test_a_step_is_its_parts(switches: dict[str, Any]) -> None:
    one, other = agent(switches), agent(switches)
    ours, theirs = filled(shape_of(switches)), filled(shape_of(switches))
    step = Learner(one, ours, 8)
    for _ in range(5):
        metrics = step()
        drawn = theirs.sample(8, other.beta)
        expected, error = other.update(drawn)
        theirs.update(drawn.index, error)
        assert {k: float(v) for k, v in metrics.items()} == {
            k: float(v) for k, v in expected.items()
        }
    assert torch.equal(numbers(one.online), numbers(other.online))
    assert np.array_equal(ours.store.priorities(), theirs.store.priorities())


@pytest.mark.parametrize("switches", STEPS)
def test_nothing_in_a_step_waits(switches: dict[str, Any]) -> None:
    made = agent(switches)
    step = Learner(made, filled(shape_of(switches), backend="torch"), 8)
    for _ in range(2):  # both courses: the optimisers' states are made
        step()
    with NoSync():
        for _ in range(4):
            step()
    assert made.updates == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("switches", STEPS)
def test_graphs_equal_eager(switches: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    one, other = agent(switches, device="cuda"), agent(switches, device="cuda")
    ours = filled(shape_of(switches), device="cuda")
    theirs = filled(shape_of(switches), device="cuda")
    graph, eager = Learner(one, ours, 8), Learner(other, theirs, 8, graph=False)
    for turn in range(16):
        if turn == 12:
            torch.cuda.set_sync_debug_mode("error")
        try:
            a, b = graph(), eager()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(numbers(one.online), numbers(other.online))
