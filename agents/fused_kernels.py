# mypy: allow-untyped-defs, allow-untyped-calls
"""Kernels of `agents.fused`: one pass over a layer's rows, forward or backward.

They get addresses, for numpy's view of a tensor takes as long as a small kernel, and know bfloat16
as its bits in uint16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic, overload

BITS, FLOAT = np.empty(0, np.uint16), np.empty(0, np.float32)
"""What tells a kernel the type of what lies at an address: arrays, which numba knows soonest."""
_MATHS = {"reassoc", "contract", "nsz", "arcp"}
"""Liberties of the compiler: sums in any order; NaN stays NaN."""
_compiled: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath=_MATHS)


@intrinsic
def _pointer(typing, address, kind):
    """A pointer to numbers of the type of the array `kind`."""

    def build(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(address, kind), build


@_compiled
def _at(address, shape, kind):
    """The array that lies there."""
    return carray(_pointer(address, kind), shape)  # type: ignore[call-arg]


def _value(x):
    """The number that `x` is, or whose bits it is."""


def _of(array, value):
    """That number as `array` holds it: itself, or its bits."""


@overload(_value, inline="always")
def _value_of(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(_of, inline="always")
def _of_kind(array, value):
    if array.dtype != types.uint16:
        return lambda array, value: value

    def rounded(array, value):
        bits = np.float32(value).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        nearest = np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        return np.uint16(nearest if value == value else np.uint32(0x7FC0))

    return rounded


@_compiled
def ahead(shape, x, x_kind, bias, norm, eps, rows, y, y_kind, outputs, weight, last, out):
    """y (B, N) = ReLU(LayerNorm(x + bias)), and out (B, outputs) the last layer of it, if any.

    norm (2, N) are LayerNorm's weight and bias, none at address 0; rows (2, B) become each row's
    mean and inverse deviation.
    """
    zero, size, normal = np.float32(0), np.float32(shape[1]), norm[0] != 0
    x, y = _at(x, shape, x_kind), _at(y, shape, y_kind)
    bias, rows = _at(bias, shape[1], FLOAT), _at(rows, (2, shape[0]), FLOAT)
    gain, shift = _at(norm[0], shape[1], FLOAT), _at(norm[1], shape[1], FLOAT)
    weight, last = _at(weight, (outputs, shape[1]), FLOAT), _at(last, outputs, FLOAT)
    out = _at(out, (shape[0], outputs), FLOAT)
    row = np.empty(shape[1], np.float32)
    for i in range(shape[0]):
        for j in range(shape[1]):
            row[j] = _value(x[i, j]) + bias[j]
        if normal:
            total, spread = zero, zero
            for j in range(shape[1]):
                total += row[j]
            mean = total / size
            for j in range(shape[1]):
                spread += (row[j] - mean) * (row[j] - mean)
            scale = np.float32(1) / np.sqrt(spread / size + np.float32(eps))
            rows[0, i], rows[1, i] = mean, scale
            for j in range(shape[1]):
                row[j] = (row[j] - mean) * scale * gain[j] + shift[j]
        for j in range(shape[1]):
            row[j] = zero if row[j] <= zero else row[j]
        for j in range(shape[1]):
            y[i, j] = _of(y, row[j])
        for o in range(outputs):
            total = zero
            for j in range(shape[1]):
                total += row[j] * weight[o, j]
            out[i, o] = total + last[o]


@_compiled
def back(
    shape, slope, y, y_kind, x, x_kind, bias, norm, rows, into, slopes,
    outputs, weight, of_weight, of_last,
):  # fmt: skip
    """Slopes of what `ahead` did: into (B, N) that of x, slopes (3, N) of bias, gain and shift.

    slope is that of y; with a last layer, that of its output (B, outputs), and of_weight (outputs,
    N) and of_last (outputs,) receive those of its weight and bias.
    """
    zero, size, normal = np.float32(0), np.float32(shape[1]), norm[0] != 0
    x, into = _at(x, shape, x_kind), _at(into, shape, x_kind)
    y, above = _at(y, shape, y_kind), _at(slope, shape, y_kind)
    bias, rows = _at(bias, shape[1], FLOAT), _at(rows, (2, shape[0]), FLOAT)
    gain, slopes = _at(norm[0], shape[1], FLOAT), _at(slopes, (3, shape[1]), FLOAT)
    weight = _at(weight, (outputs, shape[1]), FLOAT)
    last, of_last = _at(slope, (shape[0], outputs), FLOAT), _at(of_last, outputs, FLOAT)
    of_weight = _at(of_weight, (outputs, shape[1]), FLOAT)
    of_bias, of_gain, of_shift = slopes[0], slopes[1], slopes[2]
    row, g = np.empty(shape[1], np.float32), np.empty(shape[1], np.float32)
    slopes[:] = 0
    of_weight[:] = 0
    of_last[:] = 0
    for i in range(shape[0]):
        if outputs == 0:
            for j in range(shape[1]):
                g[j] = _value(above[i, j])
        else:
            g[:] = 0
        for o in range(outputs):
            c = last[i, o]
            for j in range(shape[1]):
                g[j] += c * weight[o, j]
            for j in range(shape[1]):
                of_weight[o, j] += c * _value(y[i, j])
            of_last[o] += c
        for j in range(shape[1]):
            g[j] = g[j] if _value(y[i, j]) > 0 else zero
        if normal:
            mean, scale = rows[0, i], rows[1, i]
            total, along = zero, zero
            for j in range(shape[1]):
                row[j] = (_value(x[i, j]) + bias[j] - mean) * scale
            for j in range(shape[1]):
                of_shift[j] += g[j]
            for j in range(shape[1]):
                of_gain[j] += g[j] * row[j]
            for j in range(shape[1]):
                g[j] *= gain[j]
                total += g[j]
                along += g[j] * row[j]
            total, along = total / size, along / size
            for j in range(shape[1]):
                g[j] = scale * (g[j] - total - row[j] * along)
        for j in range(shape[1]):
            into[i, j] = _of(into, g[j])
        for j in range(shape[1]):
            of_bias[j] += g[j]
