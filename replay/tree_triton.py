# mypy: allow-untyped-defs, allow-incomplete-defs
"""The priority tree in CUDA memory: three wide levels, drawn from and refreshed by Triton kernels.

The rules are `replay.tree`'s: leaves float32, sums and mass float64, a touched block recomputed
from its children and never changed by a difference, so that no addition is atomic and duplicates
count once; a leaf of zero is never returned. A level costs one round trip to memory, whatever its
width, so three levels of 128 or 256 children beat many narrow ones here.

Nothing waits for the device, so all of it can be captured in a CUDA graph. What draws from the tree
lies in `replay.kernels`, on the parts below. Without a GPU the kernels run under Triton's
interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TINY = tl.constexpr(1.1754944e-38)  # least normal float32
EXACT = {"enable_fp_fusion": False}  # products and sums round apart, as on the CPU
WIDEST = 1024
LEAST = 128  # children of a node, where the capacity asks for no more

# Draws, or touched leaves, that one program handles: on a GPU one, for the most parallel loads;
# interpreted, many, because a program costs the same whatever its tensors' size.
TILE = 64 if triton.knobs.runtime.interpret else 1


@triton.jit
def choose(values, mass, F: tl.constexpr):
    """Child under `mass` (T,) in blocks `values` (T, F) float64, and the mass left inside it.

    -1 for a block without mass. A scan in parallel may round out of order, therefore only
    children that have mass are looked at; past the last of them, it is the one.
    """
    at = tl.arange(0, F)[None, :]
    upto = tl.cumsum(values, 1)
    some = values > 0
    first = tl.min(tl.where(some & (upto > mass[:, None]), at, F), 1)
    last = tl.max(tl.where(some, at, -1), 1)
    child = tl.minimum(first, last)
    before = tl.sum(tl.where(at == child[:, None] - 1, upto, 0.0), 1)
    return child, mass - before


@triton.jit
def descend(leaves, sums, share, F: tl.constexpr, TOP: tl.constexpr):
    """Leaf under each `share` (T,) float64 in [0, 1) of the mass, and its mass (T,) float32.

    (-1, 0) throughout where the tree holds no mass.
    """
    at = tl.arange(0, F)[None, :]
    zero = (share * 0.0)[:, None]
    values = tl.load(sums + TOP + at) + zero
    mass = share * tl.sum(values, 1)
    child, mass = choose(values, mass, F)
    empty = child < 0
    node = tl.maximum(child, 0).to(tl.int64)
    values = tl.load(sums + node[:, None] * F + at)
    child, mass = choose(values, mass, F)
    node = node * F + tl.maximum(child, 0)
    values = tl.load(leaves + node[:, None] * F + at).to(tl.float64)
    child, mass = choose(values, mass, F)
    leaf = tl.sum(tl.where(at == child[:, None], values, 0.0), 1).to(tl.float32)
    return tl.where(empty, -1, node * F + tl.maximum(child, 0)), leaf


@triton.jit
def weigh(
    leaf, i, count, beta, minima,
    F: tl.constexpr, TOP: tl.constexpr, LEAST: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Importance weights (T,) of draws `i`: (P_min / P_i)^beta, P_min over all `count` draws.

    That is (N P_i)^-beta over the greatest in the batch, where N and the total cancel. With LEAST,
    P_min is the whole tree's. 0 for a draw from an empty tree.
    """
    least = tl.full((), float("inf"), tl.float32)
    if LEAST:
        least = tl.min(tl.load(minima + TOP + tl.arange(0, F)), 0).to(tl.float32)
    else:
        for start in range(0, count, CHUNK):
            j = start + tl.arange(0, CHUNK)
            some = tl.load(leaf + j, mask=j < count, other=float("inf"))
            least = tl.minimum(least, tl.min(some, 0))
    own = tl.load(leaf + i, mask=i < count, other=0.0)
    some = own > 0
    ratio = least.to(tl.float64) / tl.where(some, own, 1.0).to(tl.float64)
    share = tl.exp2(tl.load(beta) * tl.log2(tl.where(some, ratio, 1.0)))
    return tl.where(some, tl.maximum(share.to(tl.float32), TINY), 0.0)


