"""A run: environment, agent and replay put together, and what it writes into its folder."""

from __future__ import annotations

import json
import math
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from agents import checkpoint
from agents.agent import Agent
from agents.config import TrainConfig
from agents.errors import StorageError
from agents.evaluate import counted, evaluation_epsilon, lanes, summary
from agents.kept import best_score, kept, save_best
from agents.log import Logger
from agents.loop import Tick, evaluate, observation_field, train
from agents.player import Player
from agents.precision import flushing
from agents.process import locked, stoppable, write_text
from agents.rig import pace
from configs.loader import to_dict
from envs import EnvFault, make
from envs.vector import VectorEnv
from replay import FeatureReplay, PrioritizedReplay

SHOWN = ("loss", "q", "epsilon", "noise")
"""Metrics that the progress bar tells."""

ALIKE = 20
"""Episodes in a row from the first that score the same before a run says so."""

SEED_TRAIN, SEED_EVAL, SEED_REPLAY, SEED_RESUME = range(4)


@dataclass
class Session:
    """One run, ready to go on.

    `run()` trains to the end and writes all that there is to tell into `run_dir`. As a context
    manager it closes at the end.
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
    newest: int = -1
    """Step of the folder's newest checkpoint, as this session knows it; -1 for none."""
    _metrics: dict[str, Tensor] = field(default_factory=dict)
    _told: int = 0
    _saved: int = -1
    _dropped: int = 0
    _alike: int = 0
    _score: float = 0.0
    _best: float | None = None

    def run(self, *, console: bool = True) -> dict[str, Any] | None:
        """Train to the last step, save, evaluate, and return the evaluation's result, if any.

        A fault of the environment is raised after a checkpoint was written. Ctrl-C (or SIGTERM)
        ends the step, writes a checkpoint and raises KeyboardInterrupt; a second one stops at once.
        """
        run = self.config.run
        with (
            self._alone(),
            Logger(self.run_dir, run.steps, self.step, console=console) as log,
            stoppable() as stop,
        ):
            self._tell_notes(log)
            log.message(self._describe())
            options = self.config.flat().items()
            rows = "".join(f"\n| {name} | {value} |" for name, value in options)
            log.text(self.step, "config", f"| option | value |\n|---|---|{rows}")
            try:
                for tick in self.ticks():
                    self._log(log, tick)
                    if _crossed(run.explain_every, tick.step, self.env.num_envs):
                        self._explain(log)
                    if stop.is_set() or tick.step >= run.steps:
                        break
                    if _crossed(run.checkpoint_every, tick.step, self.env.num_envs):
                        self._try_save(log)
                    if _crossed(run.eval_every, tick.step, self.env.num_envs):
                        found = self._evaluate(log, stop)
                        log.message(found["text"] if found else "evaluation stopped")
            except EnvFault as fault:
                try:
                    unsaved = self._try_save(log, last=True, broken=True)
                except FloatingPointError as diverged:
                    unsaved = diverged
                if unsaved is not None:
                    fault.add_note(f"no checkpoint at step {self.step:,}: {unsaved}")
                raise
            unsaved = self._try_save(log, last=True)
            evaluates = run.eval_episodes and not stop.is_set()
            result = self._evaluate(log, stop) if evaluates else None
            log.close()  # what follows is the last thing to be read
            if result is not None:
                log.message(result["text"])
                write_text(self.run_dir / "result.json", json.dumps(result, indent=1) + "\n")
            if unsaved is not None:
                raise unsaved
            if result is None:
                log.message(self._how_to_go_on())
                if stop.is_set():
                    raise KeyboardInterrupt(f"stopped at step {self.step}")
            return result

    def learn(self, steps: int | None = None, *, console: bool = True) -> Player:
        """Train to agent step `steps` (the config's, unless given) and return the player."""
        if steps is not None:
            chosen = self.config.replace(steps=steps)
            require_ahead(chosen.run.steps, self.step, self.run_dir)
            with self._alone():
                self.config = chosen
                self.config.save(self.run_dir)
        self.run(console=console)
        return self.player()

    def player(self) -> Player:
        """The agent as it stands, acting on raw observations."""
        return Player.of(self.agent, self.env)

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, *, broken: bool = False, replay: bool = True) -> Path:
        """Write a checkpoint of everything, and return its folder.

        The state of a `broken` environment is left out, so that its episodes begin anew; without
        `replay` so is the replay, as where the config says so. Raises FloatingPointError, and
        writes nothing, where learning has diverged.
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
                **kept(self.config, self.env),
            }
            checkpoint.save_tree(folder / "state", state)
            if replay and self.config.run.save_replay:
                (folder / "replay").mkdir()
                self.replay.save(folder / "replay", previous)

        written = checkpoint.save(self.run_dir, self.step, write, own_crc=("replay",))
        self.newest = max(checkpoint.steps(self.run_dir))
        return written

    def ticks(self) -> Iterator[Tick]:
        """Train, a vector step at a time, and write nothing: what `run` reads.

        Raises FloatingPointError where learning diverged so far that the agent can't act.
        """
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
        try:
            while True:
                with flushing():
                    tick = next(ticks, None)
                if tick is None:
                    return
                self.step, self.updates, self.credit = tick.step, tick.updates, tick.credit
                self._metrics = tick.metrics
                yield tick
        except FloatingPointError as error:
            raise self._diverged(str(error)) from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others out of the folder; ValueError where one is in it, or went on with the run."""
        with locked(self.run_dir):
            if (newest := max(checkpoint.steps(self.run_dir), default=-1)) != self.newest:
                raise ValueError(
                    f"another session has gone on with {self.run_dir} since this one began, to "
                    f"step {newest:,}: resume the run anew"
                )
            yield

    def _try_save(
        self, log: Logger, *, last: bool = False, broken: bool = False
    ) -> Exception | None:
        """A checkpoint; where it can't be written the run goes on, and the reason is returned.

        The `last` one is written without the replay where there is no room for it; `broken` as in
        `save`.
        """
        if self._saved == self.step and not broken:
            return None
        log.flush()
        try:
            self.save(broken=broken)
        except StorageError as error:
            log.message(f"no checkpoint at step {self.step:,}: {error}")
            if not last:
                return error
            try:
                self.save(broken=broken, replay=False)
            except StorageError:
                return error
            log.message(f"without the replay there is one at step {self.step:,}")
        finally:
            self._tell_notes(log)
        self._saved = self.step
        return None

    def _how_to_go_on(self) -> str:
        folder, run = shlex.quote(str(self.run_dir)), self.config.run
        if self.step < run.steps:
            return f"stopped at step {self.step:,}; go on with:\n  agents train --resume {folder}"
        why = "stopped in the evaluation" if run.eval_episodes else "not evaluated"
        return f"trained to the end, and {why}; score it with:\n  agents eval {folder}"

    def _tell_notes(self, log: Logger) -> None:
        """Tell those notes that were not told yet."""
        for note in self.notes[self._told :]:
            log.message(note)
        self._told = len(self.notes)

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
                raise self._diverged(f"{name} became {float(value)} by step {self.step}")

    def _diverged(self, what: str) -> FloatingPointError:
        rates = to_dict(self.config.agent).items()
        told = ", ".join(f"{n} is {v}" for n, v in rates if n.endswith("_rate") and v)
        return FloatingPointError(
            f"{what}: learning diverged; a smaller learning rate may hold it ({told}), and so may "
            "observations and rewards around 1"
        )

    def _log(self, log: Logger, tick: Tick) -> None:
        for episode in tick.episodes:
            log.episode(tick.step, episode.score, episode.length)
            self._watch(log, episode.score)
        for drop in tick.dropped:
            self._dropped += 1
            log.message(f"episode dropped at step {tick.step:,} ({self._dropped}): {drop.reason}")
        if not _crossed(self.config.run.log_every, tick.step, self.env.num_envs):
            log.progress(tick.step)
            return
        self._require_finite()
        metrics = {name: float(value) for name, value in tick.metrics.items()}
        spent = {f"seconds/{part}": value for part, value in tick.seconds.items()}
        counts = {"updates": tick.updates, "replay/nan_errors": self.replay.nan_count}
        if self._dropped:
            counts["episodes_dropped"] = self._dropped
        log.scalars(tick.step, {**metrics, **tick.schedule, **counts, **spent})
        shown = {**metrics, **tick.schedule}
        log.progress(tick.step, **{name: shown[name] for name in SHOWN if name in shown})

    def _watch(self, log: Logger, score: float) -> None:
        """Say once where no episode was better than another, so that none teaches anything."""
        if self._alike < 0:
            return
        same = self._alike == 0 or score == self._score
        self._score, self._alike = score, self._alike + 1 if same else -1
        if self._alike == ALIKE:
            self._alike = -1
            by_chance = getattr(self.config.agent, "random_hold", 0) == 1
            hint = "; the preset sparse explores for rare ones" if by_chance else ""
            log.message(
                f"the first {ALIKE} episodes all scored {score:g}: rewards may be too rare to be "
                f"met by chance{hint}"
            )

    def _evaluate(self, log: Logger, stop: threading.Event) -> dict[str, Any] | None:
        """Evaluate, write the score down and return it; None where `stop` came before the end."""
        run = self.config.run
        log.message(f"evaluating {counted(run.eval_episodes, 'episode')}{pace(self.env)} ...")
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
                log.evaluating(len(episodes), run.eval_episodes)
                if stop.is_set():
                    return None
            result = summary(episodes, env, epsilon) | {"step": self.step}
        finally:
            env.close()
        log.scalars(self.step, {"evaluation/score": result["mean"]})
        if run.eval_every:
            self._keep_best(log, result["mean"])
        return result

    def _keep_best(self, log: Logger, score: float) -> None:
        """Keep the agent where no evaluation so far, before a resume included, scored as high."""
        self._require_finite()
        if self._best is None:
            self._best = best_score(self.run_dir)
        if not score > self._best:  # NaN, too
            return
        state = {"step": self.step, "score": score, "agent": self.agent.state_dict()}
        try:
            save_best(self.run_dir, state | kept(self.config, self.env))
            self._best = score
        except StorageError as error:
            log.message(f"the best agent so far, at step {self.step:,}, isn't kept: {error}")

    def _explain(self, log: Logger) -> None:
        """A still of what the agent looks at in the first lane."""
        from agents.explain import Painter, camera_of, shown

        spec = observation_field(self.env)
        camera = camera_of(spec, self.config.env.env)
        replay = self.replay
        observation = (replay.recent if isinstance(replay, FeatureReplay) else replay).latest()
        draw = np.random.default_rng(0)  # of its own, which leaves training's alone
        best = self.agent.act(observation, explore=False, explorer=draw)
        encoder = self.config.agent.encoder
        paint = Painter(self.agent, self.env.actions, encoder, camera)
        log.image(self.step, "grad_cam", paint(observation, best, shown(observation, spec, camera)))

    def _describe(self) -> str:
        replay = self.replay
        protocol = self.env.protocol
        return (
            f"{self.config.algorithm} ({self.config.preset}) on {self.config.env.env}: "
            f"{counted(self.env.num_envs, 'environment')}, {self.agent.device}, replay "
            f"{replay.capacity:,} transitions ({replay.nbytes / 1e9:.3g} GB when full) on "
            f"{replay.device}\n"
            + (f"protocol {protocol.describe()}\n" if protocol else "")
            + f"run folder {self.run_dir}"
        )


def derive(seed: int, *use: int) -> int:
    """A seed for one use of a run's seed, independent of the others."""
    return int(np.random.SeedSequence((seed, *use)).generate_state(1)[0])


def require_ahead(steps: int, step: int, folder: Path) -> None:
    """Raise ValueError where `steps` lie behind the run."""
    if steps < step:
        raise ValueError(f"steps is {steps}; the run in {folder} stands at step {step} already")


def _crossed(every: int, step: int, width: int) -> bool:
    """Whether the last vector step, of `width` agent steps, reached a multiple of `every`."""
    return every > 0 and step // every > (step - width) // every
