"""An agent's policy as a file that needs nothing of ours: for torch alone, or as ONNX.

The program takes a batch of stacked observations as the agent sees them (uint8 images, float32
vectors, by name where there are several parts) and gives the environment's own actions, and for
discrete ones the value of each. It computes in float32, whatever the run did.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents import config
from agents.build import build_agent
from agents.ddpg import ActorCritic, Policy
from agents.export_command import SUFFIXES
from agents.kept import described
from agents.loop import observation_field
from agents.noisy import silence
from agents.player import load_agent
from agents.process import write_bytes
from envs import make
from replay import Observation
from replay.device import reason
from replay.types import Spec

NOTES = "sightline.json"
"""The notes' name among a .pt2 file's extra files, and in an .onnx file's metadata."""
OUTPUTS = ("action", "values")
TOLERANCE = 1e-3
"""How far a program's numbers may be from the agent's, as a share of the greatest."""


class Greedy(nn.Module):
    """Observations -> the actions (B,) int64 of the greatest value, and all values (B, A)."""

    def __init__(self, network: Any, first: int) -> None:
        super().__init__()
        self.network, self.first = network, first

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Observations (B, *shape), by part -> actions and values."""
        values = self.network.q(self.network(observation))
        return values.argmax(1) + self.first, values


class Scaled(nn.Module):
    """Observations -> the policy's actions (B, *shape) float32, in the environment's bounds."""

    least: Tensor
    greatest: Tensor

    def __init__(self, network: ActorCritic, least: np.ndarray, greatest: np.ndarray) -> None:
        super().__init__()
        self.policy = Policy(network)  # without the critics
        for name, bound in (("least", least), ("greatest", greatest)):
            self.register_buffer(name, torch.from_numpy(bound.astype(np.float32)))

    def forward(self, observation: Observation) -> tuple[Tensor]:
        """Observations (B, *shape), by part -> actions."""
        action = torch.tanh(self.policy(observation)).unflatten(1, self.least.shape)
        share = (action + 1) / 2
        return (self.least + share * (self.greatest - self.least),)


def export(
    folder: Path, path: Path, note: Callable[[str], None] = warnings.warn, *, best: bool = False
) -> dict[str, Any]:
    """Write the policy of a run's newest checkpoint to `path`, .pt2 or .onnx; returns the notes.

    best  takes the agent of its best evaluation instead

    The notes lie in the file, too: what goes in and comes out, by name, shape and dtype, and where
    the agent comes from. A .pt2 file is `torch.export`'s: `torch.export.load(path).module()`.
    Before it is put in place the program is run beside the agent, whose actions it must give.
    Raises ValueError for another suffix, and where an encoder of your own can't be traced;
    ImportError for .onnx without the packages that write it.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{str(path)!r} must end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".onnx":
        _require_onnx()
    chosen = config.load(folder)
    env = make(chosen.env, seed=0, num_envs=1, evaluation=True)
    try:
        spec, actions, spaces = observation_field(env), env.actions, described(env)
        agent, step = load_agent(folder, chosen, env, "cpu", note, best=best)
        plain = build_agent(chosen.replace(precision="fp32"), env, 0)
    finally:
        env.close()
    plain.load_state_dict(agent.state_dict())
    network: Any = plain.online  # type: ignore[attr-defined]
    silence(network)
    discrete = bool(actions.names)
    policy = Greedy(network, actions.own(0)) if discrete else Scaled(network, *actions.bounds)
    policy.requires_grad_(False).eval()
    trial = _trial(spec, 3)
    expected = policy(trial)
    notes = {
        "environment": chosen.env.env,
        "algorithm": chosen.algorithm,
        "step": step,
        "inputs": _inputs(trial),
        "observation": _described(spec),
        **{name: _shape(made) for name, made in zip(OUTPUTS, expected, strict=False)},
        "actions": list(actions.names),
        "spaces": spaces,
    }
    content = _content(policy, trial, path.suffix, notes)
    found = _run(content, path.suffix, trial)
    apart = float((found[-1] - expected[-1]).abs().max() / expected[-1].abs().max())
    if not apart < TOLERANCE:
        raise ValueError(f"the program gives other numbers than the agent, by {apart:.2g}")
    write_bytes(path, content)
    return notes


def _described(spec: Spec) -> Any:
    """Shapes and dtypes of what goes in, by part."""
    if isinstance(spec, dict):
        return {name: _described(field) for name, field in spec.items()}
    return {"shape": ["batch", *spec.stacked_shape], "dtype": spec.dtype, "stack": spec.stack}


def _shape(output: Tensor) -> dict[str, Any]:
    kind = str(output.dtype).removeprefix("torch.")
    return {"shape": ["batch", *output.shape[1:]], "dtype": kind}


def _trial(spec: Spec, count: int) -> Any:
    """Random observations (count, *stacked_shape), by part."""
    if isinstance(spec, dict):
        return {name: _trial(field, count) for name, field in spec.items()}
    draw = np.random.default_rng(0)
    shape = (count, *spec.stacked_shape)
    drawn = draw.integers(0, 256, shape) if spec.dtype == "uint8" else draw.random(shape)
    return torch.from_numpy(drawn.astype(spec.dtype))


def _content(policy: nn.Module, trial: Any, suffix: str, notes: dict[str, Any]) -> bytes:
    """The file's content."""
    batch = torch.export.Dim("batch", min=1)
    sizes = {name: {0: batch} for name in trial} if isinstance(trial, dict) else {0: batch}
    content = io.BytesIO()
    with _quiet():
        try:
            program = torch.export.export(policy, (trial,), dynamic_shapes=(sizes,))
        except Exception as error:  # whatever an encoder of one's own does
            raise ValueError(
                "this agent can't be exported: its encoder does what no program can follow, such "
                f"as a branch on values: {type(error).__name__}: {reason(error)}"
            ) from error
        if suffix == ".pt2":
            torch.export.save(program, content, extra_files={NOTES: json.dumps(notes)})
            return content.getvalue()
        outputs = [name for name in OUTPUTS if name in notes]
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=notes["inputs"], output_names=outputs
        )
    assert made is not None
    made.model.metadata_props[NOTES] = json.dumps(notes)
    return bytes(made.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about its own ways."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _run(content: bytes, suffix: str, trial: Any) -> tuple[Tensor, ...]:
    """What a file's program gives for some observations."""
    if suffix == ".pt2":
        return tuple(torch.export.load(io.BytesIO(content)).module()(trial))
    import onnxruntime

    session = onnxruntime.InferenceSession(content)
    parts = trial.values() if isinstance(trial, dict) else [trial]
    given = {name: part.numpy() for name, part in zip(_inputs(trial), parts, strict=True)}
    return tuple(torch.from_numpy(array) for array in session.run(None, given))


def _inputs(trial: Any) -> list[str]:
    """What an .onnx file calls the parts of an observation: no input may have an output's name."""
    if not isinstance(trial, dict):
        return ["observation"]
    return [f"observation/{name}" if name in OUTPUTS else name for name in trial]


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f".onnx needs the package {error.name}: pip install -c constraints.txt -e '.[onnx]'"
        ) from None
