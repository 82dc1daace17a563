"""The encoder of DrQ: learning continuous control from pixels."""

from __future__ import annotations

import torch

from vision.encoder import ConvEncoder
from vision.init import initialise
from vision.registry import register


@register("drq")
class DrQ(ConvEncoder):
    """Yarats et al. 2021, appendix B.1: four convolutions of 32 filters, for continuous control.

    Of "Image Augmentation Is All You Need"; 3x3 each, the first with stride 2, orthogonal at the
    start. The layer of 50 units with LayerNorm and tanh above them belongs to the agent: actor and
    critic share the convolutions only.
    """

    layout = torch.channels_last
    layers = ((32, 3, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1))

    def __init__(
        self, observation_shape: tuple[int, ...], width: float = 1.0, head: str = "flatten"
    ) -> None:
        super().__init__(observation_shape, width, head)
        initialise(self, "drq")
