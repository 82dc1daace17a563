"""What a caller hands in, checked before anything is written: one line for each mistake."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from replay.types import Field, Spec

Array = NDArray[Any]
Frames = ArrayLike | Mapping[str, ArrayLike]
Lanes = Sequence[int] | NDArray[np.integer] | None

WIDEST_STACK = 256  # an age is one byte, so a stack can't know more of an episode than this


def spec(value: Spec) -> dict[str, Field]:
    """The fields of an observation by name; a lone one is called frame."""
    if isinstance(value, Field):
        value = {"frame": value}
    if not isinstance(value, Mapping):
        raise TypeError(
            f"observation is a {type(value).__name__}; describe it by a Field, or a dict of them"
        )
    if not value:
        raise ValueError("observation names no field; give at least one")
    for name, part in value.items():
        if not isinstance(name, str):
            raise TypeError(f"observation has a field named {name!r}; a name is a str")
        field(name, part)
    return dict(value)


def field(name: str, value: Field) -> None:
    """Refuse a field that no ring can store or that PyTorch has no dtype for."""
    if not isinstance(value, Field):
        raise TypeError(f"{name} is a {type(value).__name__}; describe it by a Field")
    try:
        torch.from_numpy(np.empty(0, value.dtype))
    except TypeError:
        raise ValueError(f"{name} has dtype {value.dtype!r}; PyTorch knows no such one") from None
    if any(side < 1 for side in value.shape):
        raise ValueError(f"{name} has shape {value.shape}; each side must be at least 1")
    if not 1 <= value.stack <= WIDEST_STACK:
        raise ValueError(f"{name} has stack {value.stack}; it must lie in [1, {WIDEST_STACK}]")


def field_bytes(value: Field) -> int:
    """Bytes of one item, unstacked."""
    return math.prod(value.shape) * np.dtype(value.dtype).itemsize


def ring_bytes(observation: dict[str, Field], action: Field, size: int) -> int:
    """Bytes of `size` slots: frames, action, reward, flag, age and priority."""
    return size * (sum(map(field_bytes, (*observation.values(), action))) + 4 + 1 + 1 + 4)


def whole(name: str, value: int) -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")


def number(name: str, value: float) -> float:
    """Refuse what is no number; NaN is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    return float(value)


def share(name: str, value: float) -> float:
    """Refuse what is no number in [0, 1]."""
    if not 0 <= number(name, value) <= 1:
        raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
    return float(value)


def seed(value: int) -> int:
    """Refuse what no generator takes, on a device or not."""
    known = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not known or not 0 <= value < 1 << 63:
        raise ValueError(f"seed is {value!r}; it must be a whole number in [0, 2^63)")
    return int(value)


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """`value`, if it is one of `known`; else a ValueError that names the nearest."""
    if value not in known:
        near = get_close_matches(str(value), known, n=1, cutoff=0)[0]
        raise ValueError(f"{name} is {value!r}; try {near!r}, of {', '.join(known)}")
    return value


def device(value: torch.device | str) -> torch.device:
    """`value` as a device that is there, with its number; ValueError for another."""
    try:
        found = torch.device(value)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {value!r}; try 'cpu', 'cuda' or 'cuda:0'") from None
    if found.type == "cpu":
        return found
    if found.type != "cuda":
        raise ValueError(f"device is {str(value)!r}; a replay lives on 'cpu' or 'cuda'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = found.index if found.index is not None else 0
    if number >= count:
        raise ValueError(f"device is {str(value)!r}, and torch sees {count} CUDA GPUs; try 'cpu'")
    return torch.device(
        "cuda", found.index if found.index is not None else torch.cuda.current_device()
    )


def array(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: str) -> Array:
    """`value` as a contiguous array of exactly this shape and dtype, where that loses no kind."""
    try:
        found = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{name} is no array of {dtype}, {shape}: {why}") from None
    if found.shape != shape:
        raise ValueError(f"{name} has shape {found.shape}; expected {shape}")
    if found.dtype != dtype:
        if found.dtype.kind in "iu" and np.dtype(dtype).kind in "iu":
            _require_range(name, found, dtype)
        elif not np.can_cast(found.dtype, dtype, "same_kind"):
            raise ValueError(f"{name} has dtype {found.dtype}; expected {dtype}")
    return np.require(found, dtype, ["C", "W"])


def _require_range(name: str, value: Array, dtype: str) -> None:
    """Refuse whole numbers that would become others in a narrower dtype."""
    limits = np.iinfo(dtype)
    for extreme in (int(value.min()), int(value.max())):
        if not limits.min <= extreme <= limits.max:
            raise ValueError(
                f"{name} holds {extreme}; {dtype} reaches from {limits.min} to {limits.max}"
            )


def finite(name: str, value: Array) -> None:
    """Refuse NaN and infinity."""
    if value.dtype.kind in "fc" and not np.isfinite(value).all():
        raise ValueError(f"{name} holds NaN or infinity; it must be finite")


def rewards(value: ArrayLike, count: int) -> NDArray[np.float32]:
    """Finite rewards (count,)."""
    found: NDArray[np.float32] = array("reward", value, (count,), "float32")
    good = np.isfinite(found)
    if not good.all():
        raise ValueError(f"reward is {found[~good][0]}; it must be finite")
    return found


def column(name: str, value: torch.Tensor, whole: bool) -> None:
    """Refuse what is no tensor (N,), or where `whole` numbers are asked for, holds others."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; give a tensor")
    if value.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected (N,)")
    if whole and (value.is_floating_point() or value.dtype == torch.bool):
        raise ValueError(f"{name} has dtype {value.dtype}; expected {torch.int64}")


def lanes(value: Lanes, count: int) -> NDArray[np.int64]:
    """The numbers of one lane or more, each once, in [0, count)."""
    chosen = np.asarray(value)
    if chosen.ndim != 1 or not chosen.size or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"lanes is {value!r}; give the numbers of one lane or more")
    outside = (chosen < 0) | (chosen >= count)
    if outside.any():
        raise ValueError(f"lanes holds {chosen[outside][0]}; a lane lies in [0, {count})")
    if np.unique(chosen).size != chosen.size:
        raise ValueError(f"lanes holds a lane twice: {chosen.tolist()}")
    return np.ascontiguousarray(chosen, np.int64)


def frames(value: Frames, spec: dict[str, Field], single: bool, count: int) -> dict[str, Array]:
    """One frame for each of `count` lanes, by field; a lone field comes without its name."""
    if single and not isinstance(value, Mapping):
        value = {name: value for name in spec}
    elif single or not isinstance(value, Mapping):
        kind = "an array" if single else f"a dict of {', '.join(spec)}"
        raise ValueError(f"frame is a {type(value).__name__}; this replay takes {kind}")
    for name in value:
        if name not in spec:
            near = get_close_matches(str(name), spec, n=1, cutoff=0)
            raise ValueError(f"frame holds {name!r}, no field of this replay; try {near[0]!r}")
    for name in spec:
        if name not in value:
            raise ValueError(f"frame lacks {name!r}; this replay takes {', '.join(spec)}")
    found = {
        name: array(name, value[name], (count, *item.shape), item.dtype)
        for name, item in spec.items()
    }
    for name, frame in found.items():
        finite(name, frame)
    return found
