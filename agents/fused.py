"""The layers of actors and critics on a CPU, as a single node of autograd.

Around the products, which are torch's, a layer is one pass over its rows: bias, LayerNorm, ReLU,
rounding to bfloat16 and the last layer forward, and all their gradients backward. As modules, one
operation after the other, they take several times as long as the products do.

What a pass remembers lies on a `Desk`, which later passes use again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from agents.fused_kernels import BITS, FLOAT, ahead, back

if TYPE_CHECKING:
    from agents.heads import Layers

_KINDS = {torch.float32: FLOAT, torch.bfloat16: BITS}


class _Memory:
    """What a layer's pass over its rows reads and writes, and where that lies."""

    def __init__(self, rows: int, units: int, kind: torch.dtype, y_kind: torch.dtype) -> None:
        self.product = torch.empty(rows, units, dtype=kind)
        self.y = torch.empty(rows, units, dtype=y_kind)
        self.slope = torch.empty_like(self.product)
        self.above = torch.empty_like(self.y)
        self._rows = torch.empty(2, rows)
        self.shape = rows, units
        self.x_at = self.product.data_ptr(), _KINDS[kind]
        self.y_at = self.y.data_ptr(), _KINDS[y_kind]
        self.rows_at = self._rows.data_ptr()
        self.slope_at, self.above_at = self.slope.data_ptr(), self.above.data_ptr()


class Desk:
    """The memory of one pass over a number of rows through two layers; later passes use it again.

    units are those of the layers, kinds the types that they compute in.
    """

    @torch.inference_mode(False)  # or none but inference could use it again
    def __init__(
        self, rows: int, units: tuple[int, int], kinds: tuple[torch.dtype, torch.dtype]
    ) -> None:
        self.first = _Memory(rows, units[0], *kinds)
        self.second = _Memory(rows, units[1], kinds[1], torch.float32)


class Desks:
    """Those that are free, by what they are for; a copy has none, for they know addresses."""

    def __init__(self) -> None:
        self._free: dict[Any, list[Desk]] = {}

    def lease(self, *of: Any) -> Lease:
        """A desk of these arguments of Desk, one that is free where there is any."""
        if of not in self._free:
            if len(self._free) == _KINDS_KEPT:
                self._free.clear()
            self._free[of] = []
        free = self._free[of]
        return Lease(free, free.pop() if free else Desk(*of))

    def __len__(self) -> int:
        return sum(map(len, self._free.values()))

    def __reduce__(self) -> tuple[type[Desks], tuple[()]]:
        return Desks, ()


_KINDS_KEPT = 4
"""An agent has two: the rows that it acts on, and those of a batch."""


class Lease:
    """A desk for as long as a pass's slopes may be asked for."""

    def __init__(self, free: list[Desk], desk: Desk) -> None:
        self._free, self.desk = free, desk

    def __del__(self) -> None:
        self._free.append(self.desk)


def fits(layers: Layers, x: Tensor) -> bool:
    """Whether `run` computes these layers for x (B, F); whoever looks into the graph doesn't."""
    return (
        layers.fuses
        and x.is_cpu
        and x.ndim == 2
        and x.dtype in _KINDS
        and layers.last.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def run(layers: Layers, x: Tensor, action: Tensor | None, between: torch.dtype) -> Tensor:
    """The layers' output (B, out) float32, of x (B, F) and, for a critic, actions (B, A).

    The second layer computes in the type `between`.
    """
    first, second, last = layers.first, layers.second, layers.last
    weights = [first.weight, first.bias, second.weight, second.bias, last.weight, last.bias]
    eps = 0.0
    if layers.normal:
        for norm in layers.norms:
            assert isinstance(norm, nn.LayerNorm)
            weights += [norm.weight, norm.bias]
            eps = norm.eps
    if action is not None:
        x = torch.cat((x.float(), action), 1)
    units = first.out_features, second.out_features
    lease = layers.desks.lease(x.shape[0], units, (x.dtype, between))
    rounded = first.rounded(x.dtype), second.rounded(between)
    if torch.is_grad_enabled():
        found: Tensor = _Pass.apply(lease, rounded, eps, x, *weights)
        return found
    return _forward(lease.desk, rounded, eps, x, weights)


def _norms(weights: Sequence[Tensor]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Addresses of weight and bias of both LayerNorms; 0 where there are none."""
    if len(weights) == 6:
        return (0, 0), (0, 0)
    one, two, three, four = (weight.data_ptr() for weight in weights[6:])
    return (one, two), (three, four)


def _forward(
    desk: Desk,
    rounded: tuple[Tensor, Tensor],
    eps: float,
    x: Tensor,
    weights: Sequence[Tensor],
) -> Tensor:
    one, two, norms = desk.first, desk.second, _norms(weights)
    b1, b2, w3, b3 = weights[1], weights[3], weights[4], weights[5]
    outputs = w3.shape[0]
    out = torch.empty(x.shape[0], outputs)
    last = outputs, w3.data_ptr(), b3.data_ptr(), out.data_ptr()
    torch.mm(x, rounded[0].t(), out=one.product)
    ahead(one.shape, *one.x_at, b1.data_ptr(), norms[0], eps, one.rows_at, *one.y_at, 0, 0, 0, 0)
    torch.mm(one.y, rounded[1].t(), out=two.product)
    ahead(two.shape, *two.x_at, b2.data_ptr(), norms[1], eps, two.rows_at, *two.y_at, *last)
    return out


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lease: Lease, rounded: Any, eps: float, *of: Tensor) -> Tensor:
        ctx.lease, ctx.rounded = lease, rounded
        ctx.save_for_backward(*of)
        return _forward(lease.desk, rounded, eps, of[0], of[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        one, two = ctx.lease.desk.first, ctx.lease.desk.second
        x, *weights = ctx.saved_tensors
        b1, b2, w3, b3 = weights[1], weights[3], weights[4], weights[5]
        norms, slope = _norms(weights), slope.contiguous()
        of1, of2 = torch.empty(3, one.shape[1]), torch.empty(3, two.shape[1])
        of_w3, of_b3 = torch.empty_like(w3), torch.empty_like(b3)
        back(
            two.shape, slope.data_ptr(), *two.y_at, *two.x_at, b2.data_ptr(), norms[1],
            two.rows_at, two.slope_at, of2.data_ptr(),
            w3.shape[0], w3.data_ptr(), of_w3.data_ptr(), of_b3.data_ptr(),
        )  # fmt: skip
        torch.mm(two.slope, ctx.rounded[1], out=one.above)
        back(
            one.shape, one.above_at, *one.y_at, *one.x_at, b1.data_ptr(), norms[0],
            one.rows_at, one.slope_at, of1.data_ptr(), 0, 0, 0, 0,
        )  # fmt: skip
        wants = ctx.needs_input_grad[3:]
        of_x = torch.mm(one.slope, ctx.rounded[0]) if wants[0] else None
        of_weights: list[Tensor | None] = [None] * len(weights)
        if any(wants[1:]):
            of_weights = [torch.mm(one.slope.t(), x).float(), of1[0]]
            of_weights += [torch.mm(two.slope.t(), one.y).float(), of2[0], of_w3, of_b3]
            of_weights += [of1[1], of1[2], of2[1], of2[2]] if norms[0][0] else []
        return None, None, None, of_x, *of_weights
