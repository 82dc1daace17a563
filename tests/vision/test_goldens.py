"""Networks and explanations equal torchvision's and the grad-cam package's (make_goldens.py)."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import vision
from tests.vision.make_goldens import (
    CAMS,
    CLASSES,
    GOLDENS,
    NETWORKS,
    TRAINED,
    fill,
    images,
    scores,
    train_step,
)

EXPECTED = load_file(GOLDENS)


def filled(name: str) -> nn.Module:
    # initialising what is overwritten would take most of the time
    with torch.device("meta"):
        net = getattr(vision, name)()
    return fill(net.to_empty(device="cpu"))


def close(found: Tensor, expected: Tensor, within: float = 1e-5) -> None:
    """Equal within that share of the greatest value."""
    scale = expected.abs().max()
    assert scale > 1e-3
    torch.testing.assert_close(found / scale, expected / scale, atol=within, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_torchvisions_and_explanations_grad_cams(name: str) -> None:
    net = filled(name)
    close(scores(net), EXPECTED[name])
    classes = torch.tensor(CLASSES)
    for layer in CAMS.get(name, ()):
        cam = vision.grad_cam(net, net.get_submodule(layer), images(), classes, upsample=True)
        cam -= cam.amin((1, 2), keepdim=True)
        cam /= cam.amax((1, 2), keepdim=True).clamp_min(1e-30)  # some are constant
        close(cam[:, ::3, ::3], EXPECTED[f"{name}/{layer}"])
    if name in CAMS:
        guided = vision.guided_backprop(net, images(), classes)
        close(guided[:, :, ::8, ::8], EXPECTED[f"{name}/guided"])
    if name in TRAINED:
        for kind, found in train_step(net).items():
            close(found, EXPECTED[f"{name}/trained/{kind}"], 1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_goldens_tell_images_apart(name: str) -> None:
    first, second = EXPECTED[name]
    assert (first - second).abs().max() > 1e-3 * first.abs().max()


def test_the_goldens_are_small() -> None:
    assert GOLDENS.stat().st_size <= 50_000
