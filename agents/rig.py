"""Training through a camera: what a run must know of its rig, and keep for the day it acts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.config import TrainConfig
from agents.process import write_text
from envs.camera.env import CameraEnv
from envs.camera.view import FILE, View, saved
from envs.find import find_callable
from envs.make import resolve
from envs.vector import VectorEnv


def single(chosen: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """`chosen` with one environment where that is a class of CameraEnv: a rig is there once.

    Each of its steps is acted on, too, whatever a preset for simulators repeats: the rig has a rate
    of its own, at which `agents run` will act. Raises ValueError where more environments were asked
    for.
    """
    name = resolve(chosen.env.env)
    if name.kind != "class":
        return chosen
    made = find_callable(name.id, "environment", "class")
    if not (isinstance(made, type) and issubclass(made, CameraEnv)):
        return chosen
    if overrides.get("num_envs", 1) != 1:
        raise ValueError(
            f"num_envs is {chosen.env.num_envs}; a camera and its rig are one environment: "
            "num_envs 1"
        )
    return chosen.replace(num_envs=1, action_repeat=overrides.get("action_repeat", 1))


def keep_view(run_dir: Path, env: Any) -> None:
    """Write down what an environment makes of its camera's pictures, where it has one.

    Raises ValueError where the folder holds another view: what was learned would not fit.
    """
    view = getattr(env, "view", None)
    if not isinstance(view, View):
        return
    before = saved(run_dir)
    if before is None:
        write_text(run_dir / FILE, view.to_json())
    elif told := view.differences(before):
        raise ValueError(f"{run_dir} was trained through another view: {told} there")


def pace(env: VectorEnv) -> str:
    """What a run says of an evaluation that lasts as long as its rig takes; empty for others."""
    if not isinstance(getattr(env, "view", None), View):
        return ""
    return f" on the rig, in real time at {env.frame_rate:g} steps/s"
