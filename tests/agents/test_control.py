"""Continuous control as a whole: runs of ddpg, resumed, from pixels, refused, and learned."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agents
from agents import start as begin
from agents.evaluate import evaluate_run, play
from agents.session import Session
from envs import EnvFault, dmc

TINY: dict[str, Any] = {
    "env": "Pendulum-v1",
    "hidden": 16,
    "num_envs": 2,
    "replay_capacity": 2_000,
    "learning_starts": 40,
    "random_steps": 40,
    "batch_size": 8,
    "update_every": 4,
    "steps": 800,
    "checkpoint_every": 400,
    "eval_episodes": 2,
    "log_every": 40,
    "threads": 1,
}
PIXELS = {"pixels": True, "size": 24, "encoder_width": 0.1, "trunk": 8, "num_envs": 1}


def start(out: Path, preset: str | None = "default", **options: Any) -> Session:
    return begin.create("ddpg", preset, {**TINY, "out": str(out), **options})


def test_the_presets_environment_is_the_one_where_none_is_named(tmp_path: Path) -> None:
    few = {name: value for name, value in TINY.items() if name != "env"}
    session = begin.create("ddpg", "sparse", {**few, "out": str(tmp_path)})
    session.close()
    assert session.config.env.env == "dmc/point_mass-easy"
    session = begin.create("ddpg", None, {**few, "out": str(tmp_path)})
    session.close()
    assert session.config.env.env == "HalfCheetah" and session.config.preset == "default"


class Barren(gymnasium.Env[np.ndarray, np.ndarray]):
    """Episodes of 5 steps without a reward; `varied`, with random ones."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    varied = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = 5
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        reward = float(self.np_random.random()) if self.varied else 0.0
        return np.zeros(2, np.float32), reward, self.left == 0, False, {}


class Fertile(Barren):
    varied = True


@pytest.mark.parametrize(
    ("env", "preset", "told"),
    [
        ("Barren", "default", "met by chance; the preset sparse explores for rare ones"),
        ("Barren", "sparse", "met by chance\n"),
        ("Fertile", "default", ""),
    ],
)
def test_a_run_whose_episodes_are_all_alike_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], env: str, preset: str, told: str
) -> None:
    session = start(tmp_path, preset, env=f"tests.agents.test_control:{env}", steps=240)
    session.run()
    session.close()
    said = capsys.readouterr()
    text = "first 20 episodes all scored 0: rewards may be too rare to be "
    assert (said.out + said.err).count(text) == bool(told)
    assert not told or text + told in said.out + said.err


def test_a_file_in_the_place_of_the_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match=r"out is '.*out'; a file is there, and not a folder"):
        start(tmp_path / "out")


def test_pictures_without_an_encoder_are_told_of(tmp_path: Path) -> None:
    session = start(tmp_path, pixels=True, size=24, num_envs=1)
    session.close()
    assert any(note.startswith("the encoder flat has no layers") for note in session.notes)
    session = start(tmp_path, "pixels", **PIXELS)
    session.close()
    assert not any("flat" in note for note in session.notes)


@pytest.mark.parametrize(
    "options", [{"noise": "ou", "priority_alpha": 0.6, "n_step": 3}, {"update_every": 1.0}]
)
def test_killed_and_resumed_goes_on_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = start(tmp_path, **options)
    for _ in whole.ticks():
        pass
    killed = start(tmp_path, **options)
    for tick in killed.ticks():
        if tick.step == 400:
            killed.save()
        if tick.step == 600:  # what came after the checkpoint is lost
            break
    killed.close()
    resumed = begin.resume(killed.run_dir)
    assert resumed.step == 400
    for _ in resumed.ticks():
        pass
    pairs = zip(whole.agent.online.parameters(), resumed.agent.online.parameters(), strict=True)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert resumed.updates == whole.updates > 0
    assert torch.equal(whole.replay.latest(), resumed.replay.latest())  # type: ignore[arg-type]
    whole.close()
    resumed.close()


