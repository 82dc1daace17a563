"""Runs as a whole: their folder, kill and resume, faults, and agents that must learn."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import agents
from agents import checkpoint
from agents import start as begin
from agents.config import load as load_config
from agents.errors import CheckpointError, StorageError
from agents.evaluate import evaluate_run, play, student_t
from agents.process import locked, stoppable
from agents.session import Session
from envs import EnvFault
from tests.agents.test_kept import edit, forget
from tests.agents.test_log import files_up_to

TINY: dict[str, Any] = {
    "env": "tests.support:TaggedEnv",
    "encoder": "mlp",
    "encoder_width": 0.1,
    "hidden": 8,
    "num_envs": 2,
    "replay_capacity": 300,
    "learning_starts": 40,
    "batch_size": 8,
    "update_every": 4,
    "target_update_every": 20,
    "epsilon_steps": 400,
    "steps": 800,
    "checkpoint_every": 400,
    "eval_episodes": 2,
    "log_every": 40,
    "precision": "fp32",
    "threads": 1,
}


def start(out: Path, **options: Any) -> Session:
    return begin.create("dqn", "nature", {**TINY, "out": str(out), "optimizer": "adam", **options})


def test_a_run_folder_holds_the_run(tmp_path: Path) -> None:
    run = start(tmp_path)
    result = run.run(console=False)
    run.close()
    assert result is not None and result["episodes"] == 2
    assert run.run_dir.parent == tmp_path and run.run_dir.name.startswith("dqn-tests.support")
    names = {path.name for path in run.run_dir.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "result.json"} <= names
    assert set(checkpoint.steps(run.run_dir)) == {400, 800}
    lines = [json.loads(x) for x in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"score", "loss", "epsilon", "evaluation/score"} <= {key for x in lines for key in x}
    again = evaluate_run(run.run_dir, episodes=3)
    assert len(again["scores"]) == 3 and again["interval"][0] <= again["mean"]


@pytest.mark.parametrize("noisy", [False, True])
def test_killed_and_resumed_goes_on_bit_for_bit(tmp_path: Path, noisy: bool) -> None:
    options = {"noisy": noisy, "distributional": noisy, "priority_alpha": 0.5, "n_step": 3}
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
    assert resumed.updates == whole.updates
    assert torch.equal(whole.replay.latest(), resumed.replay.latest())  # type: ignore[arg-type]
    whole.close()
    resumed.close()


def test_resume_without_the_replay_fills_it_before_learning(tmp_path: Path) -> None:
    run = start(tmp_path, save_replay=False, steps=400)
    run.run(console=False)
    run.close()
    resumed = begin.resume(run.run_dir, steps=600, device="cpu", threads=1)
    assert load_config(run.run_dir).run == replace(
        run.config.run, steps=600, device="cpu", threads=1
    )
    assert any("fills anew" in note for note in resumed.notes)
    updates = [tick.updates - run.updates for tick in resumed.ticks()]
    assert updates[15] == 0 and updates[-1] > 0
    resumed.close()


def test_a_run_may_rank_its_errors(tmp_path: Path) -> None:
    """And its leaves are what they were where it was saved and goes on."""
    options = {"prioritization": "rank", "priority_weights": "global", "priority_alpha": 0.7}
    run = start(tmp_path, **options, steps=400)
    run.run(console=False)
    run.close()
    assert run.replay.store.ranked and run.replay.store.least is not None  # type: ignore[attr-defined]
    resumed = begin.resume(run.run_dir, steps=600)
    ours, theirs = (r.replay.store.tree.leaves for r in (run, resumed))  # type: ignore[attr-defined]
    assert np.array_equal(np.sort(ours), np.sort(theirs)) and len(np.unique(ours)) > 20
    resumed.close()


def test_resume_refuses_an_end_that_is_past(tmp_path: Path) -> None:
    run = start(tmp_path, steps=400)
    run.run(console=False)
    run.close()
    with pytest.raises(ValueError, match="steps is 100; the run in .* stands at step 400"):
        begin.resume(run.run_dir, steps=100)


def test_interrupt_saves_and_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path / "läufe 1", steps=10**6, checkpoint_every=0)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run.run()
    run.close()
    assert f"agents train --resume '{run.run_dir}'" in capsys.readouterr().err
    assert begin.resume(run.run_dir).step == run.step > 0


def test_interrupt_in_the_evaluation_stops_it(tmp_path: Path) -> None:
    run = start(tmp_path, steps=80, learning_starts=300, eval_episodes=10**6)
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run.run(console=False)
    run.close()
    assert begin.resume(run.run_dir).step == 80
    assert not (run.run_dir / "result.json").exists()


def test_one_session_a_run_folder(tmp_path: Path) -> None:
    run = start(tmp_path, steps=400)
    run.run(console=False)
    config = run.run_dir / "config.yaml"
    before = config.read_text()
    with locked(run.run_dir):
        for second in (lambda: run.run(console=False), lambda: begin.resume(run.run_dir, 600)):
            with pytest.raises(ValueError, match="another session is training in .*; wait for it"):
                second()
    assert config.read_text() == before
    with begin.resume(run.run_dir, 480) as other:
        run.learn(440, console=False)
        for second in (lambda: other.run(console=False), lambda: other.learn(600, console=False)):
            with pytest.raises(
                ValueError, match="another session has gone on .*, to step 440: resume"
            ):
                second()
    assert load_config(run.run_dir).run.steps == 440
    run.learn(480, console=False)  # its own checkpoints are no others'
    run.close()
    with begin.resume(run.run_dir, 520) as again:
        again.run(console=False)


def fault(run: Session, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Let the environment of a run fail after some vector steps."""
    real, calls = run.env.recv, iter(range(10**6))

    def recv() -> Any:
        if next(calls) == after:
            raise EnvFault("lane 1: RuntimeError: motor fault")
        return real()

    monkeypatch.setattr(run.env, "recv", recv)


