"""How a run begins: a new one in a folder of its own, or an old one where it was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agents import checkpoint, config
from agents.build import (
    build_agent,
    build_replay,
    compile_agent,
    pick_device,
    require_actions,
    restore,
)
from agents.checkpoint import NewerSchema
from agents.config import TrainConfig
from agents.errors import CheckpointError
from agents.kept import require_environment, require_options
from agents.loop import shows_images
from agents.precision import flushing, threads_for
from agents.process import keep_freed_memory, locked
from agents.rig import keep_view, single
from agents.session import SEED_REPLAY, SEED_RESUME, SEED_TRAIN, Session, derive, require_ahead
from configs.loader import load_preset
from envs import EnvFault, make
from envs.config import EnvConfig
from envs.make import ATARI_ONLY, PIXELS_ONLY, resolve
from replay.snapshot import DamagedSnapshot
from vision.joint import require_maps


def create(algorithm: str, preset: str | None, overrides: Mapping[str, Any]) -> Session:
    """A new run with a folder of its own.

    Raises ValueError or TypeError, in one line, for a wrong option, environment or encoder, and
    MemoryError where the replay does not fit; nothing is written then.
    """
    usual = load_preset(algorithm, preset or "default").get("env", EnvConfig.env)
    name = overrides.get("env", usual)
    if not isinstance(name, str):
        raise TypeError(
            f"env is {name!r}; expected a name, such as 'Pendulum-v1', or package.module:Class for "
            "a class of your own"
        )
    # before its preset's options are judged
    if config.lookup(algorithm).continuous and resolve(name).kind == "atari":
        require_actions(algorithm, name, False, "discrete ones")
    chosen = single(_resolve(algorithm, preset, overrides), overrides)
    if not chosen.env.pixels and (idle := [n for n in PIXELS_ONLY if n in overrides]):
        raise ValueError(f"{idle[0]} is {overrides[idle[0]]!r}, and says nothing without --pixels")
    agent = chosen.agent
    falls = "noise_start" in overrides and agent.noise_start != agent.noise_final
    if falls and not agent.noise_steps:
        raise ValueError(
            f"noise_start is {agent.noise_start:g}, and says nothing while noise_steps is 0: noise "
            f"is noise_final, {agent.noise_final:g}, from the first step"
        )
    session = _assemble(Path(), chosen, chosen.run.seed)
    try:
        if chosen.run.explain_every and not shows_images(session.env):
            raise ValueError(
                f"explain_every is {chosen.run.explain_every}; stills are of agents that see "
                f"images, and {chosen.env.env!r} shows vectors"
            )
        if chosen.run.explain_every:
            require_maps(agent.encoder)
        if session.env.protocol is None and (idle := [n for n in ATARI_ONLY if n in overrides]):
            raise ValueError(
                f"{idle[0]} is {overrides[idle[0]]!r}, and says nothing outside Atari: leave it out"
            )
        session.replay.reset(session.env.reset())
        session.agent.values(session.replay.latest())  # what it can't digest is told here and now
        session.run_dir = config.make_run_dir(chosen)
        try:
            chosen.save(session.run_dir)
            keep_view(session.run_dir, session.env)
        except BaseException:
            shutil.rmtree(session.run_dir, ignore_errors=True)
            raise
    except BaseException:
        session.close()
        raise
    if getattr(chosen.agent, "distributional", False) and session.env.protocol is None:
        session.notes.append(
            f"returns are learned between v_min, {chosen.agent.v_min:g}, and v_max, "
            f"{chosen.agent.v_max:g}; give what this environment's can reach, or "
            "--no-distributional"
        )
    if chosen.agent.encoder == "flat" and shows_images(session.env):
        session.notes.append(
            "the encoder flat has no layers, and gives the agent's pictures as they are; others: "
            "agents list encoders"
        )
    if chosen.agent.encoder_freeze and not chosen.agent.encoder_weights:
        session.notes.append(
            "encoder_freeze holds an encoder without encoder_weights: its features stay random"
        )
    if chosen.run.steps <= chosen.agent.learning_starts:
        session.notes.append(
            f"nothing will be learned: the run has {chosen.run.steps:,} steps, and learning starts "
            f"after {chosen.agent.learning_starts:,}"
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


def resume(
    folder: Path,
    steps: int | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    compile: bool | None = None,
    graphs: bool | None = None,
) -> Session:
    """The run in `folder`, from its newest whole checkpoint.

    steps    sets a new end; None leaves it
    device, threads, compile, graphs  where and how it goes on; None as before

    A checkpoint whose replay is damaged is passed over, too. Where the environment can't be
    restored (Atari's vector environment offers no state) its episodes begin anew. Notes say so.
    Raises CheckpointError where other options of the config, or the environment's spaces, are not
    what the run was trained with, ValueError where another session is training there.
    """
    folder = Path(folder)
    changes = {"steps": steps, "device": device, "threads": threads}
    changes |= {"compile": compile, "graphs": graphs}
    changes = {name: value for name, value in changes.items() if value is not None}
    chosen = config.load(folder).replace(**changes)
    notes: list[str] = []
    with locked(folder):
        session = _restored(folder, chosen, notes)
        try:
            keep_view(folder, session.env)
            if changes:
                chosen.save(folder)
        except BaseException:
            session.close()
            raise
    at = f"resumed at step {session.step:,} of {chosen.run.steps:,}"
    session.notes = [*notes, *session.notes, at]
    return session


def _restored(folder: Path, chosen: TrainConfig, notes: list[str]) -> Session:
    """A session from the newest checkpoint that is whole, its replay included.

    Where there is none, from the newest that is whole but for the replay, which then fills anew.
    """
    before = None
    while True:
        try:
            found = checkpoint.latest(folder, notes.append, before)
        except NewerSchema:
            raise
        except CheckpointError:
            break
        try:
            return _taken_up(found, folder, chosen)
        except (DamagedSnapshot, OSError) as error:
            notes.append(str(error))
            before = int(checkpoint.verify(found, ("replay",))["step"])
    found = checkpoint.latest(folder, without=("replay",))
    return _taken_up(found, folder, chosen, with_replay=False)


def _taken_up(
    found: Path, folder: Path, chosen: TrainConfig, *, with_replay: bool = True
) -> Session:
    """A session as a checkpoint holds it, replay and environments as far as they are in it."""
    state = checkpoint.load_tree(found / "state")
    require_options(state, chosen, folder)
    step = state["step"]
    require_ahead(chosen.run.steps, step, folder)
    session = _assemble(folder, chosen, derive(chosen.run.seed, SEED_RESUME, step), state)
    try:
        restore(session.agent, state["agent"], found)
        session.newest = max(checkpoint.steps(folder))
        session.step, session.updates, session.credit = step, state["updates"], state["credit"]
        frame = session.env.reset()
        if not (with_replay and (found / "replay").is_dir()):
            session.replay.reset(frame)
            why = "was not saved" if with_replay else "can't be read"
            session.notes.append(
                f"the replay {why}: it fills anew before learning goes on "
                f"({chosen.agent.learning_starts:,} steps)"
            )
            return session
        session.replay.load(found / "replay")
        if state["env"] is not None:
            try:
                session.env.set_state(state["env"])
                return session
            except EnvFault as fault:
                session.notes.append(str(fault))
                frame = session.env.reset()
        session.replay.reset(frame)
        session.notes.append("this environment can't be restored: its episodes begin anew")
        return session
    except BaseException:
        session.close()
        raise


def _assemble(
    folder: Path, chosen: TrainConfig, seed: int, state: Mapping[str, Any] | None = None
) -> Session:
    """A session at step 0; where the `state` of a checkpoint is to follow, for what fits it."""
    torch.set_num_threads(threads_for(chosen.run.threads))
    keep_freed_memory()
    env = make(chosen.env, seed=derive(seed, SEED_TRAIN))
    try:
        if state is not None:
            require_environment(state, env, folder)
        device = pick_device(chosen.run.device)
        with flushing():  # the first arithmetic may start torch's threads
            agent = build_agent(chosen, env, chosen.run.seed, device, pretrained=state is None)
        notes = [agent.report] if agent.report else []
        if chosen.run.compile:
            compile_agent(agent)
            slow = "; on a CPU they are slower then" if device.type == "cpu" else ""
            notes.append(f"updates are compiled, and the first of them wait for it{slow}")
        replay = build_replay(chosen, env, agent, derive(chosen.run.seed, SEED_REPLAY), notes)
        return Session(folder, chosen, env, agent, replay, notes=notes)
    except BaseException:
        env.close()
        raise


def _shows_images(chosen: TrainConfig) -> bool:
    env = make(chosen.env, seed=0, num_envs=1)
    try:
        return shows_images(env)
    finally:
        env.close()
