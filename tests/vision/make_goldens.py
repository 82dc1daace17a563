"""Goldens of other people's code: torchvision's networks, and the grad-cam package's explanations.

    pip install torch torchvision grad-cam safetensors numpy
    python -m tests.vision.make_goldens        # writes tests/vision/goldens.safetensors

Run it where torchvision's wheel fits the torch beside it; the tests need neither it nor grad-cam.
Weights are no part of the goldens: both sides fill their networks by `fill`, from nothing but the
names and shapes of the state dict. Made with torchvision 0.28.0 and grad-cam 1.5.7.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDENS = Path(__file__).parent / "goldens.safetensors"
NETWORKS = (
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
)
TRAINED = ("vgg11_bn", "resnet18", "resnet50")
"""Networks whose BatchNorm is seen in train mode too."""
CAMS = {
    "resnet18": ("layer4", "layer3.0"),
    "resnet50": ("layer4", "layer2"),
    "vgg11": ("features.20", "features.13"),
    "vgg16_bn": ("features.43", "features.23"),
}
"""Layers that Grad-CAM is taken at: last maps, maps within, and a convolution before its ReLU."""
CLASSES = (3, 7)
"""The class explained, of each of the two images."""
DRAWS = 65_537


@torch.no_grad()
def fill(module: nn.Module) -> nn.Module:
    """Set every parameter and statistic, each by its name's checksum; returns it in eval mode.

    Weights are uniform with a variance of 2 / fan in, biases and means lie within ±0.05, gains and
    variances in [0.6, 1]: values keep a size that float32 is exact at through 152 layers. Larger
    tensors repeat a prime number of draws, of a generator that NumPy holds frozen.
    """
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            value.zero_()
            continue
        low, high = -0.05, 0.05
        if value.dim() > 1:
            high = (6 / value[0].numel()) ** 0.5
            low = -high
        elif name.endswith(("running_var", "weight")):
            low, high = 0.6, 1.0
        draws = np.random.RandomState(zlib.crc32(name.encode())).uniform(low, high, DRAWS)
        flat = np.resize(draws.astype(np.float32), value.numel())
        value.copy_(torch.from_numpy(flat).view(value.shape))
    return module.eval()


def images() -> Tensor:
    """Two images, (2, 3, 64, 64), as if normalised."""
    draws = np.random.RandomState(0).standard_normal((2, 3, 64, 64))
    return torch.from_numpy(draws.astype(np.float32))


@torch.no_grad()
def scores(net: nn.Module) -> Tensor:
    """Every 25th class score of both images, (2, 40)."""
    return net(images())[:, ::25].clone()


@torch.no_grad()
def train_step(net: nn.Module) -> dict[str, Tensor]:
    """Scores with BatchNorm in train mode, and the statistics that this moves, a mean a layer."""
    net.train()
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    found = {"scores": scores(net)}
    for kind in ("running_mean", "running_var", "num_batches_tracked"):
        state = net.state_dict()
        found[kind] = torch.stack([v.float().mean() for k, v in state.items() if k.endswith(kind)])
    net.eval()
    return found


def main() -> None:
    """Ask torchvision and grad-cam, and write what they say."""
    import torchvision
    from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from safetensors.torch import save_file

    found: dict[str, Tensor] = {}
    targets = [ClassifierOutputTarget(index) for index in CLASSES]
    for name in NETWORKS:
        net = fill(getattr(torchvision.models, name)())
        found[name] = scores(net)
        for layer in net.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # else the package takes the maps as the next layer left them
        for layer in CAMS.get(name, ()):
            with GradCAM(net, [net.get_submodule(layer)]) as explain:
                cam = torch.from_numpy(explain(images(), targets))
            found[f"{name}/{layer}"] = cam[:, ::3, ::3].clone()
        if name in CAMS:
            # one image at a time; it exchanges the layers, so another network serves
            guided = GuidedBackpropReLUModel(fill(getattr(torchvision.models, name)()))
            gradients = [guided(images()[i : i + 1], index) for i, index in enumerate(CLASSES)]
            pixels = torch.from_numpy(np.stack(gradients)).permute(0, 3, 1, 2)
            found[f"{name}/guided"] = pixels[:, :, ::8, ::8].contiguous()
        if name in TRAINED:
            found |= {f"{name}/trained/{k}": v for k, v in train_step(net).items()}
        print(f"{name}: done", flush=True)
    save_file(found, GOLDENS)
    print(f"{GOLDENS}: {GOLDENS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
