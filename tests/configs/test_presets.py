"""Every preset loads, says what it is, and holds the figures of its paper."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from configs import ddpg, dqn, loader, run
from configs.ddpg import DDPGConfig
from configs.dqn import DQNConfig
from configs.loader import docs
from configs.run import RunConfig
from envs.config import EnvConfig

ALL = [(a, p) for a in loader.algorithms() for p in loader.presets(a)]


CONFIGS = {"dqn": (DQNConfig, dqn.check), "ddpg": (DDPGConfig, ddpg.check)}


@pytest.mark.parametrize(("algorithm", "preset"), ALL)
def test_every_preset_loads(algorithm: str, preset: str) -> None:
    overrides = loader.load_preset(algorithm, preset)
    config, check = CONFIGS[algorithm]
    agent, env, run_config = loader.apply((config(), EnvConfig(), RunConfig()), overrides)
    check(agent)
    run.check(run_config)
    assert env.num_envs >= 1
    assert loader.summary(algorithm, preset)


def test_the_shipped_presets() -> None:
    assert loader.presets("dqn") == ["default", "classic", "dqn2013", "nature", "rainbow"]
    assert loader.presets("ddpg") == ["default", "paper-pixels", "paper-state", "pixels", "sparse"]


@pytest.mark.parametrize("config", [DDPGConfig, DQNConfig, EnvConfig, RunConfig])
def test_every_field_is_explained(config: type) -> None:
    assert list(docs(config)) == [field.name for field in fields(config)]


@pytest.mark.parametrize("agent", [DDPGConfig, DQNConfig])
def test_names_are_unique_over_the_configs(agent: type) -> None:
    names = [field.name for config in (agent, EnvConfig, RunConfig) for field in fields(config)]
    assert len(names) == len(set(names))


def load(preset: str) -> DQNConfig:
    overrides = loader.load_preset("dqn", preset)
    agent, _, _ = loader.apply((DQNConfig(), EnvConfig(), RunConfig()), overrides)
    assert isinstance(agent, DQNConfig)
    return agent


def test_nature_is_extended_data_table_1() -> None:
    agent = load("nature")
    assert (agent.batch_size, agent.replay_capacity, agent.gamma) == (32, 1_000_000, 0.99)
    assert (agent.target_update_every, agent.update_every) == (10_000, 4)
    assert (agent.learning_rate, agent.rmsprop_decay) == (0.00025, 0.95)
    assert agent.optimizer_eps == 0.01 / 32**2
    assert (agent.epsilon_start, agent.epsilon_final) == (1.0, 0.1)
    assert (agent.epsilon_steps, agent.learning_starts) == (1_000_000, 50_000)
    assert not (agent.double or agent.dueling or agent.noisy or agent.distributional)
    assert (agent.n_step, agent.priority_alpha) == (1, 0.0)


def test_rainbow_is_table_1() -> None:
    agent = load("rainbow")
    assert agent.learning_starts * 4 == 80_000
    assert agent.target_update_every * agent.update_every * 4 == 32_000
    assert (agent.learning_rate, agent.optimizer_eps) == (0.0000625, 1.5e-4)
    assert (agent.priority_alpha, agent.priority_beta, agent.n_step) == (0.5, 0.4, 3)
    assert (agent.atoms, agent.v_min, agent.v_max) == (51, -10.0, 10.0)
    assert agent.double and agent.dueling and agent.noisy and agent.distributional
    assert agent.epsilon_start == agent.epsilon_final == 0.0


def test_dqn2013_has_no_target_network_to_speak_of() -> None:
    agent = load("dqn2013")
    assert (agent.encoder, agent.hidden, agent.loss) == ("dqn2013", 256, "mse")
    assert agent.target_update_every == 1
    assert agent.epsilon_steps * 4 == 1_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"gamma": 1.5}, "gamma is 1.5; it must lie in [0, 1]"),
        ({"encoder_width": 0.0}, "encoder_width is 0.0; it must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"epsilon_steps": -1}, "epsilon_steps is -1; it must be 0 or more"),
        ({"replay_capacity": 16}, "batch_size is 32; it must not exceed replay_capacity, 16"),
        (
            {"distributional": True, "v_min": 11.0},
            "v_min is 11.0; it must be below v_max, 10.0",
        ),
        ({"distributional": True, "atoms": 1}, "atoms is 1; it must be at least 2"),
    ],
)
def test_ranges_of_dqn(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        dqn.check(replace(DQNConfig(batch_size=32), **change))  # type: ignore[arg-type]
    assert str(caught.value) == message


def ddpg_preset(name: str) -> tuple[DDPGConfig, EnvConfig]:
    overrides = loader.load_preset("ddpg", name)
    agent, env, _ = loader.apply((DDPGConfig(), EnvConfig(), RunConfig()), overrides)
    return agent, env


@pytest.mark.parametrize("name", ["paper-state", "paper-pixels"])
def test_the_papers_ddpg_is_section_7(name: str) -> None:
    agent, env = ddpg_preset(name)
    assert (agent.actor_learning_rate, agent.critic_learning_rate) == (1e-4, 1e-3)
    assert (agent.critic_l2, agent.gamma, agent.tau) == (1e-2, 0.99, 0.001)
    assert (agent.noise, agent.ou_theta, agent.noise_start, agent.noise_final) == (
        "ou", 0.15, 0.2, 0.2,
    )  # fmt: skip
    assert agent.replay_capacity == 1_000_000
    assert (agent.n_step, agent.priority_alpha, agent.policy_every) == (1, 0.0, 1)
    assert not agent.twin and agent.target_noise == 0 and agent.random_steps == 0
    assert (env.num_envs, agent.update_every) == (1, 1)


def test_sparse_is_default_with_more_exploration() -> None:
    plain, sparse = (loader.load_preset("ddpg", name) for name in ("default", "sparse"))
    changed = {key for key in sparse if key not in plain or sparse[key] != plain[key]}
    assert set(plain) <= set(sparse)
    assert changed == {
        "n_step", "random_steps", "random_hold", "random_share", "priority_alpha", "env", "steps",
    }  # fmt: skip


def test_the_papers_networks() -> None:
    agent, _ = ddpg_preset("paper-state")
    assert (agent.hidden, agent.hidden_second, agent.action_layer) == (400, 300, 2)
    assert (agent.batch_size, agent.final_init, agent.batch_norm) == (64, 3e-3, True)
    agent, env = ddpg_preset("paper-pixels")
    assert (agent.hidden, agent.hidden_second, agent.shared_encoder) == (200, 200, False)
    assert (agent.batch_size, agent.final_init) == (16, 3e-4)
    assert (env.size, env.action_repeat, env.render_repeats, env.pixels) == (64, 3, True, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, "tau is 0.0; it must be above 0"),
        ({"policy_every": 0}, "policy_every is 0; it must be at least 1"),
        ({"gamma": 1.5}, "gamma is 1.5; it must lie in [0, 1]"),
        ({"actor_learning_rate": 0.0}, "actor_learning_rate is 0.0; it must be above 0"),
        ({"random_share": 1.5}, "random_share is 1.5; it must lie in [0, 1]"),
        ({"random_hold": 0}, "random_hold is 0; it must be at least 1"),
        ({"random_hold": 10_001}, "random_hold is 10001; it must be at most 10000"),
        ({"target_noise": -0.1}, "target_noise is -0.1; it must be 0 or more"),
        ({"update_every": 0.0}, "update_every is 0.0; it must be at least 0.001"),
        ({"replay_capacity": 16}, "batch_size is 256; it must not exceed replay_capacity, 16"),
        (
            {"batch_norm": True, "layer_norm": True},
            "batch_norm and layer_norm are both on; take one of them",
        ),
    ],
)
def test_ranges_of_ddpg(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ddpg.check(replace(DDPGConfig(), **change))  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"seed": 2**31}, "seed is 2147483648; it must be below 2^31"),
        ({"out": ""}, "out is empty; it must name a folder"),
    ],
)
def test_ranges_of_run(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        run.check(replace(RunConfig(), **change))  # type: ignore[arg-type]
    assert str(caught.value) == message
