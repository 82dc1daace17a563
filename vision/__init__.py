"""Perception: backbones by name, the encoder contract, initialisers. Knows torch, not Gymnasium.

`vision.resnet18`, `vision.vgg16_bn` and their kin make classifiers for plain torch;
`vision.build_encoder` makes encoders for agents.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

_PUBLIC = {
    "Encoder": "vision.encoder",
    "GoalReward": "vision.goal",
    "JointEncoder": "vision.joint",
    "OnePart": "vision.joint",
    "build_encoder": "vision.encoder",
    "find": "vision.registry",
    "freeze": "vision.train",
    "grad_cam": "vision.gradcam",
    "guided_backprop": "vision.gradcam",
    "guided_grad_cam": "vision.gradcam",
    "initialise": "vision.init",
    "load_weights": "vision.weights",
    "names": "vision.registry",
    "parameter_groups": "vision.train",
    "randomisation_test": "vision.sanity",
    "recalibrate": "vision.batchnorm",
    "register": "vision.registry",
    "summary": "vision.registry",
    "unfreeze": "vision.train",
}
_CLASSIFIERS = {"vgg": "vision.backbones.vgg", "resnet": "vision.backbones.resnet"}
_CLASSIFIERS["plain"] = _CLASSIFIERS["resnet"]
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if family := re.match(r"(vgg|resnet|plain)\d", name):
        builders = import_module(_CLASSIFIERS[family[1]]).BUILDERS
        if name in builders:
            return builders[name]
    raise AttributeError(f"module 'vision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
