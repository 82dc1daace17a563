"""From a name to a vector environment."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from envs.args import parameters, read, require
from envs.config import EnvConfig
from envs.find import failed, find_callable, install, look_here
from envs.names import EnvName, names, resolve
from envs.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    import gymnasium

    from envs.vector import VectorEnv

__all__ = ["EnvName", "make", "names", "resolve"]

MOST_ENVS = 4096
"""Environments in one process, at most."""

ATARI_ONLY = ("protocol", "frame_size")
"""Options that say nothing outside Atari."""

PIXELS_ONLY = ("size", "render_quality", "render_repeats")
"""Options that say nothing without pictures in place of observations."""

EVALUATION_STEPS = 27_000
"""Agent steps to an evaluation's episode outside Atari, as many as half an hour of Atari has: an
environment without a limit of its own would never end under a policy that survives."""
_PLAIN = EnvConfig()
_DRAWS_IN_STEPS = "gymnasium.envs.box2d.car_racing"


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
        if config.env_args:
            raise ValueError(
                f"env_args is {config.env_args!r}; Atari's games are set up by --protocol, "
                "--frame-size and --frame-stack: leave it out"
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
        threads=config.env_threads,
        render=render,
        name=name.id,
    )


def make_one(name: EnvName, config: EnvConfig = _PLAIN, *, render: bool) -> gymnasium.Env[Any, Any]:
    """One environment that is not Atari's, with what `config` puts around it; errors as `make`."""
    draws, args = render or config.pixels, read(config.env_args)
    if name.kind == "dmc":
        from envs.dmc import Task

        domain, _, task = name.id.removeprefix("dmc/").partition("-")
        env: gymnasium.Env[Any, Any] = Task(domain, task, args)
    else:
        env = (_make_class if name.kind == "class" else _make_id)(name.id, args, render=draws)
    from envs.simulator import Pixels, Repeat, Simulator, simulation

    if simulation(env) is not None:
        env = Simulator(env, config.camera_name)
    elif config.camera_name:
        raise ValueError(f"camera_name is {config.camera_name!r}; {name.id!r} is not MuJoCo's")
    in_steps = config.pixels or type(env.unwrapped).__module__ == _DRAWS_IN_STEPS
    if config.env_threads > 1 and in_steps and not isinstance(env, Simulator):
        raise ValueError(
            f"env_threads is {config.env_threads}; {name.id!r} draws its pictures itself, and "
            "pygame, for one, spoils those of several threads: leave it out"
        )
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


def _make_id(id_: str, args: dict[str, Any], *, render: bool) -> gymnasium.Env[Any, Any]:
    """A registered environment, without Gymnasium's checker: every step is checked anyway."""
    import gymnasium
    import numpy as np

    from envs.simulator import import_mujoco
    from envs.vector import told

    look_here()
    spec = gymnasium.registry.get(id_)
    entry = str(spec.entry_point if spec else "")
    simulated = "gymnasium.envs.mujoco" in entry
    if simulated:
        import_mujoco()
    if args:
        require(id_, _creator(spec), args, ("max_episode_steps",))
    # MuJoCo's are drawn by our own renderer
    mode = "rgb_array" if render and not simulated else None
    try:
        env = gymnasium.make(id_, render_mode=mode, disable_env_checker=True, **args)
    except gymnasium.error.DependencyNotInstalled as error:
        what = f"Box2D: {install('box2d')}" if "gymnasium.envs.box2d" in entry else told(error)
        raise ValueError(f"environment {id_!r} needs {what}") from error
    except (Exception, SystemExit) as error:  # whatever its module or its constructor provokes
        if simulated and isinstance(error, ModuleNotFoundError):
            raise ValueError(
                f"environment {id_!r} needs {error.name}: {install('mujoco')}"
            ) from error
        raise failed("environment", id_, error) from error
    space = env.observation_space
    if "gymnasium.envs.box2d" in entry and len(space.shape or ()) == 1:
        # LunarLander flies and BipedalWalker swings beyond the bounds that they announce
        env.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
    return env


def _creator(spec: Any) -> Callable[..., Any] | None:
    """What makes a registered environment, or None; what its module raises `make` tells."""
    from gymnasium.envs.registration import load_env_creator

    with contextlib.suppress(Exception, SystemExit):
        return (
            spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
        )
    return None


def _make_class(path: str, args: dict[str, Any], *, render: bool) -> gymnasium.Env[Any, Any]:
    """A user's class, called with `args` and a render_mode, if it accepts one."""
    import gymnasium

    from envs.simulator import quiet

    factory = find_callable(path, "environment")
    attribute = path.partition(":")[2]
    quiet()
    taken = parameters(factory)
    require(path, factory, args)
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        p.name for p in taken if p.default is p.empty and p.kind not in rest and p.name not in args
    ]
    if needed:
        raise ValueError(
            f"environment {path!r}: {attribute} asks for {', '.join(needed)}; "
            f"give --env-args '{{{needed[0]}: ...}}', or its arguments defaults"
        )
    accepts = any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in taken)
    try:
        env = factory(**args, **({"render_mode": "rgb_array"} if render and accepts else {}))
    except (Exception, SystemExit) as error:
        raise failed("environment", path, error) from error
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"environment {path!r} made a {type(env).__name__}, not a gymnasium.Env")
    for what in ("observation_space", "action_space"):
        if not isinstance(getattr(env, what, None), gymnasium.Space):
            raise ValueError(f"environment {path!r} has no {what}: set one of gymnasium.spaces")
    return env
