# mypy: allow-untyped-defs, allow-untyped-calls
"""Kernels of `agents.fused`: one pass over a layer's rows, forward or backward.

bfloat16, which numpy and numba don't have, comes as its bits in uint16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
"""Sums in any order, but NaN stays NaN."""
_compiled: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FASTMATH)


def _decode(x):
    """The float32 that `x` is, or whose bfloat16 bits it is."""


def _encode(array, value):
    """A float32 as `array` stores it: itself, or its bits as bfloat16, rounded to nearest even."""


@overload(_decode, inline="always")
def _decoder(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(_encode, inline="always")
def _encoder(array, value):
    if array.dtype != types.uint16:
        return lambda array, value: value

    def rounded(array, value):
        bits = np.float32(value).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        nearest = np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        return np.uint16(nearest if value == value else np.uint32(0x7FC0))

    return rounded


@_compiled
def forward(
    product, bias, gain, shift, eps, statistics, activation, last_weight, last_bias, out
):  # fmt: skip
    """activation (B, N) = ReLU(LayerNorm(product + bias)); out (B, O) = the last layer of it.

    gain and shift (N,) are LayerNorm's weight and bias; empty ones leave it out. statistics (2, B)
    become its mean and inverse deviation of each row. Without a last layer O is 0.
    """
    rows, units = product.shape
    zero, size = np.float32(0), np.float32(units)
    row = np.empty(units, np.float32)
    for i in range(rows):
        for j in range(units):
            row[j] = _decode(product[i, j]) + bias[j]
        if gain.size > 0:
            total, squares = zero, zero
            for j in range(units):
                total += row[j]
            mean = total / size
            for j in range(units):
                squares += (row[j] - mean) * (row[j] - mean)
            scale = np.float32(1) / np.sqrt(squares / size + np.float32(eps))
            statistics[0, i], statistics[1, i] = mean, scale
            for j in range(units):
                row[j] = (row[j] - mean) * scale * gain[j] + shift[j]
        for j in range(units):
            row[j] = zero if row[j] <= zero else row[j]
        for j in range(units):
            activation[i, j] = _encode(activation, row[j])
        for o in range(last_weight.shape[0]):
            total = zero
            for j in range(units):
                total += row[j] * last_weight[o, j]
            out[i, o] = total + last_bias[o]


@_compiled
def backward(
    grad, product, bias, gain, statistics, activation, last_weight,
    grad_product, grads, grad_last_weight, grad_last_bias,
):  # fmt: skip
    """Gradients of what `forward` did, from `grad`: that of out, or of activation without one.

    grad_product (B, N) receives the product's, grads (3, N) those of bias, gain and shift.
    """
    rows, units = product.shape
    zero, size = np.float32(0), np.float32(units)
    row, g = np.empty(units, np.float32), np.empty(units, np.float32)
    grad_bias, grad_gain, grad_shift = grads[0], grads[1], grads[2]
    grads[:] = 0
    grad_last_weight[:] = 0
    grad_last_bias[:] = 0
    for i in range(rows):
        if last_weight.shape[0] == 0:
            for j in range(units):
                g[j] = _decode(grad[i, j])
        else:
            g[:] = 0
        for o in range(last_weight.shape[0]):
            of_out = _decode(grad[i, o])
            for j in range(units):
                g[j] += of_out * last_weight[o, j]
            for j in range(units):
                grad_last_weight[o, j] += of_out * _decode(activation[i, j])
            grad_last_bias[o] += of_out
        for j in range(units):
            g[j] = zero if _decode(activation[i, j]) <= zero else g[j]
        if gain.size > 0:
            mean, scale = statistics[0, i], statistics[1, i]
            mean_grad, mean_along = zero, zero
            for j in range(units):
                row[j] = (_decode(product[i, j]) + bias[j] - mean) * scale
            for j in range(units):
                grad_shift[j] += g[j]
            for j in range(units):
                grad_gain[j] += g[j] * row[j]
            for j in range(units):
                g[j] *= gain[j]
                mean_grad += g[j]
                mean_along += g[j] * row[j]
            mean_grad, mean_along = mean_grad / size, mean_along / size
            for j in range(units):
                g[j] = scale * (g[j] - mean_grad - row[j] * mean_along)
        for j in range(units):
            grad_product[i, j] = _encode(grad_product, g[j])
        for j in range(units):
            grad_bias[j] += g[j]
