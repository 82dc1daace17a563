"""Encoders' forward pass, update and memory, beside the same networks of others.

    python -m benchmarks.encoders [--names resnet18 vgg11 ...] [--json FILE] [--batch 32]

Ours against torchvision's network of the same name, on float32 images of three channels, at 84x84
and, of a quarter of the batch, at 224x224; and against stable-baselines3's NatureCNN, on stacks of
four frames as environments give them: bytes, which both scale themselves. In turns, medians; the
encoders that are for games alone stand without a peer, on such stacks, too. "update" is forward,
backward and a step of SGD; "memory" is what an update holds at once: weights, their gradients, and
all that the forward pass keeps for the backward. What isn't installed is left out, in a line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.harness import OURS, Row, interleave, report
from vision import build_encoder
from vision.registry import find

FRAMES = ("nature", "dqn2013", "impala", "drq", "ddpg2015")
"""Networks for stacks of frames, and for these alone."""
NAMES = (*FRAMES, "resnet18", "resnet50", "vgg11", "vgg16_bn")
SIZES = (84, 224)


class Peers:
    """Networks of others, by the name of ours."""

    def __init__(self) -> None:
        self.torchvision: Any = None
        # it asks for operators that its build for another device does not bring; no network needs
        # them, so that they need not be there, only known
        self._known = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                self._known.define(f"{name}(Tensor dets, Tensor scores, float limit) -> Tensor")
        try:
            import torchvision.models

            self.torchvision = torchvision.models
        except (ImportError, RuntimeError) as error:  # it may not fit this torch
            print(f"torchvision is left out: {error}")

    def of(self, name: str) -> dict[str, nn.Module]:
        """The same network elsewhere, by system."""
        if name == "nature":
            return self._nature_cnn()
        if self.torchvision is None or name in FRAMES:
            return {}
        net = getattr(self.torchvision, name)(weights=None)
        # ours is an encoder: no classifier, the last map flattened
        if name.startswith("vgg"):
            return {"torchvision": nn.Sequential(net.features, nn.Flatten())}
        return {"torchvision": nn.Sequential(*list(net.children())[:-2], nn.Flatten())}

    def _nature_cnn(self) -> dict[str, nn.Module]:
        try:
            import gymnasium
            from stable_baselines3.common.preprocessing import preprocess_obs
            from stable_baselines3.common.torch_layers import NatureCNN
        except ImportError as error:
            print(f"stable-baselines3 is left out: {error}")
            return {}
        import numpy as np

        space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)

        class Scaled(nn.Module):
            """What its policies do with an observation before their network has it."""

            def forward(self, x: torch.Tensor) -> Any:
                return preprocess_obs(x, space)

        # its convolutions alone: ours leaves the linear layer to the agent
        return {"sb3": nn.Sequential(Scaled(), NatureCNN(space).cnn)}


def forward(net: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    """A forward pass as acting does it."""
    net.eval()

    def run() -> None:
        with torch.inference_mode():
            net(images)

    return run


def update(net: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    """Forward, backward and a step, as learning does it."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-6)

    def run() -> None:
        net.train()
        net(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        net.eval()

    return run


def held(net: nn.Module, images: torch.Tensor) -> float:
    """MiB that an update holds at once: weights, gradients, and what is kept for the backward."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    net.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net(images)  # alive, so that no address is given twice
    net.eval()
    weights = {p.untyped_storage().data_ptr(): p.nbytes for p in net.parameters()}
    del result
    return (2 * sum(weights.values()) + sum((kept | dict.fromkeys(weights, 0)).values())) / 2**20


def measure(name: str, size: int, batch: int, peers: Peers, repeats: int) -> list[Row]:
    """One network at one size: milliseconds, ratios, MiB and parameters."""
    others = peers.of(name)
    channels = 4 if name in FRAMES else 3
    shape = batch, channels, size, size
    images = torch.randint(256, shape, dtype=torch.uint8) if name in FRAMES else torch.rand(shape)
    ours = build_encoder(name, (channels, size, size)).lay_out()  # as agents have it
    nets: dict[str, nn.Module] = {OURS: ours, **others}
    rows = []
    for what, make in (("forward", forward), ("update", update)):
        runs = {system: make(net, images) for system, net in nets.items()}
        seconds = interleave(runs, repeats)
        case = f"{name} at {size}x{size}, {what}"
        rows += [Row(case, s, 1e3 * median(times), "ms") for s, times in seconds.items()]
        for system in others:
            pairs = zip(seconds[system], seconds[OURS], strict=True)
            rows.append(
                Row(f"{case}: {system} over ours", OURS, median(a / b for a, b in pairs), "x")
            )
    case = f"{name} at {size}x{size}, memory"
    rows += [Row(case, system, held(net, images), "MiB") for system, net in nets.items()]
    weights = sum(p.numel() for p in ours.parameters())
    rows.append(Row(f"{name} at {size}x{size}, parameters", OURS, weights / 1e6, "M"))
    return rows


def main() -> None:
    """Measure every network, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="images at once, at 84x84")
    parser.add_argument("--repeats", type=int, default=9, help="rounds that count")
    parser.add_argument("--names", nargs="+", default=NAMES, metavar="NAME", help="encoders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    options = parser.parse_args()
    for name in options.names:
        try:
            find(name)
        except ValueError as error:
            parser.error(str(error))
    peers, rows = Peers(), []
    for name in options.names:
        for size in SIZES[:1] if name in FRAMES else SIZES:
            batch = options.batch if size == SIZES[0] else max(1, options.batch // 4)
            found = measure(name, size, batch, peers, options.repeats)
            rows += found
            for row in found:
                print(f"{row.case}: {row.system} {row.value:,.4g} {row.unit}", flush=True)
    report("encoders", rows, options.json)


if __name__ == "__main__":
    main()