def test_a_run_is_scored_and_acts_on_raw_observations(tmp_path: Path) -> None:
    run = start(tmp_path)
    result = run.run(console=False)
    run.close()
    assert result["episodes"] == 2 and (run.run_dir / "result.json").exists()
    lines = [json.loads(x) for x in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"score", "loss", "actor_loss", "noise"} <= {key for x in lines for key in x}
    assert evaluate_run(run.run_dir, episodes=2)["episodes"] == 2
    env, player = gymnasium.make("Pendulum-v1"), agents.load(run.run_dir)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        action = player.act(observation)
        assert env.action_space.contains(action)
        observation = env.step(action)[0]
    expected = player.agent.act(torch.as_tensor(observation)[None], explore=False)[0]
    np.testing.assert_allclose(player.act(observation), 2 * expected, rtol=1e-6)


@pytest.mark.parametrize("env", ["Pendulum-v1", "HalfCheetah", "dmc/reacher-easy"])
def test_from_pixels(tmp_path: Path, env: str) -> None:
    import av

    pytest.importorskip("mujoco")
    if env.startswith("dmc/") and not dmc.installed():
        pytest.skip("needs dm_control")
    run = start(tmp_path, None, env=env, **PIXELS, steps=120, max_episode_steps=30)
    assert run.config.preset == "pixels" and run.env.frame_space.shape == (3, 24, 24)
    assert run.env.stack == 3
    run.run(console=False)
    run.close()
    assert run.updates > 10
    told = play(run.run_dir, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.height >= 420  # drawn anew in full size, not as the agent sees it
        assert sum(1 for _ in film.decode(stream)) == told["lengths"][0]


def test_torch_and_the_renderer_live_in_one_process(tmp_path: Path) -> None:
    """Mesa and Triton both carry LLVM, and torch loads Triton when an optimiser is first made."""
    pytest.importorskip("mujoco")
    words = "train ddpg --env Hopper --pixels --size 24 --encoder-width 0.1 --steps 20 --trunk 4"
    small = "--learning-starts 10 --batch-size 4 --eval-episodes 1 --max-episode-steps 5"
    command = [sys.executable, "-m", "agents", *words.split(), *small.split()]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)


def test_noise_that_would_never_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"noise_start is 0.5, and says nothing .*noise_final, 0.2"
    ):
        start(tmp_path, "paper-state", noise_start=0.5)
    start(tmp_path, "paper-state", noise_start=0.2).close()
    start(tmp_path, "paper-state", noise_start=0.5, noise_steps=100).close()


def test_slips_in_python_are_named(tmp_path: Path) -> None:
    env = gymnasium.make("Pendulum-v1")
    with pytest.raises(TypeError, match="env is <TimeLimit.*expected a name, such as"):
        begin.create("ddpg", None, {"env": env})
    run = start(tmp_path, steps=80)
    with pytest.raises(TypeError, match="steps is '90'; it must be a whole number"):
        run.learn("90", console=False)  # type: ignore[arg-type]
    player = run.learn(console=False)
    run.close()
    with pytest.raises(ValueError, match="all that reset"):
        player.act(env.reset(seed=0))
    assert player.act((1.0, 0.0, 0.0)).shape == (1,)  # which is an observation
    with pytest.raises(ValueError, match="device is 'gpu'; it must be auto, cpu or cuda"):
        agents.load(run.run_dir, device="gpu")


@pytest.mark.parametrize("shared", [True, False])
def test_a_policy_is_explained(tmp_path: Path, shared: bool) -> None:
    from agents.explain import explain, look, sanity

    options: dict[str, Any] = {"shared_encoder": shared, "explain_every": 60}
    run = start(tmp_path, None, **PIXELS, **options, steps=60, max_episode_steps=15)
    run.run(console=False)
    run.close()
    told = explain(run.run_dir, tmp_path / "seen.mp4")
    assert (tmp_path / "seen.mp4").stat().st_size > 0 and len(told["lengths"]) == 1
    observation = run.replay.latest()
    action = run.agent.act(observation, explore=False)  # type: ignore[arg-type]
    cam, beside = look(run.agent, observation, action)  # type: ignore[arg-type]
    assert cam.shape == (1, 24, 24) and cam.min() >= 0 and cam.max() <= 1
    np.testing.assert_array_equal(beside, action)
    # where the encoder is the actor's own, the critics' has no part in it
    layers = [row.layer for rows in sanity(run.run_dir, samples=2).values() for row in rows]
    assert any(layer.startswith("encoder") for layer in layers)
    assert not any("critic" in layer for layer in layers)


