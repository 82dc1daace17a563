"""The exact state of one Gymnasium environment, fit for JSON, where it can be had.

An environment offers `get_state() -> dict` and `set_state(dict)`, in values that JSON can hold;
None in place of the first's says that there is no such state.
Gymnasium's classic control offers neither, but all that moves there are a few attributes, kept
here; its MuJoCo environments are their simulation alone. Beside them go the random generator and
the count of a TimeLimit. Any other wrapper may hide state of its own, so there is none to be had.
"""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from envs import physics
from envs.simulator import Pixels, Repeat, Simulator

# What moves in the classes of gymnasium.envs.classic_control.
_CLASSIC: dict[str, tuple[str, ...]] = {
    "CartPoleEnv": ("state", "steps_beyond_terminated"),
    "MountainCarEnv": ("state",),
    "Continuous_MountainCarEnv": ("state",),
    "PendulumEnv": ("state", "last_u"),
    "AcrobotEnv": ("state",),
}


def get_state(env: gymnasium.Env[Any, Any]) -> dict[str, Any] | None:
    """Exact state of `env` and its wrappers, or None; TypeError where it does not fit JSON."""
    inner: Any = env.unwrapped
    if not _is_known(env):
        return None
    if hasattr(inner, "get_state") and hasattr(inner, "set_state"):
        own = inner.get_state()
        try:
            json.dumps(own)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"get_state of {type(inner).__name__} does not fit JSON: {error}"
            ) from error
    elif _is_classic(inner):
        own = {name: _pack(getattr(inner, name)) for name in _CLASSIC[type(inner).__name__]}
    elif _is_mujoco(inner):
        own = physics.pack(inner.model, inner.data)
    else:
        return None
    if own is None:
        return None
    generator = inner._np_random
    return {
        "env": own,
        "random": None if generator is None else generator.bit_generator.state,
        "elapsed": [w._elapsed_steps for w in wrappers(env) if isinstance(w, TimeLimit)],
    }


def set_state(env: gymnasium.Env[Any, Any], state: dict[str, Any]) -> None:
    """Put `env`, which must have been reset once, where `get_state` stood."""
    inner: Any = env.unwrapped
    if _is_classic(inner):
        for name in _CLASSIC[type(inner).__name__]:
            setattr(inner, name, _unpack(state["env"][name]))
    elif _is_mujoco(inner):
        physics.unpack(inner.model, inner.data, state["env"])
    else:
        inner.set_state(state["env"])
    if state["random"] is not None:
        inner.np_random.bit_generator.state = state["random"]
    limits = [wrapper for wrapper in wrappers(env) if isinstance(wrapper, TimeLimit)]
    for wrapper, elapsed in zip(limits, state["elapsed"], strict=True):
        wrapper._elapsed_steps = elapsed


def wrappers(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Wrapper[Any, Any, Any, Any]]:
    """The wrappers around an environment, the outermost first."""
    chain = []
    while isinstance(env, gymnasium.Wrapper):
        chain.append(env)
        env = env.env
    return chain


def _is_known(env: gymnasium.Env[Any, Any]) -> bool:
    stateless = (OrderEnforcing, PassiveEnvChecker, TimeLimit, Simulator, Repeat, Pixels)
    return all(type(wrapper) in stateless for wrapper in wrappers(env))


def _is_classic(inner: object) -> bool:
    # The class itself, not a subclass, which may hold more.
    kind = type(inner)
    return kind.__module__.startswith("gymnasium.envs.classic_control.") and (
        kind.__name__ in _CLASSIC
    )


def _is_mujoco(inner: object) -> bool:
    # version 5 alone: the older ones may differ; a subclass may hold more
    kind = type(inner)
    return kind.__module__.startswith("gymnasium.envs.mujoco.") and kind.__module__.endswith("_v5")


def _pack(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    array = np.asarray(value)
    return {"dtype": str(array.dtype), "value": array.tolist()}


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        return np.array(value["value"], value["dtype"])
    return value
