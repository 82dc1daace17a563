"""Byte copies between slots of the ring and batches, one memcpy a frame."""

from __future__ import annotations

import math
from typing import Any
from weakref import ref

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray


@intrinsic
def _memcpy(typing_context, target, to, source, start, count):  # type: ignore[no-untyped-def]
    """Copy `count` bytes; a loop over bytes would be compiled anew for each shape and type."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        out = context.make_array(signature.args[0])(context, builder, args[0])
        inp = context.make_array(signature.args[2])(context, builder, args[2])
        cgutils.raw_memcpy(
            builder,
            builder.gep(out.data, [args[1]]),
            builder.gep(inp.data, [args[3]]),
            args[4],
            1,
        )
        return context.get_dummy_value()

    signature = types.void(target, types.int64, source, types.int64, types.int64)
    return signature, codegen


@njit("void(u1[::1], i8[::1], u1[::1], i8)", nogil=True, cache=True)
def scatter(ring, slots, source, size):  # type: ignore[no-untyped-def]
    """Copy item i of `source` to slot `slots[i]` of `ring`; an item is `size` bytes."""
    for i in range(slots.size):
        _memcpy(ring, slots[i] * size, source, i * size, size)  # type: ignore[call-arg]


@njit("void(u1[::1], i8[::1], i8, i8, i8, u1[::1], u1[::1])", nogil=True, cache=True)
def gather(ring, slots, size, stack, lanes, ages, out):  # type: ignore[no-untyped-def]
    """Stacks that end at `slots`, oldest first; before an episode's start its first item repeats.

    `ages[slot]` counts the items of the slot's own episode before it.
    """
    whole = ages.size
    for i in range(slots.size):
        slot = slots[i]
        age = np.int64(ages[slot])
        for back in range(stack):
            origin = slot - min(back, age) * lanes
            if origin < 0:
                origin += whole
            to = (i * stack + stack - 1 - back) * size
            _memcpy(out, to, ring, origin * size, size)  # type: ignore[call-arg]


class Recycler:
    """Fresh arrays for tensors, in memory that earlier tensors have let go.

    The allocator hands the pages of a batch back to the system when it dies, and the faults of
    the next one cost several times its copy. A buffer is used again only once the array that was
    made on it, which a tensor's storage keeps alive, is gone.
    """

    _LEAST = 1 << 16  # bytes; smaller ones never leave the allocator
    _MOST = 8  # buffers kept

    def __init__(self) -> None:
        self._buffers: list[tuple[NDArray[np.uint8], ref[NDArray[Any]]]] = []

    def empty(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An array like `numpy.empty`'s; whoever views it must hold it, as a tensor does."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < self._LEAST:
            return np.empty(shape, dtype)
        buffer = None
        for i, (held, user) in enumerate(self._buffers):
            if user() is None and size <= held.size <= 2 * size:
                buffer = self._buffers.pop(i)[0]
                break
        if buffer is None:
            buffer = np.empty(size, np.uint8)
        array: NDArray[Any] = buffer[:size].view(dtype).reshape(shape)
        self._buffers = [*self._buffers[-self._MOST + 1 :], (buffer, ref(array))]
        return array