@triton.jit(do_not_specialize=["count"])
def sum_kernel(
    source, out, index, count,
    SPAN: tl.constexpr, F: tl.constexpr, LEAST: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Refresh the sums over leaves `index` (count,), -1 for none: node index // SPAN, of F items.

    With LEAST, the least that is above 0. Two programs of one block write the same, bit for bit.
    """
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slot = tl.load(index + i, mask=i < count, other=-1)
    node = tl.maximum(slot, 0) // SPAN
    at = node[:, None] * F + tl.arange(0, F)[None, :]
    values = tl.load(source + at, mask=(slot >= 0)[:, None], other=0.0).to(tl.float64)
    if LEAST:  # noqa: SIM108 (decided when compiled)
        found = tl.min(tl.where(values > 0, values, float("inf")), 1)
    else:
        found = tl.sum(values, 1)
    tl.store(out + node, found, mask=slot >= 0)


def width(size: int) -> int:
    """Children of a node so that three levels hold `size` leaves: a power of two."""
    found = LEAST
    while found**3 < size:
        found *= 2
    return found


class TritonTree:
    """Masses over `size` leaves, and their sums; see the module's text.

    leaves  (size padded to whole blocks,) float32; who writes some touches them
    sums    float64: of each block of leaves, then from `top` on of each block of those
    minima  like `sums`, the least masses above 0; kept with `least` only
    Raises ValueError for a size above `WIDEST`^3.
    """

    def __init__(self, size: int, device: torch.device | str, least: bool = False) -> None:
        self.size, self.fan_out = size, width(size)
        if self.fan_out > WIDEST:
            raise ValueError(f"size is {size}; it must be at most {WIDEST**3}")
        blocks = -(-size // self.fan_out)
        self.top = -(-blocks // self.fan_out) * self.fan_out
        self.device = torch.device(device)
        self.leaves = torch.zeros(blocks * self.fan_out, dtype=torch.float32, device=device)
        self.sums = torch.zeros(self.top + self.fan_out, dtype=torch.float64, device=device)
        self.least = least
        self.minima = torch.full_like(self.sums, float("inf")) if least else self.sums

    @property
    def nbytes(self) -> int:
        """Bytes of leaves and sums."""
        return self.leaves.nbytes + self.sums.nbytes + self.least * self.minima.nbytes

    @staticmethod
    def bytes_for(size: int) -> int:
        """About what a tree of `size` leaves takes, in bytes."""
        fan_out = width(size)
        blocks = -(-size // fan_out)
        return blocks * fan_out * 4 + (blocks + 2 * fan_out) * 16

    def touch(self, index: Tensor) -> None:
        """Refresh the sums over leaves `index` (N,) int64; -1 stands for none."""
        count, fan_out = index.numel(), self.fan_out
        programs = grid(count, TILE)
        for least in (False, True) if self.least else (False,):
            out = self.minima if least else self.sums
            for source, target, span in (
                (self.leaves, out, fan_out),
                (out, out[self.top :], fan_out**2),
            ):
                sum_kernel[programs](
                    source, target, index, count, SPAN=span, F=fan_out, LEAST=least, TILE=TILE,
                    **EXACT,
                )  # fmt: skip

    def touch_all(self) -> None:
        """Refresh every sum, after `leaves` were replaced."""
        self.touch(torch.arange(0, self.size, self.fan_out, device=self.device))


def grid(count: int, each: int) -> tuple[int]:
    """Programs for `count` items at `each` a program."""
    return (-(-count // each),)


def chunk(count: int) -> int:
    """How many of `count` items a program looks at together: a power of two."""
    return min(1024, max(16, triton.next_power_of_2(count)))
