"""The learner's step: equal to its parts, free of waiting, and as a graph equal to itself."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents import dqn
from agents import graph as graph_module
from agents.dqn import DQN, pick
from agents.graph import Forward, Learner, capturing
from agents.optimizer import clip_grad_norm
from configs.dqn import DQNConfig
from replay import Field, PrioritizedReplay
from tests.replay.backends import NoSync

BASE = DQNConfig(
    encoder="nature", encoder_width=0.1, hidden=16, precision="fp32", n_step=2,
    target_update_every=3, loss="huber",
)  # fmt: skip
SWITCHES = [
    {},
    {"double": False, "dueling": False, "max_grad_norm": 0.0},
    {"noisy": True, "distributional": True},
    {"optimizer": "rmsprop", "loss": "mse"},
    {"precision": "bf16"},
]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def filled(**where: str) -> PrioritizedReplay:
    replay = PrioritizedReplay(200, Field((1, 40, 40), "uint8", 4), lanes=4, n_step=2, **where)
    generator = np.random.default_rng(0)

    def frame() -> np.ndarray:
        return generator.integers(0, 256, (4, 1, 40, 40), dtype=np.uint8)

    replay.reset(frame())
    for _ in range(20):
        flags = generator.random((2, 4)) < 0.05
        replay.add(frame(), generator.integers(0, 3, 4), generator.normal(size=4), *flags)
    return replay


def agent(switches: dict[str, Any], device: str = "cpu") -> DQN:
    made = DQN(replace(BASE, **switches), (4, 40, 40), 3, seed=1, device=device)
    made.beta = 0.6
    return made


def parameters(agent: DQN) -> torch.Tensor:
    """All numbers of both networks, in one row."""
    networks = (agent.online, agent.target)
    return torch.cat([p.detach().flatten() for n in networks for p in n.state_dict().values()])


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_step_is_its_parts(switches: dict[str, Any]) -> None:
    one, other = agent(switches), agent(switches)
    ours, theirs = filled(), filled()
    step = Learner(one, ours, 8)
    assert not step.captures
    for turn in range(7):
        one.beta = other.beta = 0.4 + turn / 10
        metrics = step()
        batch = theirs.sample(8, other.beta)
        expected, error = other.update(batch)
        theirs.update(batch.index, error)
        assert metrics.keys() == expected.keys()
        assert all(torch.equal(metrics[name], expected[name]) for name in metrics)
    assert torch.equal(parameters(one), parameters(other))
    assert one.updates == other.updates == 7
    assert np.array_equal(ours.store.priorities(), theirs.store.priorities())


@pytest.mark.parametrize("switches", SWITCHES)
def test_nothing_in_a_step_waits(switches: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it, on the replay of tensors that a device would have."""
    monkeypatch.setattr(
        dqn, "clip_grad_norm", lambda own, most, ask: clip_grad_norm(own, most, ask=False)
    )
    learner = agent(switches)
    step = Learner(learner, filled(backend="torch"), 8)
    step()  # the optimiser's state is made, and the replay seen to be ready
    with NoSync():
        for _ in range(4):
            step()
    assert learner.updates == 5


def test_pick_takes_each_rows_action() -> None:
    out = torch.arange(24.0).view(2, 3, 4)
    action = torch.tensor([2, 0])
    assert torch.equal(pick(out, action), torch.stack([out[0, 2], out[1, 0]]))
    assert pick(out[:, :, 0], action).tolist() == [8.0, 12.0]


def test_a_graph_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="agent and replay on one CUDA device; the agent lives on"):
        Learner(agent({}), filled(), 8, graph=True)


def test_forward_is_the_function_itself_on_the_cpu() -> None:
    seen = []

    def double(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return 2 * x

    forward, x = Forward(double), torch.arange(3.0)
    assert forward(x).tolist() == [0, 2, 4] and seen[0] is x


class Captured:
    """Stands for `torch.cuda.graph`: its end fails where what is within did, as CUDA's does."""

    def __init__(self, graph: object, stream: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            raise RuntimeError("operation failed due to a previous error during capture")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a capture asks of CUDA, without one: the streams that were set."""
    streams: list[str] = []
    monkeypatch.setattr(torch.cuda, "graph", Captured)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "before")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(graph_module, "_side", lambda: "side")
    return streams


def test_a_failed_capture_says_why_and_leaves_no_trace(cuda: list[str]) -> None:
    graph: Any = object()
    told = r"\(it waits\); --no-graphs"
    with pytest.raises(RuntimeError, match=told) as caught, capturing(graph):
        raise ValueError("it waits")
    assert cuda == ["before"] and gc.isenabled() and caught.value.__cause__ is not None


def test_no_garbage_is_collected_in_a_capture(cuda: list[str]) -> None:
    graph: Any = object()
    with capturing(graph):
        assert not gc.isenabled()
    assert gc.isenabled() and not cuda


def test_an_agent_and_its_graphs_end_together() -> None:
    """Without the collector, which could free the graphs amid another capture."""
    gone = [weakref.ref(agent({})), weakref.ref(agent({"noisy": True}))]
    assert [one() for one in gone] == [None, None]


def test_graphs_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, image = [], torch.zeros(1, 4, 40, 40)
    plain = Forward(lambda x: seen.append(x) or image, graphs=False)  # type: ignore[func-returns-value]
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert plain(image) is image and seen == [image]
    made = DQN(BASE, (4, 40, 40), 3, graphs=False)
    assert not made.graphs and not made._best._captures


@gpu
def test_a_graph_of_several_parts() -> None:
    forward = Forward(lambda x: x["a"].float().sum(1) + x["b"][:, 0])  # type: ignore[index, call-overload]
    for turn in range(8):
        size = 3 + turn % 2
        parts = {
            "a": torch.randint(0, 256, (size, 5), dtype=torch.uint8, device="cuda"),
            "b": torch.randn(size, 2, device="cuda"),
        }
        assert torch.equal(forward(parts), parts["a"].float().sum(1) + parts["b"][:, 0])


@gpu
def test_acting_in_a_graph_equals_eager_and_follows_the_weights() -> None:
    learner = agent({}, "cuda")
    for turn in range(8):
        for size in (3, 5):
            observation = torch.randint(0, 256, (size, 4, 40, 40), dtype=torch.uint8, device="cuda")
            expected = learner.values(observation).argmax(1)
            assert torch.equal(learner._best(observation), expected)
        with torch.no_grad():
            for parameter in learner.online.parameters():
                parameter.add_(0.1 * (turn + 1) * torch.randn_like(parameter))


@gpu
@pytest.mark.parametrize("switches", SWITCHES)
def test_graph_equals_eager(switches: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    one, other = agent(switches, "cuda"), agent(switches, "cuda")
    ours, theirs = filled(device="cuda"), filled(device="cuda")
    graph, eager = Learner(one, ours, 8), Learner(other, theirs, 8, graph=False)
    assert graph.captures
    for turn in range(12):
        one.beta = other.beta = 0.4 + turn / 20
        if turn == 6:
            torch.cuda.set_sync_debug_mode("error")
        try:
            a, b = graph(), eager()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(parameters(one), parameters(other))
    assert np.array_equal(ours.store.priorities(), theirs.store.priorities())
