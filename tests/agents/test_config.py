"""The resolved config of a run, and the folder it lives in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agents import config


def resolve(**overrides: object) -> config.TrainConfig:
    return config.resolve("dqn", None, overrides, image=True)


def test_defaults_then_preset_then_overrides() -> None:
    resolved = config.resolve("dqn", "nature", {"num_envs": 3, "steps": 1e3}, image=False)
    assert resolved.preset == "nature"
    assert resolved.agent.target_update_every == 10_000  # from the preset
    assert (resolved.env.num_envs, resolved.run.steps) == (3, 1000)
    assert resolved.run.seed == 1  # from the dataclass


@pytest.mark.parametrize(("image", "preset"), [(True, "default"), (False, "classic")])
def test_observations_choose_the_preset_where_none_is_named(image: bool, preset: str) -> None:
    assert config.resolve("dqn", None, {}, image=image).preset == preset
    assert config.resolve("dqn", "rainbow", {}, image=image).preset == "rainbow"
    continuous = config.resolve("ddpg", None, {}, image=image)
    assert continuous.preset == {True: "pixels", False: "default"}[image]
    assert type(continuous.agent).__name__ == "DDPGConfig"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rat": 1.0}, "unknown option 'learning_rat'; did you mean 'learning_rate'?"),
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"steps": -5}, "steps is -5; it must be at least 1"),
        ({"gamma": 2.0}, "gamma is 2.0; it must lie in [0, 1]"),
    ],
)
def test_bad_overrides(overrides: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve(**overrides)
    assert str(caught.value) == message


def test_replace_checks_too() -> None:
    assert resolve().replace(steps=7).run.steps == 7
    with pytest.raises(ValueError, match="gamma is 3"):
        resolve().replace(gamma=3.0)


def test_save_and_load(tmp_path: Path) -> None:
    saved = config.resolve("dqn", "rainbow", {"seed": 5, "env": "CartPole-v1"}, image=True)
    saved.save(tmp_path)
    assert config.load(tmp_path) == saved


def test_the_file_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    from importlib.metadata import version

    text = resolve().save(tmp_path).read_text()
    assert f"version: {version('sightline-rl')}\n" in text


def test_flat_names_every_option() -> None:
    flat = resolve(seed=9).flat()
    assert flat["seed"] == 9 and flat["env"] == "Breakout" and flat["n_step"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "has schema 99, and this version reads up to 1: update sightline-rl"),
        ({"schema": None}, "names no valid schema"),
        ({"algorithm": "dqm"}, "unknown algorithm 'dqm'; did you mean 'dqn'"),
        ({"algorithm": 3}, "algorithm is 3; it must be a name"),
        ({"run": None}, "run is missing or holds no options"),
        ({"agent": {"gama": 0.9}}, "unknown option 'gama'; did you mean 'gamma'"),
        ({"agent": {"gamma": "high"}}, "gamma is 'high'; it must be a number"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_changed_file_names_what_is_wrong(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = resolve().save(tmp_path)
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | change))
    with pytest.raises(ValueError) as caught:
        config.load(tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run folder: it holds no config.yaml"):
        config.load(tmp_path)
    run = tmp_path / "dqn-Pong-s1"
    run.mkdir()
    resolve().save(run)
    with pytest.raises(FileNotFoundError, match=r"no run folder at .*did you mean '.*/dqn-Pong-s1"):
        config.load(tmp_path / "dqn-Pong-s2")


@pytest.mark.parametrize(
    ("env", "start"),
    [
        ("Breakout", "dqn-Breakout-s4-"),
        ("ALE/SpaceInvaders-v5", "dqn-SpaceInvaders-s4-"),
        ("CartPole-v1", "dqn-CartPole-v1-s4-"),
        ("my.package:Env", "dqn-my.package-Env-s4-"),
        ("../..", "dqn-env-s4-"),
    ],
)
def test_the_run_folder_tells_algorithm_env_and_seed(tmp_path: Path, env: str, start: str) -> None:
    folder = config.make_run_dir(resolve(env=env, seed=4, out=str(tmp_path / "runs")))
    assert folder.parent == tmp_path / "runs"
    assert folder.name.startswith(start)


def test_two_runs_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20250131-104512")
    names = [config.make_run_dir(resolve(out=str(tmp_path))).name for _ in range(3)]
    first = "dqn-Breakout-s1-20250131-104512"
    assert names == [first, f"{first}-2", f"{first}-3"]
