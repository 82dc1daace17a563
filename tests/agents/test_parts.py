"""Observations of several parts, from the environment to the learner and back as actions."""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import load
from agents import start as begin
from agents.cli import main
from agents.evaluate import evaluate_run
from agents.explain import camera_of, explain, look, sanity
from agents.loop import action_field, observation_field, rollout, train
from agents.session import Session
from envs.lanes import Lanes
from replay import FeatureReplay, PrioritizedReplay
from tests.agents.test_loop import ENDS, GAMMA, Recorder
from tests.support import PartsEnv, Tag, TaggedEnv

TINY: dict[str, Any] = {
    "env": "tests.support:PartsEnv", "encoder": "drq", "encoder_width": 0.1, "hidden": 8,
    "num_envs": 2, "replay_capacity": 120, "learning_starts": 40, "batch_size": 8,
    "update_every": 4, "target_update_every": 20, "epsilon_steps": 400, "steps": 320,
    "checkpoint_every": 160, "eval_episodes": 2, "log_every": 40, "precision": "fp32",
    "threads": 1, "optimizer": "adam",
}  # fmt: skip


def start(out: Path, **options: Any) -> Session:
    return begin.create("dqn", "nature", {**TINY, "out": str(out), **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on an environment of two cameras, a pose and a goal."""
    run = start(tmp_path_factory.mktemp("runs"))
    run.run(console=False)
    run.close()
    return run.run_dir


class Seeing(Recorder):
    """A Recorder that acts on observations of several parts."""

    def act(self, observation: Any, **options: Any) -> np.ndarray:
        assert isinstance(observation, dict)
        return self.random.integers(0, 3, len(observation["camera"]))


def tag_of(parts: dict[str, Tensor], stacks: dict[str, int]) -> Tag:
    """The tag that every part of one observation agrees on, older frames included."""
    pose = parts["arm/pose"].numpy().reshape(stacks["arm/pose"], 4)
    goal = parts["goal"].numpy().reshape(stacks["goal"], 5)
    shots = parts["camera"].numpy().reshape(stacks["camera"], 1, 16, 20)
    wrists = parts["arm/wrist"].numpy().reshape(stacks["arm/wrist"], 3, 15, 17)
    newest = Tag(*(int(v) for v in pose[-1]))
    for part in (pose, goal, shots, wrists):
        for back, value in enumerate(part[::-1]):
            step = newest.step - min(back, newest.step)
            if part is pose:
                assert tuple(value[:3]) == (newest.env, newest.episode, step)
            elif part is goal:
                tag = newest._replace(step=step)
                assert value.argmax() + 2 == PartsEnv.goal(tag) and value.sum() == 1
            else:
                tag = TaggedEnv.read(value)
                assert tag[:3] == (newest.env, newest.episode, step)
                assert np.array_equal(value, TaggedEnv.frame(tag, value.shape[1:], len(value)))
    return newest


@pytest.mark.parametrize("stack", [0, 3])
@pytest.mark.parametrize(("count", "capacity"), [(1, 40), (5, 131)])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_every_sampled_part_is_of_one_transition(
    count: int, capacity: int, stack: int, backend: str
) -> None:
    make = [partial(PartsEnv, env=i, ends=ENDS[i % 4 :] + ENDS[: i % 4]) for i in range(count)]
    env, agent = Lanes(make, seed=0, stack=stack), Seeing()
    replay = PrioritizedReplay(
        capacity, observation_field(env), action_field(env), lanes=count, n_step=3, gamma=GAMMA,
        backend=backend,
    )  # fmt: skip
    replay.reset(env.reset())
    options = {"batch_size": 16, "update_every": 8.0, "learning_starts": 16}
    steps = 800 if backend == "numba" else 400
    for _ in train(agent, env, replay, steps=steps, **options):  # type: ignore[arg-type]
        pass
    env.close()
    assert isinstance(env.stack, dict)
    kinds = set()
    for batch in agent.batches:
        assert isinstance(batch.observation, dict) and isinstance(batch.next_observation, dict)
        for i in range(len(batch.reward)):
            first = tag_of({name: v[i] for name, v in batch.observation.items()}, env.stack)
            then = tag_of({name: v[i] for name, v in batch.next_observation.items()}, env.stack)
            length, end = ENDS[(first.env + first.episode) % 4]
            taken = min(3, length - first.step)
            assert taken >= 1, "a transition out of a final frame"
            assert then[:3] == (first.env, first.episode, first.step + taken)
            over = first.step + taken == length
            terminated = over and end == "terminated"
            assert batch.discount[i].item() == pytest.approx(0 if terminated else GAMMA**taken)
            kinds.add((end, over))
    assert len(kinds) == 4


@pytest.mark.parametrize("cache", [False, True])
def test_killed_and_resumed_goes_on_bit_for_bit(tmp_path: Path, cache: bool) -> None:
    options = {"encoder_freeze": cache, "encoder_cache": cache, "n_step": 3}
    whole = start(tmp_path, **options)
    for _ in whole.ticks():
        pass
    killed = start(tmp_path, **options)
    for tick in killed.ticks():
        if tick.step == 160:
            killed.save()
        if tick.step == 240:  # what came after the checkpoint is lost
            break
    killed.close()
    resumed = begin.resume(killed.run_dir)
    assert isinstance(resumed.replay, FeatureReplay) == cache
    for _ in resumed.ticks():
        pass
    pairs = zip(whole.agent.online.parameters(), resumed.agent.online.parameters(), strict=True)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert resumed.updates == whole.updates > 0
    ours, theirs = whole.replay.latest(), resumed.replay.latest()
    assert isinstance(ours, dict) and isinstance(theirs, dict)
    assert all(torch.equal(ours[part], theirs[part]) for part in ours)
    whole.close()
    resumed.close()


@pytest.mark.parametrize("cache", [False, True])
def test_an_agent_learns_what_no_part_tells_alone(tmp_path: Path, cache: bool) -> None:
    run = start(
        tmp_path, env="tests.support:BothEnv", encoder="nature", hidden=64,
        encoder_width=0.5 if cache else 0.25,  # random features want to be many
        encoder_freeze=cache, encoder_cache=cache, num_envs=4, steps=4_000, replay_capacity=4_000,
        learning_starts=200, batch_size=32, update_every=8, learning_rate=2e-3, frame_stack=1,
        epsilon_steps=2_000, checkpoint_every=0, eval_episodes=100, log_every=1_000,
    )  # fmt: skip
    result = run.run(console=False)
    run.close()
    assert result is not None and result["mean"] >= 0.95


def test_a_player_acts_as_the_evaluation_does(folder: Path) -> None:
    player, env = load(folder), PartsEnv(env=3)
    lanes = Lanes([partial(PartsEnv, env=3)], seed=0)
    seen, _ = env.reset(seed=0)
    steps = 0
    for observation, action, _, ended in rollout(player.agent, lanes):
        own = player._observe(seen)
        assert isinstance(own, dict) and isinstance(observation, dict)
        assert all(torch.equal(own[part], observation[part]) for part in own)
        assert own.keys() == observation.keys()
        seen, *_ = env.step(action[0])
        steps += 1
        if ended:
            break
    lanes.close()
    assert steps == 5
    player.reset()
    first, _ = PartsEnv(env=3).reset(seed=0)
    wrist = first["arm"]["wrist"].transpose(1, 2, 0)  # any layout, and names by path
    flat = {"camera": first["camera"][:, :, 0], "arm/wrist": wrist, "arm/pose": [3, 0, 0, -1]}
    assert player.act({**flat, "goal": first["goal"]}) in (0, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": None}, r"the observation\['camera'\] has shape \(\)"),
        ({"camera": np.zeros((16, 20))}, r"\['camera'\] is float64; .* trained on uint8"),
        ({"goal": 7}, r"observation\['goal'\] is 7; expected a whole number in \[2, 6\]"),
        ({"arm": {"pose": np.zeros(4)}}, "observation lacks 'arm/wrist'"),
        ({"camra": 0}, "holds 'camra', which its space doesn't; did you mean 'camera'"),
    ],
)  # fmt: skip
def test_a_player_names_the_part_that_is_wrong(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    seen, _ = PartsEnv(env=0).reset(seed=0)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder).act({**seen, **change})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="observation is ndarray; expected a dict of arm/pose"):
        load(folder).act(seen["camera"])


def test_a_run_is_scored(folder: Path) -> None:
    assert len(evaluate_run(folder, episodes=3)["scores"]) == 3


def test_explanations_are_of_one_camera(folder: Path, tmp_path: Path) -> None:
    agent = load(folder).agent
    spec = observation_field(Lanes([partial(PartsEnv, env=0)], seed=0))
    assert camera_of(spec, "env") == "arm/wrist" and camera_of(spec, "env", "camera") == "camera"
    shapes = {"camera": (4, 16, 20), "arm/wrist": (12, 15, 17), "arm/pose": (4,), "goal": (5,)}
    observation = {name: torch.rand(2, *shape) for name, shape in shapes.items()}
    for camera, size in (("camera", (16, 20)), ("arm/wrist", (15, 17))):
        cam, values = look(agent, observation, np.array([0, 2]), camera)
        assert cam.shape == (2, *size) and values.shape == (2, 3)
    other = {**observation, "arm/wrist": 1 - observation["arm/wrist"]}
    maps = [
        # of one action alone it may well be nothing everywhere
        [look(agent, o, np.full(2, action), "arm/wrist")[0] for action in range(3)]
        for o in (observation, other)
    ]
    assert not np.allclose(*maps)
    film = tmp_path / "seen.mp4"
    assert explain(folder, film, camera="camera")["episodes"] == 1 and film.stat().st_size > 500
    found = sanity(folder, samples=2, camera="arm/wrist")
    assert any("image_arm/wrist" in row.layer for row in found["Grad-CAM"])


def test_stills_in_mid_run(tmp_path: Path) -> None:
    for cache in (False, True):
        run = start(
            tmp_path, steps=80, explain_every=40, encoder_freeze=cache, encoder_cache=cache
        )  # fmt: skip
        run.run(console=False)
        run.close()
        events = b"".join(p.read_bytes() for p in (run.run_dir / "tensorboard").iterdir())
        assert b"grad_cam" in events


def test_the_command_line_takes_it_all(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = str(tmp_path / "film.mp4")
    assert main(["explain", str(folder), "--video", film, "--camera", "camera"]) == 0
    assert main(["explain", str(folder), "--camera", "wrist"]) == 2
    error = capsys.readouterr().err
    assert "unknown camera of 'tests.support:PartsEnv' 'wrist'; did you mean 'arm/wrist'?" in error
    assert error.count("\n") == 1
    assert main(["play", str(folder), "--video", film]) == 0
    words = list(chain.from_iterable((f"--{k.replace('_', '-')}", str(v)) for k, v in TINY.items()))
    train_it = ["train", "dqn", "--preset", "nature", *words, "--out", str(tmp_path)]
    assert main([*train_it, "--encoder", "nature"]) == 2
    assert "'arm/wrist': nature needs images of at least 36x36" in capsys.readouterr().err
    assert main([*train_it, "--encoder-cache"]) == 2
    assert "encoder_cache is on, and encoder_freeze is off" in capsys.readouterr().err
    frozen = ["--encoder-cache", "--encoder-freeze", "--encoder", "mlp"]
    assert main([*train_it, *frozen, "--env", "CartPole-v1"]) == 2
    assert "keeps features of images, and 'CartPole-v1' shows vectors" in capsys.readouterr().err


def test_an_episode_that_is_dropped_leaves_no_trace_in_any_part() -> None:
    from agents.loop import remember
    from envs.vector import Drop, Step
    from replay import Field, PrioritizedReplay

    replay = PrioritizedReplay(
        40, {"a": Field((2,), "float32"), "b": Field((1,), "float32")}, lanes=2
    )
    frame = {"a": np.zeros((2, 2), np.float32), "b": np.zeros((2, 1), np.float32)}
    replay.reset(frame)
    flags = np.zeros(2, bool)
    for number in range(1, 4):
        frame = {name: np.full_like(part, number) for name, part in frame.items()}
        dropped = (Drop(1, "reward is nan"),) if number == 2 else ()
        step = Step(frame, np.ones(2, np.float32), flags, flags, (), dropped)
        remember(replay, np.zeros(2, np.int64), step)
    batch = replay.sample(64, beta=1.0)
    assert isinstance(batch.observation, dict) and isinstance(batch.next_observation, dict)
    for name, part in batch.observation.items():
        pairs = {
            (float(x[0]), float(y[0]))
            for x, y in zip(part, batch.next_observation[name], strict=True)
        }
        assert pairs == {(0, 1), (1, 2), (2, 3)}
    # from 1 to 2 lane 0 alone went: the other's episode was dropped
    assert replay.sampleable == 5
