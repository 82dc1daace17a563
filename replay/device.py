"""The replay's content in the memory of a device: tensors, by Triton kernels or plain PyTorch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replay import checks, memory, state
from replay.generators import PHILOX, philox_from
from replay.ring import first_pending, open_slots
from replay.ring_torch import to_leaf
from replay.sorting import Sorting
from replay.state import Ops, Step, words
from replay.store import Array, Lanes
from replay.types import Batch, Field
from replay.upload import Upload

P = ParamSpec("P")
Out = TypeVar("Out")


def current(device: torch.device) -> torch.cuda.device:
    """A context in which launches, streams and events are that GPU's; of the CPU, no change."""
    known = device.type == "cuda" and device.index is not None
    return torch.cuda.device(device.index if known else -1)


def there(
    method: Callable[Concatenate[DeviceStore, P], Out],
) -> Callable[Concatenate[DeviceStore, P], Out]:
    """The method, with the store's GPU as the current one: Triton and events heed that alone."""

    @wraps(method)
    def call(self: DeviceStore, *args: P.args, **kwargs: P.kwargs) -> Out:
        with current(self.device):
            return method(self, *args, **kwargs)

    return call


def kernels_for(device: torch.device) -> str:
    """ "triton" for a CUDA device, "torch" for others; says so once where Triton doesn't work.

    It needs more than its package: it builds its launcher with a C compiler and Python's headers,
    which many images leave out, and it serves no GPU before sm_70.
    """
    if device.type != "cuda":
        return "torch"
    try:
        launch_one(device)
        return "triton"
    except Exception as error:  # noqa: BLE001 (its compilers fail in ways of their own)
        why = reason(error)
    warnings.warn(
        f"Triton doesn't work here ({why}), so the replay on the GPU works by plain PyTorch, whose "
        "draws cost all leaves; Triton needs `pip install triton`, a C compiler (gcc) and Python's "
        "headers (python3-dev)",
        stacklevel=4,
    )
    return "torch"


def reason(error: BaseException) -> str:
    """What an error says first that is no mere heading; its name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = (line for line in lines if line and not line.endswith(":"))
    return next(told, type(error).__name__).rstrip(".")


def launch_one(device: torch.device) -> None:
    """Build and run one of Triton's kernels there; raises whatever prevents it."""
    from replay.tree_triton import TritonTree

    with current(device):
        TritonTree(1, device).touch_all()


