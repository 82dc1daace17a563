"""Work on a CUDA device as graphs: the learner's whole step, and the forward pass of acting.

Where agent and replay live on a CUDA device, a step (sample, gather, learn, hand errors back) is a
single launch: the replay's cursor, counts, generator and beta are numbers in device memory, and
nothing in it waits. Elsewhere the same code runs as it stands. Both give the same numbers.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from agents.agent import Agent
from replay import Observation, PrioritizedReplay
from replay.device import current, reason

WARM = 3
"""Calls that run eagerly before a capture, as it asks for: kernels are built, memory is taken."""

Made = TypeVar("Made")
_Key = tuple[tuple[str, torch.Size, torch.dtype], ...]


class Learner:
    """One learner step a call, of `batch_size` transitions.

    graph   capture it; None does where agent and replay share a CUDA device and `agent.graphs`
    `seconds` tells the time spent by part; a graph's is all "update", and only that of its launch.
    The first `WARM` calls of each course run eagerly, on a stream of their own, as a capture asks
    for: they are updates like all others. Build a new Learner after `load_state_dict` or
    `replay.load`, which put other tensors, or other counts, where a captured graph knows the old
    ones.
    Raises ValueError for a graph without CUDA.
    """

    def __init__(
        self,
        agent: Agent,
        replay: PrioritizedReplay,
        batch_size: int,
        *,
        graph: bool | None = None,
    ) -> None:
        self.agent, self.replay, self.batch_size = agent, replay, batch_size
        together = _gpu(agent.device) is not None and _gpu(agent.device) == _gpu(replay.device)
        if graph and not together:
            raise ValueError(
                f"a graph needs agent and replay on one CUDA device; the agent lives on "
                f"{agent.device}, the replay on {replay.device}"
            )
        self.captures = together and agent.graphs if graph is None else graph
        self.seconds = dict.fromkeys(("sample", "update", "priorities"), 0.0)
        self._beta = torch.full((1,), agent.beta, dtype=torch.float64, device=replay.device)
        self._beta_value = agent.beta
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._calls: Counter[int] = Counter()

    def __call__(self) -> dict[str, Tensor]:
        """Do one step; returns metrics, detached, which a captured step overwrites in the next."""
        if not self.captures:
            return self._work(self.agent.beta)
        with current(self.agent.device):
            return self._captured()

    def _captured(self) -> dict[str, Tensor]:
        if self.agent.beta != self._beta_value:
            self._beta_value = self.agent.beta
            self._beta.fill_(self._beta_value)
        course = self.agent.course
        self._calls[course] += 1
        if self._calls[course] <= WARM:
            return _aside(lambda: self._work(self._beta))
        if course not in self._graphs:
            self._graphs[course] = self._capture()
        started = perf_counter()
        graph, metrics = self._graphs[course]
        graph.replay()
        self.agent.updates += 1
        spend(self.seconds, "update", started)
        return metrics

    def _work(self, beta: float | Tensor) -> dict[str, Tensor]:
        started = perf_counter()
        batch = self.replay.sample(self.batch_size, beta)
        if self.replay.device.type != self.agent.device.type:
            batch = batch.to(self.agent.device)
        started = spend(self.seconds, "sample", started)
        metrics, error = self.agent.update(batch)
        started = spend(self.seconds, "update", started)
        self.replay.update(batch.index, error)
        spend(self.seconds, "priorities", started)
        return metrics

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        graph = torch.cuda.CUDAGraph()
        if self.agent.draws:
            graph.register_generator_state(self.agent.generator)
        before = self.agent.updates
        try:
            with capturing(graph):
                metrics = self._work(self._beta)
        finally:  # nothing was done yet: a replay does it, and counts it
            self.agent.updates = before
        return graph, metrics


class Forward:
    """A function of one observation, which on CUDA becomes a graph for each shape of it.

    What it returns is overwritten by the next call of that shape. The function must neither wait
    for the device nor read anything but its argument and tensors that stay where they are, nor hold
    who holds this: a graph ought to go with its agent, and not when garbage is collected.

    graphs  capture it; False calls it as it is, on CUDA too
    """

    def __init__(self, function: Callable[[Observation], Tensor], graphs: bool = True) -> None:
        self._function = function
        self._captures = graphs
        self._calls: Counter[_Key] = Counter()
        self._graphs: dict[_Key, tuple[torch.cuda.CUDAGraph, Observation, Tensor]] = {}

    def __call__(self, x: Observation) -> Tensor:
        """What the function gives for `x`."""
        parts = _parts(x)
        if not (self._captures and all(part.is_cuda for part in parts.values())):
            return self._function(x)
        with current(next(iter(parts.values())).device):
            return self._replayed(x, parts)

    def _replayed(self, x: Observation, parts: dict[str, Tensor]) -> Tensor:
        key = tuple((name, part.shape, part.dtype) for name, part in parts.items())
        self._calls[key] += 1
        if self._calls[key] <= WARM:
            return _aside(lambda: self._function(x))
        if key not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            argument = {n: p.clone() for n, p in x.items()} if isinstance(x, dict) else x.clone()
            with capturing(graph):
                found = self._function(argument)
            self._graphs[key] = graph, argument, found
        graph, argument, found = self._graphs[key]
        for name, part in _parts(argument).items():
            part.copy_(parts[name])
        graph.replay()
        return found


def _parts(observation: Observation) -> dict[str, Tensor]:
    return observation if isinstance(observation, dict) else {"": observation}


def _gpu(device: torch.device) -> int | None:
    """The number of a CUDA device; None of others."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Capture the current GPU's work in here. RuntimeError, which says what prevented it.

    No garbage is collected meanwhile: the end of another graph would spoil this one.
    """
    stream, collects = torch.cuda.current_stream(), gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with torch.cuda.graph(graph, stream=_side()):
            yield
    except Exception as error:
        torch.cuda.set_stream(stream)  # which torch leaves as it was in the capture
        first: BaseException = error
        while first.__context__ is not None:  # what the capture's own end says comes of it
            first = first.__context__
        raise RuntimeError(
            f"this can't be captured as a CUDA graph ({reason(first)}); --no-graphs does without"
        ) from error
    finally:
        if collects:
            gc.enable()


_SIDES: dict[int, torch.cuda.Stream] = {}


def _side() -> torch.cuda.Stream:
    """The current GPU's stream for warming up and capturing: one, for CUDA's libraries keep memory
    for every stream that they ever see."""
    gpu = torch.cuda.current_device()
    if gpu not in _SIDES:
        _SIDES[gpu] = torch.cuda.Stream()
    return _SIDES[gpu]


def _aside(work: Callable[[], Made]) -> Made:
    """Do CUDA work on that stream, which the current one then waits for."""
    stream, current = _side(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        found = work()
    current.wait_stream(stream)
    return found


def spend(seconds: dict[str, float], part: str, started: float) -> float:
    """Add the time since `started` to a part; returns the time now."""
    now = perf_counter()
    seconds[part] += now - started
    return now