@pytest.mark.parametrize("preset", ["paper-state", "paper-pixels"])
def test_the_papers_run(tmp_path: Path, preset: str) -> None:
    pytest.importorskip("mujoco")
    small = {key: TINY[key] for key in ("replay_capacity", "eval_episodes", "threads")}
    options = {"steps": 110, "update_every": 4, "log_every": 40, "max_episode_steps": 50}
    run = begin.create(
        "ddpg", preset, {"env": "InvertedPendulum", "out": str(tmp_path), **small, **options}
    )
    run.run(console=False)
    run.close()
    assert run.updates > 5


def test_discrete_actions_name_dqn_and_continuous_ddpg(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ddpg needs continuous.*CartPole-v1.*Discrete.*use dqn"):
        start(tmp_path, env="CartPole-v1")
    with pytest.raises(ValueError, match="dqn needs discrete actions and Pendulum-v1.*use ddpg"):
        begin.create("dqn", None, {"env": "Pendulum-v1", "out": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


class Diverges(gymnasium.Env[Any, Any]):
    """Returns NaN in every fourth episode; with `always`, in each."""

    observation_space = spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    always = False

    def __init__(self) -> None:
        self.episode, self.time = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.time = self.episode + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        bad = self.time == 5 and (self.always or self.episode % 4 == 3)
        value = np.nan if bad else self.time / 10
        return np.float32([value, action[0]]), 1.0, False, self.time == 10, {}


class AlwaysDiverges(Diverges):
    always = True


def test_episodes_that_diverge_are_dropped_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path, env="tests.agents.test_control:Diverges", steps=400, eval_episodes=6)
    result = run.run()
    run.close()
    told = capsys.readouterr().err
    # two lanes drop their third episodes of four each, and so play three that count
    assert (result["dropped"], set(result["scores"])) == (2, {10.0})
    assert result["text"] in told and result["text"].endswith("own rules, 2 more dropped")
    assert "(2): lane" in told and "observation[0] is nan" in told
    lines = [json.loads(x) for x in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("episodes_dropped", 0) for line in lines) >= 8
    assert {line["score"] for line in lines if "length" in line} == {10.0}
    batch = run.replay.sample(256, 1.0)
    for seen in (batch.observation, batch.next_observation):
        assert torch.isfinite(seen).all()  # type: ignore[arg-type]
    # where an episode was dropped, nothing leads from it into the next one
    start_of, end = batch.observation[:, 0], batch.next_observation[:, 0]  # type: ignore[index]
    torch.testing.assert_close(end - start_of, torch.full((256,), 0.1))


def test_actions_that_are_nan_say_that_learning_diverged(tmp_path: Path) -> None:
    rates: dict[str, Any] = {"actor_learning_rate": 1e9, "critic_learning_rate": 1e9}
    run = start(tmp_path, log_every=10**6, **rates)  # the action comes before a line of metrics
    with pytest.raises(FloatingPointError) as caught:
        run.run(console=False)
    run.close()
    told = str(caught.value)
    assert "an action became NaN by step" in told and "learning diverged" in told
    assert "actor_learning_rate is 1000000000.0, critic_learning_rate is 10" in told


def test_three_in_a_row_stop_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    run = start(tmp_path, env="tests.agents.test_control:AlwaysDiverges")
    with pytest.raises(EnvFault, match="is nan.*so ended 3 episodes in a row"):
        run.run(console=False)
    run.close()
    assert begin.resume(run.run_dir).step == run.step


def test_pendulum_is_learned(tmp_path: Path) -> None:
    """Mean return of at least -250 over 20 episodes; standing still is about -1,200."""
    begin = time.perf_counter()
    ddpg = agents.DDPG.on(
        "Pendulum-v1",
        out=str(tmp_path),
        steps=9_000,
        random_steps=1_000,
        learning_starts=1_000,
        noise_steps=5_000,
        batch_size=128,
        actor_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        hidden=128,
        eval_episodes=20,
        threads=1,
    )
    ddpg.learn(console=False)
    ddpg.close()
    result = json.loads((ddpg.run_dir / "result.json").read_text())
    print(f"Pendulum-v1: {result['text']}; {time.perf_counter() - begin:.0f} s")
    assert result["mean"] >= -250