class DeviceStore:
    """`replay.store.Store` in tensors of one device; `kernels` is "triton" or "torch".

    Writing, sampling and updating never wait for the device. Before it is seen to hold a row that
    may be sampled, `ready` does.
    """

    def __init__(
        self,
        capacity: int,
        observation: dict[str, Field],
        action: Field,
        *,
        lanes: int,
        n_step: int,
        gamma: float,
        alpha: float,
        eps: float,
        ranked: bool,
        overall: bool,
        seed: int,
        device: torch.device,
        kernels: str,
    ) -> None:
        self.observation, self.action = observation, action
        self.lanes, self.rows, self.n_step = lanes, -(-capacity // lanes), n_step
        self.device = device
        make, tree = _ops(kernels, device)
        size = self.rows * lanes
        needed = checks.ring_bytes(observation, action, size) + tree.bytes_for(size)
        needed += 16 * size if ranked else 0  # the table, and its sort
        memory.require(capacity, needed, device)
        try:
            self.state = state.build(
                observation, action, lanes=lanes, rows=self.rows, n_step=n_step, gamma=gamma,
                alpha=alpha, eps=eps, ranked=ranked, overall=overall, seed=seed, device=device,
            )  # fmt: skip
            self.ops: Ops = make(self.state)
        except torch.OutOfMemoryError:  # others use the GPU too
            raise MemoryError(
                f"a replay of {capacity:,} transitions needs {needed / 1e9:.3g} GB, which the "
                f"{device} doesn't have; try a smaller capacity"
            ) from None
        self.tree = self.ops.tree
        self._written = np.zeros(lanes, np.int64)  # as on the device, which is never asked
        self._ready = False
        self._beta = torch.ones(1, dtype=torch.float64, device=device)
        self._beta_value = 1.0
        self._lane_numbers = torch.arange(lanes, device=device)
        self._upload = Upload(device)
        self._sorting = Sorting()

    @property
    def written(self) -> Lanes:
        """See `replay.store.Store`, as for all of the following."""
        return self._written

    @property
    def sampleable(self) -> int:
        return int(self.state.sampleable)

    @property
    def ready(self) -> bool:
        self._ready = self._ready or self.sampleable > 0
        return self._ready

    @property
    def nan_count(self) -> int:
        return int(self.state.nans)

    @property
    def nbytes(self) -> int:
        held = (value for value in vars(self.state).values() if isinstance(value, Tensor))
        frames = self.state.frames.values()
        return self.tree.nbytes + sum(tensor.nbytes for tensor in (*held, *frames))

    @there
    def write(
        self,
        chosen: Lanes,
        frames: dict[str, Array],
        action: Array | None,
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> None:
        arrays: list[Array] = [chosen, reward, terminated.view(np.uint8), truncated.view(np.uint8)]
        arrays += [*frames.values()] + ([] if action is None else [action])
        lane, gain, ended, cut, *items = self._upload(arrays)
        items = [words(item, chosen.size) for item in items]
        step = Step(
            lane, dict(zip(frames, items, strict=False)),
            None if action is None else items[-1], gain, ended, cut,
        )  # fmt: skip
        self.ops.write(self.state, step)
        self._written[chosen] += 1
        held = int(np.minimum(self._written, self.rows).sum())
        if self.state.ranked and self._sorting.due(chosen.size, held):
            self.settle()

    @there
    def latest(self) -> dict[str, Tensor]:
        newest = (self.state.written - 1) % self.rows * self.lanes + self._lane_numbers
        return self.ops.stacks(self.state, newest)

    @there
    def sample(self, count: int, beta: float | Tensor, uniforms: Tensor | None = None) -> Batch:
        """See `replay.store.Store`. `uniforms` (count,) float64 replace the generator's."""
        return self.ops.sample(self.state, count, self._scalar(beta), uniforms)

    @there
    def update(self, row: Tensor, error: Tensor) -> None:
        if len(row):
            row = row.detach().to(self.device, torch.int64).contiguous()
            error = error.detach().to(self.device, torch.float32).contiguous()
            self.ops.update(self.state, row, error)

    def _scalar(self, beta: float | Tensor) -> Tensor:
        if isinstance(beta, Tensor):
            return beta.reshape(1)
        if beta != self._beta_value:
            self._beta.fill_(beta)
            self._beta_value = beta
        return self._beta

    # ------------------------------------------------------------------------------- snapshots

    @property
    def arrays(self) -> tuple[str, ...]:
        frames = (f"observation.{name}" for name in self.observation)
        return (*frames, "action", "reward", "flag", "age")

    def read(self, name: str, first: int, last: int) -> Array:
        found: Array = self._array(name)[first:last].cpu().numpy()
        return found

    def blank(self, name: str, first: int, last: int) -> Array:
        part = self._array(name)[first:last]
        return np.empty(part.shape, str(part.dtype).removeprefix("torch."))

    def put(self, name: str, first: int, last: int, content: Array) -> None:
        self._array(name)[first:last] = torch.from_numpy(content)

    def counters(self) -> dict[str, Any]:
        seed, draws = self.state.random.tolist()
        return {
            "written": self._written.tolist(),
            "greatest": float(self.state.greatest),
            "nan_count": self.nan_count,
            "generator": {"bit_generator": PHILOX, "seed": seed, "draws": draws},
        }

    def priorities(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.state.priority.cpu().numpy()
        return found

    def settle(self) -> None:
        if self.state.ranked:
            self._sort()

    @there
    def _sort(self) -> None:
        """All leaves anew, from ranks as they are now; waits for nothing."""
        held = self.state
        if held.ranked:
            held.table.copy_(held.priority.sort().values)
            self._sorting.done()
        leaf = torch.where(held.priority > 0, to_leaf(held, held.priority), 0.0)
        self.tree.leaves[: held.size] = leaf
        self.tree.touch_all()

    def clear(self) -> None:
        self._written[:] = 0
        self._rebuild(np.zeros(self.state.size, np.float32), 1.0)

    def restore(self, counters: dict[str, Any], priority: NDArray[np.float32]) -> None:
        self._written[:] = counters["written"]
        self.state.greatest.fill_(counters["greatest"])
        self.state.nans.fill_(counters["nan_count"])
        self.state.random.copy_(torch.tensor(philox_from(counters["generator"])))
        self._rebuild(priority, counters["greatest"])

    def _rebuild(self, priority: NDArray[np.float32], greatest: float) -> None:
        """Work out, on the host, which rows are open, and their leaves; see `replay.host`."""
        held = self.state
        flags, ages = held.flags.cpu().numpy(), held.ages.cpu().numpy()
        is_open = open_slots(self._written, flags, ages, self.n_step, held.reach)
        priority = np.where(is_open & (priority == 0), np.float32(greatest), priority)
        priority = np.where(is_open, priority, np.float32(0))
        held.pending.copy_(torch.from_numpy(first_pending(self._written, flags, self.n_step)))
        held.written.copy_(torch.from_numpy(self._written))
        held.priority.copy_(torch.from_numpy(priority))
        held.sampleable.fill_(int(is_open.sum()))
        self._sort()
        self._ready = False

    def _array(self, name: str) -> Tensor:
        """One of `arrays`; a field's as words, (rows * lanes, W), whose bytes are the field's."""
        rest = {
            "action": self.state.actions,
            "reward": self.state.rewards,
            "flag": self.state.flags,
            "age": self.state.ages,
        }
        return rest[name] if name in rest else self.state.frames[name.removeprefix("observation.")]


def _ops(kernels: str, device: torch.device) -> tuple[Any, Any]:
    """The operations of a kind, and its tree."""
    if kernels == "triton":
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"backend is 'triton', which serves CUDA devices alone, and not {device} "
                "(but for tests, where TRITON_INTERPRET=1 is set)"
            )
        from replay.ring_triton import TritonOps
        from replay.tree_triton import TritonTree

        return TritonOps, TritonTree
    from replay.ring_torch import TorchOps
    from replay.tree_torch import TorchTree

    return TorchOps, TorchTree
