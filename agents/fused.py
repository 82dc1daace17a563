"""The layers of actors and critics on a CPU, as a single node of autograd.

Around the products, which are torch's, a layer is one pass over its rows: bias, LayerNorm, ReLU,
rounding to bfloat16 and the last layer forward, and all their gradients backward. As modules, one
operation after the other, they take several times as long as the products do.

The modules stay what they are, and compute themselves wherever someone may have changed them or
watches them: hooks, pruning, parametrisations, other classes, torch's transforms and modes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from agents import fused_kernels
from agents.linear import Linear

if TYPE_CHECKING:
    from agents.heads import Layers

_DTYPES = torch.float32, torch.bfloat16
_PLAIN = Tensor, nn.Parameter
_NONE, _NO_ROWS = np.empty(0, np.float32), np.empty((0, 0), np.float32)
"""In the place of a norm's parameters, and of a last layer's."""
_KEPT = 4
"""Sizes that workspaces are kept for. An agent has two: rows that it acts on, and a batch's."""


def run(layers: Layers, x: Tensor, second: torch.dtype) -> Tensor | None:
    """The layers' output (B, out) float32, of what goes into the first one, x (B, F).

    The second layer computes in the type `second`. None where the modules have to do it.
    """
    if (
        type(x) not in _PLAIN
        or not x.is_cpu
        or x.ndim != 2
        or x.dtype not in _DTYPES
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or (parameters := _parameters(layers)) is None
    ):
        return None
    if x.shape[1] != layers.first.in_features:
        return None  # and the modules say what doesn't fit
    key = x.shape[0], *parameters.units, x.dtype, second
    rounded = layers.first.rounded(x.dtype), layers.second.rounded(second)
    eps = tuple(getattr(norm, "eps", 0.0) for norm in layers.norms)
    lease = layers.workspaces.lease(key)
    if torch.is_grad_enabled():
        out: Tensor = _Layers.apply(lease, parameters, rounded, eps, x, *parameters.tensors)
        return out
    return _forward(lease.workspace, parameters, rounded, eps, x)


class Parameters(NamedTuple):
    """What the kernels read of the modules: first, second and last layer, and the norms."""

    key: tuple[int, ...]
    """By which a change is known: identities and addresses."""
    tensors: list[Tensor]
    biases: tuple[np.ndarray, np.ndarray]
    gains: tuple[np.ndarray, np.ndarray]
    shifts: tuple[np.ndarray, np.ndarray]
    last: tuple[np.ndarray, np.ndarray]
    units: tuple[int, int]


def _parameters(layers: Layers) -> Parameters | None:
    """Those of modules that are as they were built; None of others."""
    first, second, last, (one, other) = layers.first, layers.second, layers.last, layers.norms
    norm = type(one)
    if (
        not layers.fuses
        or (type(first), type(second), type(last)) != (Linear, Linear, nn.Linear)
        or type(other) is not norm
        or norm not in (nn.Identity, nn.LayerNorm)
        or _has_any_global_hook()
    ):
        return None
    found = [first.weight, first.bias, second.weight, second.bias, last.weight, last.bias]
    if norm is nn.LayerNorm:
        found += [one.weight, one.bias, other.weight, other.bias]  # type: ignore[list-item]
    key = []
    for module in (first, second, last, one, other):
        of = vars(module)
        if (
            of["_forward_hooks"]
            or of["_forward_pre_hooks"]
            or of["_backward_hooks"]
            or of["_backward_pre_hooks"]
        ):
            return None
    for tensor in found:
        if type(tensor) not in _PLAIN:
            return None
        key += [id(tensor), tensor.data_ptr()]
    known = layers.workspaces.parameters
    if known is None or known.key != tuple(key):
        known = layers.workspaces.parameters = _checked(tuple(key), found, layers.first.in_features)
    return known


def _checked(key: tuple[int, ...], tensors: list[Tensor], features: int) -> Parameters | None:
    w1, b1, w2, b2, w3, b3, *norms = tensors
    first, second, outputs = w1.shape[0], w2.shape[0], w3.shape[0]
    shapes = (first, features), (first,), (second, first), (second,), (outputs, second), (outputs,)
    wanted = [*shapes, (first,), (first,), (second,), (second,)][: len(tensors)]
    if any(
        not of.is_cpu or of.dtype != torch.float32 or tuple(of.shape) != shape
        for of, shape in zip(tensors, wanted, strict=True)
    ):
        return None
    b1, b2, w3, b3, *norms = (of.detach() for of in (b1, b2, w3, b3, *norms))
    gains, shifts = (_NONE, _NONE), (_NONE, _NONE)
    if norms:
        gains = norms[0].numpy(), norms[2].numpy()
        shifts = norms[1].numpy(), norms[3].numpy()
    biases, last = (b1.numpy(), b2.numpy()), (w3.numpy(), b3.numpy())
    return Parameters(key, tensors, biases, gains, shifts, last, (first, second))


class _Buffers:
    """A layer's part of a workspace: tensors for the products, arrays of them for the kernels."""

    def __init__(self, rows: int, units: int, dtype: torch.dtype, activated: torch.dtype) -> None:
        self.product, self.product_array = _empty(rows, units, dtype)
        self.grad_product, self.grad_product_array = _empty(rows, units, dtype)
        self.activation, self.activation_array = _empty(rows, units, activated)
        self.grad_activation, self.grad_activation_array = _empty(rows, units, activated)
        self.statistics = np.empty((2, rows), np.float32)


