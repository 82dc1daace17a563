"""An update away from the CPU: nothing of it on the host, in few launches, compiled or not.

PyTorch's device "meta" has shapes and no numbers, and refuses what would wait for them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # by itself, before anything is patched
import torch._inductor.config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents import start as begin
from agents.build import compile_agent
from agents.ddpg import DDPG
from agents.dqn import DQN
from agents.evaluate import evaluate_run
from configs.ddpg import DDPGConfig
from configs.dqn import DQNConfig
from replay import Batch
from tests.agents.test_ddpg import batch as transitions

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
META = torch.device("meta")
FREE = (
    "alias", "as_strided", "detach", "empty", "expand", "permute", "select", "slice", "split",
    "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "empty_like",
    "new_empty", "_reshape_alias", "split_with_sizes", "_record_function_enter_new",
    "_record_function_exit", "linalg_vector_norm",  # on a GPU torch takes all norms at once
)  # fmt: skip

DISCRETE = DQNConfig(encoder_width=0.1, hidden=16, precision="fp32", batch_size=8)
CONTINUOUS = DDPGConfig(hidden=16, hidden_second=12, batch_size=8, precision="fp32")
PIXELS: dict[str, Any] = {"encoder": "drq", "encoder_width": 0.2, "random_shift": 2}
PLAIN = {"double": False, "dueling": False, "max_grad_norm": 0.0, "optimizer": "rmsprop"}
AGENTS: dict[str, tuple[type[DQN | DDPG], dict[str, Any], int]] = {
    # with the launches of an update, at most
    "dqn": (DQN, {}, 104),
    "dqn, no switch": (DQN, PLAIN, 68),
    "rainbow": (DQN, {"noisy": True, "distributional": True}, 200),
    "ddpg": (DDPG, {"policy_every": 3}, 84),
    "ddpg, actor too": (DDPG, {"policy_every": 1}, 124),
    "ddpg, pixels": (DDPG, {**PIXELS, "policy_every": 1}, 184),
}


def build(name: str, **where: Any) -> DQN | DDPG:
    kind, switches, _ = AGENTS[name]
    if kind is DQN:
        return DQN(replace(DISCRETE, **switches), (4, 40, 40), 3, seed=1, **where)
    shape = (3, 40, 40) if "encoder" in switches else (5,)
    return DDPG(replace(CONTINUOUS, **switches), shape, 2, seed=1, **where)


def batch(agent: DQN | DDPG) -> Batch:
    """Random transitions that fit an agent, on its device."""
    made = transitions(agent.online.encoder.observation_shape)
    if isinstance(agent, DQN):
        draw = torch.Generator().manual_seed(0)
        made = replace(made, action=torch.randint(0, agent.num_actions, (8,), generator=draw))
    return made.to(agent.device)


class Launches(TorchDispatchMode):
    """Counts what would be a launch on a GPU; refuses tensors of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.__name__.partition(".")[0]
        for tensor in tree_leaves((args, kwargs)):
            on_host = isinstance(tensor, Tensor) and tensor.device != META
            assert not on_host, f"{name} takes a tensor of the host, {tuple(tensor.shape)}"
        if name not in FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", AGENTS)
def test_an_update_is_all_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # "meta" knows neither autocast nor generators
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    on_host = torch.Generator
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", lambda device="cpu": on_host())
        learner = build(name, device=META)
    given = batch(learner)
    for _ in range(3):  # the optimisers' states are made
        learner.update(given)
    with Launches() as launches:
        learner.update(given)
    assert 40 < launches.found.total() <= AGENTS[name][2], launches.found


def test_a_tensor_of_the_host_is_seen() -> None:
    with pytest.raises(AssertionError, match="takes a tensor of the host"), Launches():
        torch.ones(2, device=META) * torch.tensor(3.0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compile in the thread that asks for it: torch's pool would stay for the tests that follow."""
    with torch._inductor.config.patch(compile_threads=1):
        yield


@needs_compiler
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["rainbow", "ddpg, actor too"])
def test_compiled_updates_are_the_same(name: str) -> None:
    plain, compiled = build(name), build(name)
    compile_agent(compiled)
    given = batch(plain)
    for _ in range(3):
        (expected, errors), (metrics, found) = plain.update(given), compiled.update(given)
        torch.testing.assert_close(found, errors, rtol=1e-3, atol=1e-4)
        assert metrics.keys() == expected.keys()
        for key in metrics:
            torch.testing.assert_close(metrics[key], expected[key], rtol=1e-3, atol=1e-4)
    pairs = zip(plain.online.parameters(), compiled.online.parameters(), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


@needs_compiler
@pytest.mark.usefixtures("one_thread")
def test_a_compiled_target_follows_its_weights() -> None:
    """Where bfloat16 weights are kept from one update to the next, on a CPU."""
    config = replace(DISCRETE, precision="bf16")
    plain, compiled = (DQN(config, (4, 40, 40), 3, seed=1) for _ in "ab")
    compile_agent(compiled)
    given = batch(plain)
    for _ in range(3):
        found, expected = compiled._target(given), plain._target(given)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03)
        for one in (plain, compiled):
            with torch.no_grad():
                for weight in one.online.parameters():
                    weight.mul_(1.7)
            one.synchronise()


@needs_compiler
@pytest.mark.usefixtures("one_thread")
def test_a_compiled_run_can_be_resumed_without_and_evaluated(tmp_path: Path) -> None:
    options = {"env": "CartPole-v1", "steps": 200, "learning_starts": 64, "out": str(tmp_path)}
    run = begin.create("dqn", None, {**options, "compile": True, "eval_episodes": 1})
    assert any("compiled" in note and "on a CPU they are slower" in note for note in run.notes)
    run.run(console=False)
    run.close()
    assert run.updates > 0
    assert len(evaluate_run(run.run_dir, episodes=2)["scores"]) == 2
    again = begin.resume(run.run_dir, 400, compile=False)
    assert not any("compiled" in note for note in again.notes)
    again.run(console=False)
    again.close()
    assert again.step == 400 and again.updates > run.updates


def test_what_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: object) -> object:
        raise RuntimeError("backend='inductor' raised:\nNo working C++ compiler found.\nset CXX")

    monkeypatch.setattr(torch, "compile", fails)
    told = r"can't compile for the cpu here \(No working C\+\+ compiler found\): install a"
    with pytest.raises(ValueError, match=told):
        compile_agent(build("ddpg"))
