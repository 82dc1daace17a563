"""Work on a CUDA device as graphs: the learner's whole step, and the forward pass of acting.

Where agent and replay live on a CUDA device, a step (sample, gather, learn, hand errors back) is a
single launch: the replay's cursor, counts, generator and beta are numbers in device memory, and
nothing in it waits. Elsewhere the same code runs as it stands. Both give the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from agents.agent import Agent
from replay import Observation, PrioritizedReplay
from replay.device import current

WARM = 3
"""Calls that run eagerly before a capture, as it asks for: kernels are built, memory is taken."""

Made = TypeVar("Made")
_Key = tuple[tuple[str, torch.Size, torch.dtype], ...]


class Learner:
    """One learner step a call, of `batch_size` transitions.

    graph   capture it; None does where agent and replay share a CUDA device
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
        together = replay.device.type == agent.device.type == "cuda"
        if graph and not together:
            raise ValueError(
                f"a graph needs agent and replay on one CUDA device; the agent lives on "
                f"{agent.device}, the replay on {replay.device}"
            )
        self.captures = together if graph is None else graph
        self.seconds = dict.fromkeys(("sample", "update", "priorities"), 0.0)
        self._beta = torch.ones(1, dtype=torch.float64, device=replay.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._calls: Counter[int] = Counter()

    def __call__(self) -> dict[str, Tensor]:
        """Do one step; returns metrics, detached, which a captured step overwrites in the next."""
        if not self.captures:
            return self._work(self.agent.beta)
        with current(self.agent.device):
            return self._captured()

    def _captured(self) -> dict[str, Tensor]:
        self._beta.fill_(self.agent.beta)
        course = self.agent.course
        self._calls[course] += 1
        if self._calls[course] <= WARM:
            return _aside(lambda: self._work(self._beta))
        if course in self._graphs:
            self.agent.updates += 1
        else:  # which has the agent count the update that is made below
            self._graphs[course] = self._capture()
        started = perf_counter()
        graph, metrics = self._graphs[course]
        graph.replay()
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
        graph.register_generator_state(self.agent.generator)
        with torch.cuda.graph(graph):
            metrics = self._work(self._beta)
        return graph, metrics


class Forward:
    """A function of one observation, which on CUDA becomes a graph for each shape of it.

    What it returns is overwritten by the next call of that shape. The function must neither wait
    for the device nor read anything but its argument and tensors that stay where they are.
    """

    def __init__(self, function: Callable[[Observation], Tensor]) -> None:
        self._function = function
        self._calls: Counter[_Key] = Counter()
        self._graphs: dict[_Key, tuple[torch.cuda.CUDAGraph, Observation, Tensor]] = {}

    def __call__(self, x: Observation) -> Tensor:
        """What the function gives for `x`."""
        parts = _parts(x)
        if not all(part.is_cuda for part in parts.values()):
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
            with torch.cuda.graph(graph):
                found = self._function(argument)
            self._graphs[key] = graph, argument, found
        graph, argument, found = self._graphs[key]
        for name, part in _parts(argument).items():
            part.copy_(parts[name])
        graph.replay()
        return found


def _parts(observation: Observation) -> dict[str, Tensor]:
    return observation if isinstance(observation, dict) else {"": observation}


def _aside(work: Callable[[], Made]) -> Made:
    """Do CUDA work on a stream of its own, which the current one then waits for."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
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