def test_a_faulty_environment_ends_the_run_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path)
    fault(run, monkeypatch, after=60)
    with pytest.raises(EnvFault, match="motor fault"):
        run.run(console=False)
    run.close()
    assert begin.resume(run.run_dir).step == 120


def test_a_faulty_environment_is_told_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path, checkpoint_every=0)
    fault(run, monkeypatch, after=60)
    with files_up_to(100), pytest.raises(EnvFault, match="motor fault") as caught:
        run.run()
    run.close()
    told = capsys.readouterr().err
    assert "no checkpoint at step 120: a checkpoint in" in told
    assert caught.value.__notes__[0].startswith("no checkpoint at step 120: a checkpoint in")
    assert checkpoint.steps(run.run_dir) == {}


def test_and_saved_without_the_replay_where_that_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path)
    fault(run, monkeypatch, after=60)
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(run.replay, "save", full)
    with pytest.raises(EnvFault, match="motor fault") as caught:
        run.run()
    run.close()
    assert "without the replay there is one at step 120" in capsys.readouterr().err
    assert not hasattr(caught.value, "__notes__")
    with begin.resume(run.run_dir) as again:
        assert again.step == 120


def test_a_full_disk_costs_a_run_no_line_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path)
    ticks = run.ticks

    def filled() -> Any:
        with files_up_to(2_000):
            for tick in ticks():
                yield tick
                if tick.step == 600:
                    break
        yield from ticks()

    run.ticks = filled  # type: ignore[method-assign]
    run.run()
    run.close()
    told = capsys.readouterr().err
    assert told.count("what is logged waits for space") == 1
    assert "no checkpoint at step 400" in told and set(checkpoint.steps(run.run_dir)) == {800}
    lines = (run.run_dir / "metrics.jsonl").read_text().splitlines()
    logged = [row["step"] for row in map(json.loads, lines) if "loss" in row]
    assert logged == list(range(80, 801, 40))


