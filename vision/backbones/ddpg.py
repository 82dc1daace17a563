"""The convolutions of the first agent that learned continuous control from pixels."""

from __future__ import annotations

import torch

from vision.encoder import ConvEncoder
from vision.registry import register


@register("ddpg2015")
class DDPG2015(ConvEncoder):
    """Lillicrap et al. 2015, section 7: three convolutions of 32 filters, without pooling.

    The paper gives neither kernels nor strides. With 3x3 and stride 2 the actor has 376,000
    parameters at 64x64x9; the paper counts about 430,000.
    """

    layout = torch.channels_last
    layers = ((32, 3, 2), (32, 3, 2), (32, 3, 2))
