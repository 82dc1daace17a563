"""Prioritised n-step replay over lanes of frames (Schaul et al. 2016); alpha = 0 is uniform."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from replay import checks, snapshot
from replay.checks import Frames, Lanes
from replay.ring import Slots
from replay.store import Store
from replay.types import Batch, Field, Observation, Spec

BACKENDS = ("auto", "numba", "triton", "torch")


class PrioritizedReplay:
    """A memory of transitions, written a vector step at a time and sampled by priority.

    Args:
        capacity: transitions to hold; rounded up to a multiple of `lanes`.
        observation: one Field (batches hold a tensor), or a dict of named ones (a dict of them).
        action: field of one action.
        lanes: environments that write; each at its own pace.
        n_step: steps of reward before the bootstrap, at least 1.
        gamma: discount per step, in [0, 1].
        alpha: exponent of the priorities, in [0, 1].
        eps: added to |error|, above 0, so that no transition is lost.
        prioritization: "proportional", by p^alpha, or "rank", by rank^-alpha among all sampleable
            rows, where equal priorities share the best rank; ranks are sorted now and then.
        weights: over the greatest in the "batch", or in the whole memory ("global").
        seed: of the sampling: NumPy's PCG64 with numba, else a Philox counter on the device.
        device: where it lives, and its batches: "cpu", "cuda", "cuda:1" ...
        backend: what does the work: "numba" on the CPU, "triton" on CUDA, "torch" anywhere, slowly;
            "auto" takes the first that serves the device.

    Raises:
        ValueError: an argument out of its range, with the least capacity where that is too small.
        MemoryError: the capacity does not fit in memory; names the one that does.

    A new transition gets the greatest priority so far (Schaul et al. 2016, algorithm 1), which
    starts at 1. Methods may be called from several threads; they wait for one another.

    On a CUDA device `add`, `latest`, `sample` and `update` put work into the current stream and
    return; none waits for the device, so what only the device knows is not checked there: a row
    that no batch could have had is dropped by `update` like one that was overwritten.
    """

    def __init__(
        self,
        capacity: int,
        observation: Spec,
        action: Field = Field((), "int64"),  # noqa: B008 (frozen)
        *,
        lanes: int = 1,
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.6,
        eps: float = 1e-6,
        prioritization: str = "proportional",
        weights: str = "batch",
        seed: int = 0,
        device: torch.device | str = "cpu",
        backend: str = "auto",
    ) -> None:
        for name, number in (("capacity", capacity), ("lanes", lanes), ("n_step", n_step)):
            checks.whole(name, number)
        for name, share in (("gamma", gamma), ("alpha", alpha)):
            checks.share(name, share)
        if not 0 < checks.number("eps", eps) < math.inf:
            raise ValueError(f"eps is {eps}; it must be above 0, or a transition could be lost")
        self.single = isinstance(observation, Field)
        spec = checks.spec(observation)
        checks.field("action", action)
        if action.stack != 1:
            raise ValueError(f"action has stack {action.stack}; only observations are stacked")
        rows, least = -(-capacity // lanes), max(f.stack for f in spec.values()) + n_step + 1
        if rows < least:
            raise ValueError(
                f"capacity is {capacity}; {lanes} lanes with stack {least - n_step - 1} and n_step "
                f"{n_step} need at least {(least - 1) * lanes + 1}"
            )
        checks.choice("prioritization", prioritization, ("proportional", "rank"))
        checks.choice("weights", weights, ("batch", "global"))
        self.capacity = int(capacity)
        self.alpha = float(alpha)
        self.eps = float(eps)
        self.store: Store = _store(
            checks.device(device), checks.choice("backend", backend, BACKENDS),
            capacity=self.capacity, observation=spec, action=action, lanes=int(lanes),
            n_step=int(n_step), gamma=float(gamma), alpha=self.alpha, eps=self.eps,
            seed=checks.seed(seed), ranked=prioritization == "rank", overall=weights == "global",
        )  # fmt: skip
        self._every_lane = np.arange(lanes)
        self.ancestors: set[str] = set()  # snapshots that this state grew out of
        self._lock = Lock()

    @property
    def device(self) -> torch.device:
        """Where the batches come from."""
        return self.store.device

    @property
    def sampleable(self) -> int:
        """Rows that can be sampled. On a CUDA device asking waits for it; `ready` seldom does."""
        return self.store.sampleable

    @property
    def ready(self) -> bool:
        """Whether there is a row to sample, or on a CUDA device, whether there ever was."""
        return self.store.ready

    @property
    def nan_count(self) -> int:
        """NaN errors that `update` skipped. On a CUDA device asking waits for it."""
        return self.store.nan_count

    @property
    def lanes(self) -> int:
        """Environments that write."""
        return self.store.lanes

    def __len__(self) -> int:
        """Frames held, of all lanes; some of them can't start a transition."""
        return int(np.minimum(self.store.written, self.store.rows).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of everything, as if full; the system hands pages out as they are written."""
        return self.store.nbytes

    @property
    def bytes_per_transition(self) -> float:
        """`nbytes` over the capacity."""
        return self.nbytes / self.capacity

    def reset(self, frame: Frames, lanes: Lanes = None) -> None:
        """Begin an episode in each lane with `frame` (N, *shape), N all lanes or those named.

        An episode that was running there ends as truncated at its newest frame.
        """
        with self._lock:
            chosen = self._chosen(lanes)
            frames = checks.frames(frame, self.store.observation, self.single, chosen.size)
            nothing = np.zeros(chosen.size, np.float32)
            never = np.zeros(chosen.size, np.bool_)
            self.store.write(chosen, frames, None, nothing, never, never)

    def add(
        self,
        frame: Frames,
        action: ArrayLike,
        reward: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike,
        lanes: Lanes = None,
    ) -> None:
        """Store one step of each lane: N lanes, all of them or those named.

        `frame` (N, *shape) is the newest frame, that the step led to; `action` (N, *shape) chose
        it; `reward` (N,) finite, `terminated` and `truncated` (N,) bool came with it. The step
        after a flag begins an episode, as under Gymnasium's NEXT_STEP autoreset: its action,
        which the environment ignored, and its reward are never learned from.

        ValueError, with nothing stored, for a wrong shape or dtype or a lane before its reset.
        """
        with self._lock:
            chosen = self._chosen(lanes)
            count = chosen.size
            frames = checks.frames(frame, self.store.observation, self.single, count)
            field = self.store.action
            actions = checks.array("action", action, (count, *field.shape), field.dtype)
            rewards = checks.rewards(reward, count)
            ended: NDArray[np.bool_] = checks.array("terminated", terminated, (count,), "bool")
            cut: NDArray[np.bool_] = checks.array("truncated", truncated, (count,), "bool")
            checks.finite("action", actions)
            self._require_begun(chosen)
            self.store.write(chosen, frames, actions, rewards, ended, cut)

    def latest(self) -> Observation:
        """What to act on: (lanes, *stacked_shape) of the newest frames, oldest first."""
        with self._lock:
            self._require_begun(self._every_lane)
            return self._plain(self.store.latest())

    def sample(self, batch_size: int, beta: float | Tensor = 1.0) -> Batch:
        """Draw transitions in proportion to their leaves, one from each stratum of the mass.

        Schaul et al. 2016, sections 3.3 and 3.4; beta in [0, 1] corrects the bias by importance
        weights (N P)^-beta over the greatest in the batch (or the memory). ValueError while
        nothing is sampleable. On a device beta may be a tensor (1,) float64 there, which a
        captured CUDA graph reads anew each time.
        """
        checks.whole("batch_size", batch_size)
        if not isinstance(beta, Tensor):
            checks.share("beta", beta)
        elif beta.dtype != torch.float64 or beta.numel() != 1:
            raise ValueError(
                f"beta has shape {tuple(beta.shape)} and dtype {beta.dtype}; expected (1,) float64"
            )
        with self._lock:
            if not self.store.ready:
                raise ValueError(
                    f"none of the {len(self)} frames can start a transition yet; add at least "
                    f"{self.store.n_step} steps, or the end of an episode, first"
                )
            batch = self.store.sample(batch_size, beta)
        if not self.single:
            return batch
        seen, following = self._plain(batch.observation), self._plain(batch.next_observation)
        return replace(batch, observation=seen, next_observation=following)

    def update(self, index: Tensor, error: Tensor) -> None:
        """Give the rows `index` (N,) int64 of a batch the priorities |`error`| + eps, (N,).

        Rows that were overwritten meanwhile are dropped, and of duplicates the last wins. A NaN
        error is skipped and counted in `nan_count`; an infinite one gets the greatest finite
        priority so far, this call's included. With alpha = 0 only NaNs are counted. ValueError,
        with nothing changed, for shapes that differ or a row that isn't written yet; one that was
        written and can't be sampled is dropped, too.
        """
        checks.column("index", index, whole=True)
        checks.column("error", error, whole=False)
        if index.shape != error.shape:
            raise ValueError(f"index holds {len(index)} rows, error {len(error)}; they must agree")
        with self._lock:
            self.store.update(index, error)

    def save(self, folder: Path, previous: Path | None = None) -> None:
        """Write the whole state into `folder`, linking what the snapshot `previous` holds already.

        See `replay.snapshot.save`.
        """
        with self._lock:
            snapshot.save(self, Path(folder), None if previous is None else Path(previous))

    def load(self, folder: Path) -> None:
        """Take over the state that `save` wrote into `folder`; see `replay.snapshot.load`."""
        with self._lock:
            snapshot.load(self, Path(folder))

    def _plain(self, stacks: Observation) -> Observation:
        """One Field goes without its name."""
        return stacks["frame"] if self.single and isinstance(stacks, dict) else stacks

    def _chosen(self, lanes: Lanes) -> Slots:
        if lanes is None:
            return self._every_lane
        return checks.lanes(lanes, self.lanes)

    def _require_begun(self, chosen: Slots) -> None:
        begun = self.store.written[chosen] > 0
        if not begun.all():
            raise ValueError(f"lane {chosen[~begun][0]} has no first frame yet; call reset first")


def _store(device: torch.device, backend: str, **content: Any) -> Store:
    """The store for a device; ValueError for a backend that does not serve it."""
    if backend == "auto" and device.type == "cpu":
        backend = "numba"
    if backend == "numba":
        if device.type != "cpu":
            raise ValueError(f"backend is 'numba', which serves the cpu alone, and not {device}")
        from replay.host import HostStore

        return HostStore(**content)
    from replay.device import DeviceStore, kernels_for

    kernels = kernels_for(device) if backend == "auto" else backend
    return DeviceStore(**content, device=device, kernels=kernels)
