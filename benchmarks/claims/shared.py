"""What the claims share: the images, the training loop, and statistics over seeds.

The images are Shapeset-3x2 (Glorot & Bengio 2010, section 2.1), drawn here.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Row, half_interval
from vision import recalibrate

SHAPES = ("triangle", "parallelogram", "ellipse")
CLASSES = [(i,) for i in range(3)] + list(combinations_with_replacement(range(3), 2))
"""One shape or an unordered pair: nine classes."""
TEST_IMAGES = 1_000
MEAN, DEVIATION = 60.0, 62.0
"""Of the pixels, of 256 greys."""
RECALIBRATED = 1_000
"""Training images by which BatchNorm's statistics are set before a network is judged."""
SUBPIXEL = 4
"""Bits of a coordinate below one pixel."""


class Images(NamedTuple):
    """Pictures and their classes."""

    pixels: Tensor
    """(N, 1, size, size) float32; mean 0 and deviation 1 over all."""
    labels: Tensor
    """(N,) int64."""


def shapeset(count: int, seed: int, size: int = 32) -> Images:
    """`count` images of one or two shapes of random form, turn, size, place and brightness.

    The first of two is hidden by the second by half of its area at most. Classes are drawn evenly.
    """
    random = np.random.default_rng(seed)
    pixels = np.empty((count, size, size), np.uint8)
    labels = random.integers(len(CLASSES), size=count)
    for picture, label in zip(pixels, labels, strict=True):
        background = int(random.integers(0, 64))
        picture[:] = background
        first = None
        for shape in random.permutation(CLASSES[label]):
            mask = _draw(int(shape), size, random)
            while first is not None and ((mask > 0) & first).sum() > 0.5 * first.sum():
                mask = _draw(int(shape), size, random)
            first = mask > 0
            grey = int(random.integers(128, 256))
            share = mask / 255
            picture[:] = (picture * (1 - share) + grey * share).round()
    scaled = (pixels.astype(np.float32) - MEAN) / DEVIATION
    return Images(torch.from_numpy(scaled)[:, None], torch.from_numpy(labels))


def _draw(shape: int, size: int, random: np.random.Generator) -> np.ndarray:
    """One shape's coverage of each pixel, (size, size) uint8."""
    if SHAPES[shape] == "triangle":
        corners = np.array([[-1, -1], [1, -1], [random.uniform(-0.8, 0.8), 1]])
    elif SHAPES[shape] == "parallelogram":
        slant = random.uniform(-0.5, 0.5)
        corners = np.array([[-1 - slant, -1], [1 - slant, -1], [1 + slant, 1], [slant - 1, 1]])
    else:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        corners = np.stack([np.cos(angle), np.sin(angle)], 1)
    corners[:, 1] *= random.uniform(0.5, 1)
    turn = random.uniform(0, 2 * np.pi)
    corners = corners @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    corners -= corners.mean(0)
    radius = random.uniform(0.15, 0.32) * size
    corners *= radius / np.linalg.norm(corners, axis=1).max()
    corners += random.uniform(radius, size - 1 - radius, 2)
    mask = np.zeros((size, size), np.uint8)
    points = (corners * 2**SUBPIXEL).round().astype(np.int32)
    return cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, SUBPIXEL)


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Images,
    steps: int,
    batch: int,
    seed: int,
) -> Iterator[int]:
    """Minimise the cross entropy; yields how many steps were made, after each."""
    order = torch.Generator().manual_seed(seed)
    picked = torch.empty(0, dtype=torch.int64)
    for step in range(1, steps + 1):
        while len(picked) < batch:
            picked = torch.cat([picked, torch.randperm(len(data.labels), generator=order)])
        now, picked = picked[:batch], picked[batch:]
        net.train()
        F.cross_entropy(net(data.pixels[now]), data.labels[now]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step


def curve(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Images,
    judged: Images,
    looks: Sequence[int],
    batch: int,
    seed: int,
    *,
    settles: bool = False,
) -> list[float]:
    """Train to the last of `looks`; returns the error on `judged` after each.

    BatchNorm is judged by its population statistics (Ioffe & Szegedy 2015, algorithm 2), of a
    thousand images: while weights move fast, moving averages lag behind them.
    settles  let the learning rate fall to a hundredth, so that networks are compared that settled
    """
    steps, found = looks[-1], []
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps) if settles else None
    for step in train(net, optimizer, data, steps, batch, seed):
        if decay is not None:
            decay.step()
        if step in looks:
            if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
                recalibrate(net, data.pixels[:RECALIBRATED].split(batch))
            found.append(error(net, judged))
    return found


def moments(steps: int, count: int) -> list[int]:
    """`count` numbers of steps to look at a network after, evenly spread; fewer if steps are."""
    return sorted({round(steps * (i + 1) / count) or 1 for i in range(count)})


@torch.inference_mode()
def error(net: nn.Module, data: Images) -> float:
    """Share of images that are classified wrongly, in percent; in eval mode."""
    net.eval()
    wrong = sum(
        int((net(pixels).argmax(1) != labels).sum())
        for pixels, labels in zip(data.pixels.split(250), data.labels.split(250), strict=True)
    )
    return 100 * wrong / len(data.labels)


def row(case: str, system: str, values: Sequence[float], unit: str) -> Row:
    """The mean over seeds with its 95% interval."""
    return Row(case, system, float(np.mean(values)), unit, half_interval(values))


def verdict(claim: str, less: Sequence[float], more: Sequence[float]) -> str:
    """Whether `less` is below `more`, seed by seed, beyond the 95% interval of their difference."""
    difference = np.subtract(more, less)
    mean, half = float(difference.mean()), half_interval(list(difference))
    if half is None or not abs(mean) > half:
        word = "undecided here"
    else:
        word = "holds here" if mean > 0 else "does not hold at this scale"
    text = f"{mean:.3g}" + ("" if half is None else f" ± {half:.2g}")
    return f"{word}: {claim} (difference {text})"


def parse(doc: str | None, steps: int, seeds: int, picture: str) -> argparse.Namespace:
    """The options of every claim's command."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=steps, help="updates of each network")
    parser.add_argument("--seeds", type=int, default=seeds, help="networks of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--picture", type=Path, default=Path(picture), metavar="FILE.png")
    options = parser.parse_args()
    for name in ("steps", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    return options


def panels(count: int) -> tuple[Any, Any]:
    """A figure and its `count` axes, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(3.7 * count, 3), squeeze=False)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def save(figure: Any, path: Path) -> None:
    """Write the picture, in 64 colours, and say where."""
    from PIL import Image

    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)
    print(f"picture: {path}")
