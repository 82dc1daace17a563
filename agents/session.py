"""A run: its folder, and environment, agent and replay put together, started or resumed."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents import checkpoint, config
from agents.build import build_agent, build_replay, pick_device, restore
from agents.config import TrainConfig
from agents.errors import CheckpointError, StorageError
from agents.evaluate import evaluation_epsilon, lanes, summary
from agents.log import Logger
from agents.loop import Agent, Tick, evaluate, observation_field, train
from agents.player import Player
from agents.process import keep_freed_memory, locked, stoppable, write_text
from envs import EnvFault, make
from envs.vector import VectorEnv
from replay import PrioritizedReplay

SHOWN = ("loss", "epsilon")
"""Metrics that the progress bar tells."""

SEED_TRAIN, SEED_EVAL, SEED_REPLAY, SEED_RESUME = range(4)


@dataclass
class Session:
    """One run, ready to go on.

    `run()` trains to the end and writes all that there is to tell into `run_dir`.
    """

    run_dir: Path
    config: TrainConfig
    env: VectorEnv
    agent: Agent
    replay: PrioritizedReplay
    step: int = 0
    updates: int = 0
    credit: float = 0.0
    notes: list[str] = field(default_factory=list)
    _metrics: dict[str, Tensor] = field(default_factory=dict)

    def run(self, *, console: bool = True) -> dict[str, Any]:
        """Train to the last step, save, evaluate, and return the evaluation's result.

        A fault of the environment is raised after a checkpoint was written. Ctrl-C (or SIGTERM)
        ends the step, writes a checkpoint and raises KeyboardInterrupt; a second one stops at once.
        """
        run = self.config.run
        with (
            locked(self.run_dir),
            Logger(self.run_dir, run.steps, self.step, console=console) as log,
            stoppable() as stop,
        ):
            for note in self.notes:
                log.message(note)
            log.message(self._describe())
            try:
                for tick in self.ticks():
                    self._log(log, tick)
                    if _crossed(run.checkpoint_every, tick.step, self.env.num_envs):
                        self._save_and_go_on(log)
                    if _crossed(run.eval_every, tick.step, self.env.num_envs):
                        self._evaluate(log, stop)
                    if _crossed(run.explain_every, tick.step, self.env.num_envs):
                        self._explain(log)
                    if stop.is_set():
                        break
            except EnvFault:
                log.flush()
                self.save(broken=True)
                raise
            log.flush()
            self.save()
            result = None if stop.is_set() else self._evaluate(log, stop)
            if result is None:
                log.message(f"stopped at step {self.step:,}; go on with:")
                log.message(f"  agents train --resume {self.run_dir}")
                raise KeyboardInterrupt
            write_text(self.run_dir / "result.json", json.dumps(result, indent=1) + "\n")
            return result

    def learn(self, steps: int | None = None, *, console: bool = True) -> Player:
        """Train to agent step `steps` (the config's, unless given) and return the player."""
        if steps is not None:
            self.config = self.config.replace(steps=steps)
            self.config.save(self.run_dir)
        self.run(console=console)
        return self.player()

    def player(self) -> Player:
        """The agent as it stands, acting on raw observations."""
        return Player(
            self.agent,
            observation_field(self.env),
            first_action=self.env.first_action,
            atari=self.env.protocol is not None,
        )

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def save(self, *, broken: bool = False) -> Path:
        """Write a checkpoint of everything, and return its folder.

        The state of a `broken` environment is left out, so that its episodes begin anew. Raises
        FloatingPointError, and writes nothing, where learning has diverged.
        """
        self._require_finite()
        before = checkpoint.steps(self.run_dir)
        previous = before[max(before)] / "replay" if before else None

        def write(folder: Path) -> None:
            state = {
                "step": self.step,
                "agent": self.agent.state_dict(),
                "env": None if broken else self._env_state(),
                "updates": self.updates,
                "credit": self.credit,
            }
            checkpoint.save_tree(folder / "state", state)
            if self.config.run.save_replay:
                (folder / "replay").mkdir()
                self.replay.save(folder / "replay", previous)

        return checkpoint.save(self.run_dir, self.step, write, own_crc=("replay",))

    def ticks(self) -> Iterator[Tick]:
        """Train, a vector step at a time, and write nothing: what `run` reads."""
        options = self.config.agent
        ticks = train(
            self.agent,
            self.env,
            self.replay,
            steps=self.config.run.steps,
            batch_size=options.batch_size,
            update_every=options.update_every,
            learning_starts=options.learning_starts,
            step=self.step,
            updates=self.updates,
            credit=self.credit,
        )
        for tick in ticks:
            self.step, self.updates, self.credit = tick.step, tick.updates, tick.credit
            self._metrics = tick.metrics
            yield tick

    def _save_and_go_on(self, log: Logger) -> None:
        """A checkpoint in mid-run: where the disk is full, training goes on to the next one."""
        log.flush()
        try:
            self.save()
        except StorageError as error:
            log.message(f"no checkpoint at step {self.step:,}: {error}; training goes on")

    def _env_state(self) -> dict[str, Any] | None:
        """The environment's state as plain JSON; None, with a note, where it can't be written."""
        try:
            state = json.loads(json.dumps(self.env.get_state()))
        except (TypeError, ValueError) as error:
            note = f"this environment will not be restored: {error}"
            if note not in self.notes:
                self.notes.append(note)
            return None
        return state if isinstance(state, dict) else None

    def _require_finite(self) -> None:
        for name, value in self._metrics.items():
            if not math.isfinite(float(value)):
                raise FloatingPointError(
                    f"{name} became {float(value)} by step {self.step}: learning diverged; a "
                    f"smaller learning_rate ({self.config.agent.learning_rate} here) may hold it"
                )

    def _log(self, log: Logger, tick: Tick) -> None:
        for episode in tick.episodes:
            log.episode(tick.step, episode.score, episode.length)
        if not _crossed(self.config.run.log_every, tick.step, self.env.num_envs):
            log.progress(tick.step)
            return
        self._require_finite()
        metrics = {name: float(value) for name, value in tick.metrics.items()}
        spent = {f"seconds/{part}": value for part, value in tick.seconds.items()}
        counts = {"updates": tick.updates, "replay/nan_errors": self.replay.nan_count}
        log.scalars(tick.step, {**metrics, **tick.schedule, **counts, **spent})
        shown = {**metrics, **tick.schedule}
        log.progress(tick.step, **{name: shown[name] for name in SHOWN if name in shown})

    def _evaluate(self, log: Logger, stop: threading.Event) -> dict[str, Any] | None:
        """Evaluate, write the score down and return it; None where `stop` came before the end."""
        run = self.config.run
        log.message(f"evaluating {run.eval_episodes} episodes ...")
        env = make(
            self.config.env,
            seed=derive(run.seed, SEED_EVAL),
            num_envs=lanes(self.config.env, run.eval_episodes),
            evaluation=True,
        )
        try:
            epsilon = evaluation_epsilon(env)
            episodes = []
            for ended in evaluate(self.agent, env, run.eval_episodes, epsilon, run.seed):
                episodes += ended
                if stop.is_set():
                    return None
            result = summary(episodes, env, epsilon) | {"step": self.step}
        finally:
            env.close()
        log.scalars(self.step, {"evaluation/score": result["mean"]})
        log.message(result["text"])
        return result

    def _explain(self, log: Logger) -> None:
        """A still of what the agent looks at in the first lane."""
        from agents.explain import look, newest, still

        observation = self.replay.latest()
        assert isinstance(observation, Tensor)
        best = self.agent.values(observation[:1]).argmax(1).cpu().numpy()
        cam, values = look(self.agent, observation[:1], best)
        picture = newest(observation[0], self.env.stack)
        names = self.env.action_names
        log.image(self.step, "grad_cam", still(picture, cam[0], values[0], int(best[0]), names))

    def _describe(self) -> str:
        replay = self.replay
        protocol = self.env.protocol
        return (
            f"{self.config.algorithm} ({self.config.preset}) on {self.config.env.env}: "
            f"{self.env.num_envs} environments, {self.agent.device}, replay {replay.capacity:,} "
            f"transitions ({replay.nbytes / 1e9:.1f} GB when full) on {replay.device}\n"
            + (f"protocol {protocol.describe()}\n" if protocol else "")
            + f"run folder {self.run_dir}"
        )


def create(algorithm: str, preset: str | None, overrides: Mapping[str, Any]) -> Session:
    """A new run with a folder of its own.

    Raises ValueError or TypeError, in one line, for a wrong option, environment or encoder, and
    MemoryError where the replay does not fit; nothing is written then.
    """
    chosen = _resolve(algorithm, preset, overrides)
    session = _assemble(Path(), chosen, seed=chosen.run.seed, pretrained=True)
    try:
        if chosen.run.explain_every and len(session.env.frame_space.shape) != 3:
            raise ValueError(
                f"explain_every is {chosen.run.explain_every}; stills are of agents that see "
                f"images, and {chosen.env.env!r} shows vectors"
            )
        session.replay.reset(session.env.reset())
        session.run_dir = config.make_run_dir(chosen)
        chosen.save(session.run_dir)
    except BaseException:
        session.close()
        raise
    if chosen.agent.distributional and session.env.protocol is None:
        session.notes.append(
            f"returns are learned between v_min, {chosen.agent.v_min:g}, and v_max, "
            f"{chosen.agent.v_max:g}; give what this environment's can reach, or "
            "--no-distributional"
        )
    if chosen.run.steps <= chosen.agent.learning_starts:
        session.notes.append(
            f"nothing will be learned: {chosen.run.steps:,} steps end before learning_starts, "
            f"{chosen.agent.learning_starts:,}"
        )
    return session


def _resolve(algorithm: str, preset: str | None, overrides: Mapping[str, Any]) -> TrainConfig:
    """The config; where no preset is named, on the one that suits what the environment shows."""
    try:
        chosen = config.resolve(algorithm, preset, overrides, image=True)
    except ValueError:
        if preset is not None:
            raise
        # a value that only the preset for vectors admits
        chosen = config.resolve(algorithm, None, overrides, image=False)
        if _shows_images(chosen):
            raise
        return chosen
    if preset is None and not _shows_images(chosen):
        return config.resolve(algorithm, None, overrides, image=False)
    return chosen


def resume(folder: Path, steps: int | None = None) -> Session:
    """The run in `folder`, from its newest whole checkpoint; `steps` sets a new end.

    A checkpoint whose replay is damaged is passed over, too. Where the environment can't be
    restored (Atari's vector environment offers no state) its episodes begin anew. Notes say so.
    """
    folder = Path(folder)
    chosen = config.load(folder)
    if steps is not None:
        chosen = chosen.replace(steps=steps)
    notes: list[str] = []
    with locked(folder):
        found = checkpoint.latest(folder, notes.append)
        while True:
            state = checkpoint.load_tree(found / "state")
            session = _resume_from(found, state, folder, chosen)
            try:
                _refill(session, found, state["env"])
                break
            except (ValueError, OSError) as error:
                session.close()
                notes.append(str(error))
                try:
                    found = checkpoint.latest(folder, notes.append, before=session.step)
                except CheckpointError:
                    raise error from None
        if steps is not None:
            chosen.save(folder)
    at = f"resumed at step {session.step:,} of {chosen.run.steps:,}"
    session.notes = [*notes, *session.notes, at]
    return session


def _resume_from(found: Path, state: dict[str, Any], folder: Path, chosen: TrainConfig) -> Session:
    """A session with the agent and the counters of a checkpoint; its replay is empty yet."""
    step = state["step"]
    if chosen.run.steps < step:
        raise ValueError(
            f"steps is {chosen.run.steps}; the run in {folder} stands at step {step} already"
        )
    session = _assemble(folder, chosen, seed=derive(chosen.run.seed, SEED_RESUME, step))
    restore(session.agent, state["agent"], found)
    session.step, session.updates, session.credit = step, state["updates"], state["credit"]
    return session


def _refill(session: Session, found: Path, state: dict[str, Any] | None) -> None:
    """Fill replay and environments from a checkpoint, as far as it holds them."""
    frame = session.env.reset()
    if not (found / "replay").is_dir():
        session.replay.reset(frame)
        session.notes.append(
            "the replay was not saved: it fills anew before learning goes on "
            f"({session.config.agent.learning_starts:,} steps)"
        )
        return
    session.replay.load(found / "replay")
    if state is not None:
        session.env.set_state(state)
    else:
        session.replay.reset(frame)
        session.notes.append("this environment can't be restored: its episodes begin anew")


def derive(seed: int, *use: int) -> int:
    """A seed for one use of a run's seed, independent of the others."""
    return int(np.random.SeedSequence((seed, *use)).generate_state(1)[0])


def _assemble(folder: Path, chosen: TrainConfig, seed: int, *, pretrained: bool = False) -> Session:
    torch.set_num_threads(chosen.run.threads or os.cpu_count() or 1)
    keep_freed_memory()
    env = make(chosen.env, seed=derive(seed, SEED_TRAIN))
    device = pick_device(chosen.run.device)
    agent = build_agent(chosen, env, chosen.run.seed, device, pretrained=pretrained)
    notes = [agent.report] if agent.report else []
    replay = build_replay(chosen, env, agent, derive(chosen.run.seed, SEED_REPLAY), notes)
    return Session(folder, chosen, env, agent, replay, notes=notes)


def _shows_images(chosen: TrainConfig) -> bool:
    env = make(chosen.env, seed=0, num_envs=1)
    try:
        return len(env.frame_space.shape) == 3
    finally:
        env.close()


def _crossed(every: int, step: int, width: int) -> bool:
    """Whether the last vector step, of `width` agent steps, reached a multiple of `every`."""
    return every > 0 and step // every > (step - width) // every