def test_a_full_disk_at_the_start_names_the_path(tmp_path: Path) -> None:
    with files_up_to(10), pytest.raises(OSError, match=r"config\.yaml"):
        start(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run = start(tmp_path, steps=400)
    run.run(console=False)
    run.close()
    other = start(tmp_path, steps=400, hidden=9)
    shutil.copytree(run.run_dir / "checkpoints", other.run_dir / "checkpoints")
    other.close()
    forget(other.run_dir)
    with pytest.raises(CheckpointError, match="does not fit this environment and config"):
        agents.load(other.run_dir)


def test_a_damaged_replay_is_passed_over(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.run(console=False)
    run.close()
    chunk = next((checkpoint.steps(run.run_dir)[800] / "replay").glob("chunk-*"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 0xFF
    chunk.unlink()  # the older checkpoint may share it by a hard link
    chunk.write_bytes(bytes(data))
    resumed = begin.resume(run.run_dir)
    assert resumed.step == 400
    assert any(chunk.name in note for note in resumed.notes)
    resumed.close()


def test_where_every_replay_is_damaged_the_networks_go_on(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.run(console=False)
    run.close()
    for path in checkpoint.steps(run.run_dir).values():
        (path / "replay" / "state.safetensors").write_bytes(b"")
    resumed = begin.resume(run.run_dir)
    assert resumed.step == 800
    weight = resumed.agent.state_dict()["online"]["first.weight"]
    assert torch.equal(weight, run.agent.state_dict()["online"]["first.weight"])
    assert any("the replay can't be read: it fills anew" in note for note in resumed.notes)
    resumed.close()


def test_a_replay_that_does_not_fit_is_no_damage(tmp_path: Path) -> None:
    run = start(tmp_path, steps=400)
    run.run(console=False)
    run.close()
    forget(run.run_dir)
    edit(run.run_dir, replay_capacity=200)
    with pytest.raises(ValueError, match="holds a replay of capacity 300; expected 200"):
        begin.resume(run.run_dir)


def test_an_agent_plays_without_its_replay(tmp_path: Path) -> None:
    run = start(tmp_path, steps=400)
    run.run(console=False)
    run.close()
    for path in checkpoint.steps(run.run_dir).values():
        shutil.rmtree(path / "replay")
    assert evaluate_run(run.run_dir, episodes=2)["episodes"] == 2


def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    run = start(tmp_path, learning_rate=1e30, max_grad_norm=0.0, log_every=10**6)
    with pytest.raises(FloatingPointError, match="learning diverged; a smaller learning rate"):
        run.run(console=False)
    run.close()
    assert checkpoint.steps(run.run_dir) == {}


def test_a_state_that_is_no_json_costs_the_episode_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path, steps=400)
    run.env.get_state = lambda: {"array": np.zeros(3)}  # type: ignore[method-assign]
    run.run()
    run.close()
    assert capsys.readouterr().err.count("will not be restored") == 1
    assert begin.resume(run.run_dir).step == 400


def test_evaluations_leave_training_alone(tmp_path: Path) -> None:
    weights = []
    for every in (0, 200):
        run = start(tmp_path, eval_every=every)
        run.run(console=False)
        run.close()
        weights.append(run.agent.online.first.weight)  # type: ignore[attr-defined]
    assert torch.equal(*weights)


def test_without_evaluations_one_environment_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path / "a run", steps=80, eval_episodes=0)
    monkeypatch.setattr("agents.session.make", Mock(side_effect=AssertionError("a second one")))
    assert run.run() is None
    run.close()
    told = capsys.readouterr().err
    assert (
        f"trained to the end, and not evaluated; score it with:\n  agents eval '{run.run_dir}'"
        in told
    )
    assert not (run.run_dir / "result.json").exists()
    assert agents.load(run.run_dir)


def scored(run: Session, monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the evaluations of a run have these mean scores, one after the other."""
    left = iter(scores)
    monkeypatch.setattr("agents.session.summary", lambda *_: {"mean": next(left), "text": "told"})
    run.run(console=False)
    run.close()
    assert list(left) == []


def test_the_best_agent_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tmp_path, eval_every=200)
    # the first of equals, and none twice at the end
    scored(run, monkeypatch, [1, 3, float("nan"), 3])
    assert set(checkpoint.steps(run.run_dir, "best")) == {400}
    (kept,) = (run.run_dir / "best").iterdir()
    assert not (kept / "replay").exists()
    ours = checkpoint.load_tree(kept / "state")
    assert ours["score"] == 3
    run = begin.resume(run.run_dir, 1200)
    scored(run, monkeypatch, [2.5, 2.9])
    best = agents.load(run.run_dir, best=True).agent.state_dict()["online"]
    assert all(torch.equal(best[name], value) for name, value in ours["agent"]["online"].items())
    run = begin.resume(run.run_dir, 1600)
    scored(run, monkeypatch, [9, 4])
    assert set(checkpoint.steps(run.run_dir, "best")) == {1400}
    assert evaluate_run(run.run_dir, 2, best=True)["step"] == 1400
    assert play(run.run_dir, tmp_path / "film.mp4", best=True)["step"] == 1400
    assert evaluate_run(run.run_dir, 2)["step"] == 1600
    edit(run.run_dir, gamma=0.1)
    with pytest.raises(CheckpointError, match="was trained with gamma"):
        agents.load(run.run_dir, best=True)


def test_a_run_without_a_best_agent_says_so(tmp_path: Path) -> None:
    run = start(tmp_path, steps=80)
    run.run(console=False)
    run.close()
    with pytest.raises(FileNotFoundError, match="holds no best agent: only runs with --eval-every"):
        agents.load(run.run_dir, best=True)


def test_a_best_agent_that_finds_no_space_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path, eval_every=400, checkpoint_every=0)
    real, full = checkpoint.save, iter((True, False, False))

    def save(*args: Any, **options: Any) -> Path:
        if next(full):
            raise StorageError("no space left")
        return real(*args, **options)

    monkeypatch.setattr(checkpoint, "save", save)
    run.run()
    run.close()
    told = capsys.readouterr().err
    assert "the best agent so far, at step 400, isn't kept: no space left" in told
    assert set(checkpoint.steps(run.run_dir, "best")) == {800}


def test_a_full_disk_in_mid_run_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path)
    real, calls = run.save, iter(range(10))

    def save(**options: bool) -> Path:
        if next(calls) == 0:
            raise StorageError("no space left")
        return real(**options)

    monkeypatch.setattr(run, "save", save)
    run.run()
    run.close()
    assert "no checkpoint at step 400: no space left" in capsys.readouterr().err
    assert set(checkpoint.steps(run.run_dir)) == {800}


def test_a_full_disk_at_the_end_still_tells_the_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path, checkpoint_every=0)
    monkeypatch.setattr(run, "save", Mock(side_effect=StorageError("no space left")))
    with pytest.raises(StorageError, match="no space left"):
        run.run()
    run.close()
    assert "score" in capsys.readouterr().err


def test_learning_does_not_go_backwards(tmp_path: Path) -> None:
    run = start(tmp_path, steps=400)
    run.learn(console=False)
    with pytest.raises(ValueError, match="steps is 100; the run in .* stands at step 400"):
        run.learn(100, console=False)
    run.close()


def test_a_hang_up_saves_and_nohup_is_heeded(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup too
    try:
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.wait(5)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wait(0.2)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replay_capacity": 30}, "learning_starts is 40; it must not exceed replay_capacity, 30"),
        ({"update_every": 1e-300}, "update_every is 1e-300; it must be at least 0.001"),
        ({"protocol": "natur"}, "unknown protocol 'natur'; did you mean nature"),
        ({"protocol": "sb3"}, "protocol is 'sb3', and says nothing outside Atari"),
        ({"eval_every": 9, "eval_episodes": 0}, "eval_every is 9, and eval_episodes 0 evaluates"),
        ({"num_envs": 10**6}, "num_envs is 1000000; it must be at most 4096"),
    ],
)
def test_refusals_leave_no_folder(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_value_is_held_to_the_preset_that_the_environment_chooses(tmp_path: Path) -> None:
    options = {"env": "CartPole-v1", "replay_capacity": 5_000, "out": str(tmp_path)}
    made = begin.create("dqn", None, options)
    made.close()
    assert made.config.preset == "classic"
    with pytest.raises(ValueError, match="learning_starts is 20000"):
        begin.create("dqn", None, {**options, "env": "tests.support:TaggedEnv"})


def test_films_never_take_anothers_name(tmp_path: Path) -> None:
    from agents.film import numbered

    assert numbered(tmp_path / "videos", ".mp4").name == "001.mp4"
    (tmp_path / "videos" / "002.mp4").touch()
    assert numbered(tmp_path / "videos", ".mp4").name == "003.mp4"


def test_networks_beyond_memory_are_named(tmp_path: Path) -> None:
    with pytest.raises(MemoryError, match="hidden is 1000000000000"):
        start(tmp_path, hidden=10**12)
    assert not any(tmp_path.iterdir())


def test_a_run_too_short_to_learn_says_so(tmp_path: Path) -> None:
    run = start(tmp_path, steps=40)
    assert "nothing will be learned" in run.notes[0]
    run.close()


def test_continuous_actions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="dqn needs discrete actions and Pendulum-v1 takes Box.*use ddpg"
    ):
        begin.create("dqn", None, {"env": "Pendulum-v1", "out": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_a_film_of_a_run(tmp_path: Path) -> None:
    import av

    run = start(tmp_path, steps=100, learning_starts=300)
    run.run(console=False)
    run.close()
    told = play(run.run_dir, tmp_path / "film.mp4", episodes=2)
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        # a picture a step, and one of the reset between the episodes
        assert sum(1 for _ in film.decode(stream)) == sum(told["lengths"]) + 1 == 13


def test_players_take_raw_observations(tmp_path: Path) -> None:
    import gymnasium

    dqn = agents.DQN.on("CartPole-v1", steps=200, out=str(tmp_path), eval_episodes=1, threads=1)
    player = dqn.learn(console=False)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    loaded = agents.load(dqn.run_dir)
    for _ in range(5):
        action = loaded.act(observation)
        assert action == player.act(observation)
        observation = env.step(action)[0]
    with pytest.raises(ValueError, match=r"shape \(3,\); this agent was trained on \(4,\)"):
        loaded.act(np.zeros(3))
    dqn.close()


def test_a_player_stacks_as_training_does(tmp_path: Path) -> None:
    """Each part its own number of frames, of observations whose memory is used anew."""
    from agents.loop import rollout
    from envs import make

    run = start(tmp_path, steps=40, eval_episodes=0)
    run.run(console=False)
    run.close()
    player, env = agents.load(run.run_dir), make(run.config.env, seed=3, num_envs=1)
    seen = rollout(run.agent, env)
    buffer, step = np.zeros((16, 20), np.uint8), 0
    for observation, _, _, ended in seen:
        stack = observation[0].numpy()  # type: ignore[index]
        buffer[:] = stack[-1]
        before = player.values(buffer)
        chosen = player.act(buffer)
        assert np.array_equal(player.seen[0].numpy(), stack)  # type: ignore[index]
        assert np.array_equal(player.values(buffer), before) and before.shape == (3,)
        assert chosen == before.argmax() == player.chosen
        twin = copy.deepcopy(pickle.loads(pickle.dumps(player)))
        assert twin.act(255 - buffer) in range(3) and np.array_equal(player.values(buffer), before)
        step += 1
        if ended:
            break
    assert step == 5
    player.reset()
    assert np.array_equal(
        player.values(buffer),
        player.agent.values(torch.from_numpy(np.stack([buffer] * 4)[None]))[0].numpy(),
    )
    env.close()


def test_student_t_against_the_tables() -> None:
    for freedom, quantile in (
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (5, 2.571),
        (29, 2.045),
        (99, 1.984),
    ):
        assert student_t(freedom) == pytest.approx(quantile, rel=1e-2)


def test_cartpole_is_solved(tmp_path: Path) -> None:
    """Mean return of at least 475 over 100 episodes (Gymnasium's mark), as shipped."""
    begin = time.perf_counter()
    dqn = agents.DQN.on("CartPole-v1", out=str(tmp_path), eval_episodes=100)
    dqn.learn(console=False)
    dqn.close()
    result = json.loads((dqn.run_dir / "result.json").read_text())
    print(f"CartPole-v1: {result['text']}; {time.perf_counter() - begin:.0f} s")
    assert result["mean"] >= 475
