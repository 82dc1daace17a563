"""From a name to a vector environment."""

from __future__ import annotations

import difflib
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from envs.config import EnvConfig
from envs.find import failed, find_callable, look_here
from envs.names import EnvName, names, resolve
from envs.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    import gymnasium

    from envs.vector import VectorEnv

__all__ = ["EnvName", "make", "names", "resolve"]

MOST_ENVS = 4096
"""Environments in one process, at most."""

ATARI_ONLY = ("protocol", "frame_size", "env_threads")
"""Options that say nothing outside Atari."""

PIXELS_ONLY = ("size", "render_quality", "render_repeats")
"""Options that say nothing without pictures in place of observations."""

EVALUATION_STEPS = 27_000
"""Agent steps to an evaluation's episode outside Atari, as many as half an hour of Atari has: an
environment without a limit of its own would never end under a policy that survives."""
_PLAIN = EnvConfig()


def make(
    config: EnvConfig,
    *,
    seed: int,
    num_envs: int | None = None,
    evaluation: bool = False,
    render: bool = False,
) -> VectorEnv:
    """Make the environments that `config` names, stepped together.

    `num_envs` takes the place of the config's. `evaluation` is for scores: in Atari no life loss,
    whole rewards and the protocol's time limit for evaluation; elsewhere a limit of
    `EVALUATION_STEPS` where the config gives none. `render` lets lane 0 be drawn. Raises
    ValueError, in one line, for a name that is not known, a value out of range, or an environment
    whose observations or actions are of a kind that is not supported.
    """
    lanes = config.num_envs if num_envs is None else num_envs
    _check(config, lanes, seed)
    protocol = _protocol(config.protocol)
    name = resolve(config.env)
    if name.kind == "atari":
        from envs.atari import Atari

        if config.max_episode_steps:
            raise ValueError(
                f"max_episode_steps is {config.max_episode_steps}; in Atari the protocol "
                f"{protocol.name} limits episodes: leave it out"
            )
        if config.pixels or config.action_repeat > 1:
            option = "pixels" if config.pixels else "action_repeat"
            raise ValueError(f"{option} is set; Atari shows pixels and has its protocol: leave it")
        return Atari(
            name.id,
            protocol.for_game(name.id),
            num_envs=lanes,
            seed=seed,
            evaluation=evaluation,
            stack=config.frame_stack or 4,
            frame_size=config.frame_size,
            threads=config.env_threads,
            render=render,
        )
    from envs.lanes import Lanes

    return Lanes(
        # Lane 0 alone is drawn; others are spared the renderer.
        [partial(make_one, name, config, render=render and lane == 0) for lane in range(lanes)],
        seed=seed,
        stack=config.frame_stack,
        limit=config.max_episode_steps or (EVALUATION_STEPS if evaluation else 0),
        render=render,
        name=name.id,
    )


def make_one(name: EnvName, config: EnvConfig = _PLAIN, *, render: bool) -> gymnasium.Env[Any, Any]:
    """One environment that is not Atari's, with what `config` puts around it; errors as `make`."""
    draws = render or config.pixels
    if name.kind == "dmc":
        from envs.dmc import Task

        env: gymnasium.Env[Any, Any] = Task(*name.id.removeprefix("dmc/").split("-", 1))
    else:
        env = (_make_class if name.kind == "class" else _make_id)(name.id, render=draws)
    from envs.simulator import Pixels, Repeat, Simulator, simulation

    if simulation(env) is not None:
        env = Simulator(env, config.camera_name)
    elif config.camera_name:
        raise ValueError(f"camera_name is {config.camera_name!r}; {name.id!r} is not MuJoCo's")
    if config.pixels:
        if env.render_mode != "rgb_array":
            raise ValueError(f"{name.id!r} draws no pictures: its render_mode is {env.render_mode}")
        quality, every = config.render_quality, config.render_repeats
        env = Pixels(env, config.size, config.action_repeat, quality, every)
    elif config.action_repeat > 1:
        env = Repeat(env, config.action_repeat)
    return env


def _check(config: EnvConfig, lanes: int, seed: int) -> None:
    least = {
        "num_envs": 1,
        "frame_stack": 0,
        "frame_size": 1,
        "env_threads": 0,
        "max_episode_steps": 0,
        "size": 4,
        "action_repeat": 1,
    }
    for field, low in least.items():
        value = lanes if field == "num_envs" else getattr(config, field)
        if value < low:
            raise ValueError(f"{field} is {value}; it must be at least {low}")
    if lanes > MOST_ENVS:
        raise ValueError(f"num_envs is {lanes}; it must be at most {MOST_ENVS}")
    if config.frame_size > 1024:
        raise ValueError(
            f"frame_size is {config.frame_size}; it must be at most 1024 (the screen is 210x160)"
        )
    if config.size > 1024:
        raise ValueError(f"size is {config.size}; it must be at most 1024")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")


def _protocol(name: str) -> Protocol:
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name, PROTOCOLS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown protocol {name!r}; {hint}expected one of {', '.join(PROTOCOLS)}")


def _make_id(id_: str, *, render: bool) -> gymnasium.Env[Any, Any]:
    """A registered environment, without Gymnasium's checker: every step is checked anyway."""
    import gymnasium

    from envs.simulator import import_mujoco

    look_here()
    spec = gymnasium.registry.get(id_)
    simulated = "gymnasium.envs.mujoco" in str(spec.entry_point if spec else "")
    if simulated:
        import_mujoco()
    # MuJoCo's are drawn by our own renderer
    mode = "rgb_array" if render and not simulated else None
    try:
        return gymnasium.make(id_, render_mode=mode, disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"environment {id_!r} needs a package: {error}") from error
    except (Exception, SystemExit) as error:  # whatever its module or its constructor provokes
        if simulated and isinstance(error, ModuleNotFoundError):
            raise ValueError(
                f"environment {id_!r} needs {error.name}: pip install 'sightline-rl[mujoco]'"
            ) from error
        raise failed("environment", id_, error) from error


def _make_class(path: str, *, render: bool) -> gymnasium.Env[Any, Any]:
    """A user's class, called without arguments but for a render_mode that it accepts."""
    import gymnasium

    from envs.simulator import quiet

    factory = find_callable(path, "environment")
    attribute = path.partition(":")[2]
    quiet()
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # written in C, or no function at all
        parameters = []
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in rest]
    if needed:
        raise ValueError(
            f"environment {path!r}: {attribute} asks for {', '.join(needed)}; "
            "give its arguments defaults"
        )
    accepts = any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)
    try:
        env = factory(render_mode="rgb_array") if render and accepts else factory()
    except (Exception, SystemExit) as error:
        raise failed("environment", path, error) from error
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"environment {path!r} made a {type(env).__name__}, not a gymnasium.Env")
    for what in ("observation_space", "action_space"):
        if not isinstance(getattr(env, what, None), gymnasium.Space):
            raise ValueError(f"environment {path!r} has no {what}: set one of gymnasium.spaces")
    return env
