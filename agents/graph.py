"""The learner's whole step as one CUDA graph: sample, gather, learn, hand errors back.

Where agent and replay live on a CUDA device, a step is a single launch: the replay's cursor,
counts, generator and beta are numbers in device memory, and nothing in it waits. Elsewhere the
same code runs as it stands. Both give the same numbers.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from replay import Batch, PrioritizedReplay


class Learner(Protocol):
    """What an agent offers whose update can be captured."""

    device: torch.device
    generator: torch.Generator
    beta: float

    def learn(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One update, without a branch that depends on what is on the device or on counts."""

    def advance(self) -> None:
        """The rest of an update: counts, and what happens every so many."""


class Step:
    """One learner step a call, of `batch_size` transitions.

    graph   capture it; None does where agent and replay share a CUDA device
    The first `WARM` calls run eagerly, on a stream of their own, as a capture asks for: they are
    updates like all others. Build a new Step after `load_state_dict` or `replay.load`, which put
    other tensors, or other counts, where a captured graph knows the old ones.
    Raises ValueError for a graph without CUDA.
    """

    WARM = 3

    def __init__(
        self,
        agent: Learner,
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
        self._beta = torch.ones(1, dtype=torch.float64, device=replay.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._metrics: dict[str, Tensor] = {}
        self._calls = 0

    def __call__(self) -> dict[str, Tensor]:
        """Do one step; returns metrics, detached, which a captured step overwrites in the next."""
        self._beta.fill_(self.agent.beta)
        if not self.captures:
            self._metrics = self._work()
        elif self._graph is not None:
            self._graph.replay()
        elif self._calls < self.WARM:
            self._metrics = self._aside()
        else:
            self._graph = self._capture()
            self._graph.replay()
        self._calls += 1
        self.agent.advance()
        return self._metrics

    def _work(self) -> dict[str, Tensor]:
        batch = self.replay.sample(self.batch_size, self._beta)
        if self.replay.device.type != self.agent.device.type:
            batch = batch.to(self.agent.device)
        metrics, error = self.agent.learn(batch)
        self.replay.update(batch.index, error)
        return metrics

    def _aside(self) -> dict[str, Tensor]:
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            metrics = self._work()
        current.wait_stream(stream)
        return metrics

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.agent.generator)
        with torch.cuda.graph(graph):
            self._metrics = self._work()
        return graph
