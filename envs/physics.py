"""The exact state of a MuJoCo simulation, fit for JSON."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

_LAGGING = ("xpos", "xipos")
"""Fields of MjData that a step leaves one substep behind, and that environments read before the
next: no forward pass brings those values back."""


def plain(model: Any) -> Any:
    """A copy of an MjModel, to tell later what a task has altered in it."""
    return copy.copy(model)


def pack(model: Any, data: Any, plain: Any = None) -> dict[str, Any]:
    """The state of an MjData, and what differs in its MjModel from `plain`, if given."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    altered = {}
    if plain is not None:
        for name in dir(model):
            value = getattr(model, name) if not name.startswith("_") else None
            if isinstance(value, np.ndarray) and not np.array_equal(value, getattr(plain, name)):
                altered[name] = value.tolist()
    lagging = {name: getattr(data, name).tolist() for name in _LAGGING}
    return {"state": state.tolist(), "lagging": lagging, "model": altered}


def unpack(model: Any, data: Any, state: dict[str, Any]) -> None:
    """Put a simulation of the same model where `pack` found it."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    for name, value in state["model"].items():
        getattr(model, name)[...] = value
    whole = np.array(state["state"])
    mujoco.mj_setState(model, data, whole, kind)
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, whole, kind)  # the solver's start, which the pass has moved
    for name, value in state["lagging"].items():
        getattr(data, name)[...] = value