def _empty(rows: int, units: int, dtype: torch.dtype) -> tuple[Tensor, np.ndarray]:
    tensor = torch.empty(rows, units, dtype=dtype, device="cpu")
    return tensor, (tensor if dtype == torch.float32 else tensor.view(torch.uint16)).numpy()


class Workspace:
    """The memory of one pass over `rows` rows: what its gradients need, and where they go."""

    @torch.inference_mode(False)  # or none but inference could use it again
    def __init__(
        self, rows: int, first: int, second: int, dtype: torch.dtype, second_dtype: torch.dtype
    ) -> None:
        self.first = _Buffers(rows, first, dtype, second_dtype)
        self.second = _Buffers(rows, second, second_dtype, torch.float32)


class Workspaces:
    """Those that no pass holds, and what is known of the parameters; copies begin with nothing."""

    def __init__(self) -> None:
        self.parameters: Parameters | None = None
        self._free: dict[Any, list[Workspace]] = {}

    def lease(self, key: Any) -> Lease:
        """A workspace of these sizes and types, a free one where there is any."""
        if key not in self._free:
            if len(self._free) == _KEPT:
                del self._free[next(iter(self._free))]
            self._free[key] = []
        free = self._free[key]
        return Lease(free, free.pop() if free else Workspace(*key))

    def __len__(self) -> int:
        return sum(map(len, self._free.values()))

    def __reduce__(self) -> tuple[type[Workspaces], tuple[()]]:
        return Workspaces, ()


class Lease:
    """A workspace, free again when this is forgotten."""

    def __init__(self, free: list[Workspace], workspace: Workspace) -> None:
        self._free, self.workspace = free, workspace

    def __del__(self) -> None:
        self._free.append(self.workspace)


def _forward(
    workspace: Workspace,
    parameters: Parameters,
    rounded: tuple[Tensor, Tensor],
    eps: tuple[float, ...],
    x: Tensor,
) -> Tensor:
    one, two = workspace.first, workspace.second
    biases, gains, shifts = parameters.biases, parameters.gains, parameters.shifts
    weight, bias = parameters.last
    out = np.empty((x.shape[0], weight.shape[0]), np.float32)
    torch.mm(x, rounded[0].t(), out=one.product)
    fused_kernels.forward(
        one.product_array, biases[0], gains[0], shifts[0], eps[0], one.statistics,
        one.activation_array, _NO_ROWS, _NONE, _NO_ROWS,
    )  # fmt: skip
    torch.mm(one.activation, rounded[1].t(), out=two.product)
    fused_kernels.forward(
        two.product_array, biases[1], gains[1], shifts[1], eps[1], two.statistics,
        two.activation_array, weight, bias, out,
    )  # fmt: skip
    return torch.from_numpy(out)


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        lease: Lease,
        parameters: Parameters,
        rounded: tuple[Tensor, Tensor],
        eps: tuple[float, ...],
        x: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        ctx.parameters, ctx.rounded = parameters, rounded
        # the lease hangs on what is saved, for that is forgotten after the last backward pass,
        # and ctx only with the output; the weights are there for torch to see that they stay
        holder = torch.empty(0)
        holder.lease = lease  # type: ignore[attr-defined]
        ctx.save_for_backward(holder, x, *weights)
        return _forward(lease.workspace, parameters, rounded, eps, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the layers of actors and critics have first derivatives alone on a CPU; set "
                "`fuses` of each agents.heads.Layers to False for second ones"
            )
        holder, x, *weights = ctx.saved_tensors
        one, two = holder.lease.workspace.first, holder.lease.workspace.second
        biases, gains, last = ctx.parameters.biases, ctx.parameters.gains, ctx.parameters.last[0]
        first_grads = np.empty((3, biases[0].size), np.float32)
        second_grads = np.empty((3, biases[1].size), np.float32)
        grad_weight, grad_bias = np.empty(last.shape, np.float32), np.empty(len(last), np.float32)
        fused_kernels.backward(
            grad.resolve_neg().contiguous().numpy(), two.product_array, biases[1], gains[1],
            two.statistics, two.activation_array, last,
            two.grad_product_array, second_grads, grad_weight, grad_bias,
        )  # fmt: skip
        torch.mm(two.grad_product, ctx.rounded[1], out=one.grad_activation)
        fused_kernels.backward(
            one.grad_activation_array, one.product_array, biases[0], gains[0],
            one.statistics, one.activation_array, _NO_ROWS,
            one.grad_product_array, first_grads, _NO_ROWS, _NONE,
        )  # fmt: skip
        wants = ctx.needs_input_grad[4:]  # after what is no tensor
        grad_x = torch.mm(one.grad_product, ctx.rounded[0]) if wants[0] else None
        grads: list[Tensor | None] = [None] * len(weights)
        if any(wants[1:]):
            of_first, of_second = torch.from_numpy(first_grads), torch.from_numpy(second_grads)
            grads = [torch.mm(one.grad_product.t(), x).float(), of_first[0]]
            grads += [torch.mm(two.grad_product.t(), one.activation).float(), of_second[0]]
            grads += [torch.from_numpy(grad_weight), torch.from_numpy(grad_bias)]
            grads += [of_first[1], of_first[2], of_second[1], of_second[2]][: len(weights) - 6]
        return None, None, None, None, grad_x, *grads
