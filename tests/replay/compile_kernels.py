"""Compile every Triton kernel of the replay for GPUs that need not be there.

    python -m tests.replay.compile_kernels

Runs the replay's launches with the kernels replaced by their compilation ahead of time, for sm_80
and sm_90, and prints as JSON: {kernel: [[capability, bytes of PTX, bytes of cubin], ...]}. Triton
must not interpret here, which is why this is a process of its own.
"""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from replay import kernels, state, tree_triton
from replay.ring_triton import TritonOps
from replay.state import Step, words
from replay.types import Field

TARGETS = [GPUTarget("cuda", capability, 32) for capability in (80, 90)]
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}

found: dict[str, list[list[int]]] = defaultdict(list)


def compile_instead(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """What a launch becomes: a compilation with its arguments' types and constants."""
    options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
    given = inspect.signature(self.fn).bind(*args, **kwargs).arguments
    signature, constants = {}, {}
    for parameter in self.params:
        value = given[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            is_tensor = isinstance(value, torch.Tensor)
            signature[parameter.name] = TYPES[value.dtype] if is_tensor else "i32"
    for target in TARGETS:
        source = ASTSource(fn=self, signature=signature, constexprs=constants)
        made = triton.compile(source, target=target, options=options)
        sizes = [target.arch, len(made.asm["ptx"]), len(made.asm["cubin"])]
        found[self.fn.__name__].append(sizes)


def defined(*modules: ModuleType) -> Iterator[str]:
    """Names of the kernels of some modules; what kernels call is named otherwise."""
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                yield name


def launch_all(ranked: bool) -> None:
    """Every operation once, with Atari's shapes, a ring of 2^17 and a batch of 32."""
    device, lanes = torch.device("cpu"), 8
    spec = {"frame": Field((1, 84, 84), "uint8", 4)}
    held = state.build(
        spec, Field((), "int64"), lanes=lanes, rows=(1 << 17) // lanes, n_step=3, gamma=0.99,
        alpha=0.6, eps=1e-6, ranked=ranked, overall=ranked, seed=0, device=device,
    )  # fmt: skip
    ops = TritonOps(held)
    frame = words(torch.zeros((lanes, 84, 84), dtype=torch.uint8), lanes)
    action = words(torch.zeros(lanes, dtype=torch.int64), lanes)
    flag = torch.zeros(lanes, dtype=torch.uint8)
    lane = torch.arange(lanes)
    for what in (None, action):
        ops.write(held, Step(lane, {"frame": frame}, what, torch.zeros(lanes), flag, flag))
    beta = torch.ones(1, dtype=torch.float64)
    ops.update(held, torch.zeros(32, dtype=torch.int64), torch.zeros(32))
    ops.sample(held, 32, beta)
    if ranked:
        return
    ops.update(held, torch.zeros(2000, dtype=torch.int64), torch.zeros(2000))
    ops.sample(held, 32, beta, torch.zeros(32, dtype=torch.float64))
    ops.stacks(held, torch.zeros(lanes, dtype=torch.int64))


if __name__ == "__main__":
    JITFunction.run = compile_instead  # type: ignore[method-assign]
    launch_all(ranked=False)
    launch_all(ranked=True)
    missing = set(defined(kernels, tree_triton)) - set(found)
    assert not missing, f"never launched: {missing}"
    print(json.dumps(found))
