"""What a network looks at: Grad-CAM, guided backpropagation, and both together.

Every function takes a module as it is and leaves it as it was: no layer is exchanged, hooks are
gone on return, no parameter's gradient and no statistic moves. The forward pass runs in eval mode.

    observation  (B, ...); images as the module takes them
    target       what is explained: the index of an output, such as an action or a class; a tensor
                 (B,) of one index a sample; None for each sample's greatest output; or a function
                 from the module's output to a tensor that is summed, for anything else
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Target = int | Tensor | Callable[[Any], Tensor] | None


def grad_cam(
    module: nn.Module,
    layer: nn.Module,
    observation: Tensor,
    target: Target = None,
    *,
    at: str = "output",
    upsample: bool = False,
) -> Tensor:
    """Where `layer`'s maps speak for the target: ReLU of the maps weighted by mean gradients.

    layer     inside `module`, used once in its forward pass, with maps (B, C, h, w)
    at        the layer's "output", or its "input": that of an encoder's `head` is its last map,
              behind the ReLU, whatever the encoder
    upsample  to the observation's height and width, bilinearly
    Returns (B, h, w) float32, 0 or more, in the target's units. Selvaraju et al. 2017, equations
    1 and 2. Raises ValueError for a layer or a target that doesn't fit.
    """
    if at not in ("input", "output"):
        raise ValueError(f"at is {at!r}; it must be 'input' or 'output'")
    with _still(module), _captured(module, layer, at) as maps:
        score = _score(module(plain(observation)), target)
        if len(maps) != 1:
            raise ValueError(
                f"the layer {_name(module, layer)} ran {len(maps)} times in one forward pass; "
                "Grad-CAM needs one that runs once"
            )
        gradient = _gradient(score, maps[0], f"the layer {_name(module, layer)}")
    weight = gradient.float().mean((2, 3), keepdim=True)
    cam = (weight * maps[0].detach().float()).sum(1).relu()
    if not upsample:
        return cam
    size = observation.shape[-2:]
    return F.interpolate(cam[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def guided_backprop(module: nn.Module, observation: Tensor, target: Target = None) -> Tensor:
    """The target's gradient by pixel, through ReLUs that pass back positive gradients only.

    uint8 images are given to the module as floats in [0, 1], which encoders take for the same.
    Returns (B, C, H, W) float32. Springenberg et al. 2015, section 3.4. Raises ValueError where no
    ReLU was met: clamps, ReLU6 and smooth activations are none, and pass gradients as they are.
    """
    with guided_relu() as met:
        found = input_gradient(module, observation, target)
    if not met:
        raise ValueError(
            f"no ReLU was met in this {type(module).__name__}; guided backpropagation would be its "
            "gradient (input_gradient)"
        )
    return found


def input_gradient(module: nn.Module, observation: Tensor, target: Target = None) -> Tensor:
    """The target's gradient by pixel (Simonyan et al. 2014, section 3); as `guided_backprop`."""
    x = plain(observation)
    if not x.is_floating_point():
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    with _still(module):
        x = x.detach().clone().requires_grad_()
        gradient = _gradient(_score(module(x), target), x, "the observation")
    return gradient.float()


def guided_grad_cam(
    module: nn.Module,
    layer: nn.Module,
    observation: Tensor,
    target: Target = None,
    *,
    at: str = "output",
) -> Tensor:
    """Guided backpropagation times Grad-CAM, upsampled; (B, C, H, W) float32.

    Selvaraju et al. 2017, section 3.2.
    """
    if target is None:
        # both halves must explain the same output
        with _still(module), torch.no_grad():
            target = module(plain(observation)).argmax(1)
    cam = grad_cam(module, layer, observation, target, at=at, upsample=True)
    return cam[:, None] * guided_backprop(module, observation, target)


@contextmanager
def guided_relu() -> Iterator[list[int]]:
    """Within, gradients pass a ReLU only where they are positive, whoever computes it.

    It works on the backward operator, which modules, functions and in-place forms of ReLU share.
    Yields a list that grows by the number of values in each ReLU that gradients pass.
    """
    met: list[int] = []
    with _GuidedReLU(met):
        yield met


class _GuidedReLU(TorchDispatchMode):
    """Springenberg et al. 2015, figure 1: the usual rule and the deconvnet's, both at once."""

    def __init__(self, met: list[int]) -> None:
        super().__init__()
        self._met = met

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.threshold_backward.default and args[2] == 0:
            self._met.append(out.numel())
            return out.clamp_min(0)
        return out


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Gradients on and eval mode, flag by flag, since `eval()` may be overridden."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        for m, _ in modes:
            m.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextmanager
def _captured(module: nn.Module, layer: nn.Module, at: str) -> Iterator[list[Tensor]]:
    """Collects what `layer` puts out or takes in, cut from what lies before it."""
    if isinstance(layer, str):
        names = [name for name, _ in module.named_modules() if name]
        near = get_close_matches(layer, names, 1, 0.0)
        hint = f", such as module.get_submodule({near[0]!r})" if near else ""
        raise TypeError(f"layer is {layer!r}, a name; expected the module itself{hint}")
    if not any(m is layer for m in module.modules()):
        raise ValueError(
            f"the layer {type(layer).__name__} is no part of this {type(module).__name__}"
        )
    maps: list[Tensor] = []

    def keep(found: Any) -> Tensor:
        if not isinstance(found, Tensor) or found.dim() != 4:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            verb = "puts out" if at == "output" else "takes in"
            raise ValueError(
                f"the layer {_name(module, layer)} {verb} {shape}; Grad-CAM needs maps (B, C, H, W)"
            )
        maps.append(found.detach().clone().requires_grad_())
        # a copy goes on, so that an in-place operation behind can't overwrite what was kept
        return maps[-1].clone()

    if at == "output":
        hook = layer.register_forward_hook(lambda _, inputs, output: keep(output))
    else:
        hook = layer.register_forward_pre_hook(lambda _, inputs: (keep(inputs[0]), *inputs[1:]))
    try:
        yield maps
    finally:
        hook.remove()


def _score(output: Any, target: Target) -> Tensor:
    """The one number to explain: the targets of all samples, summed."""
    if callable(target) and not isinstance(target, Tensor):
        score = target(output)
        if not isinstance(score, Tensor):
            raise ValueError(f"the target gave {type(score).__name__}, not a tensor")
        return score.sum()
    if not isinstance(output, Tensor) or output.dim() != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"an index picks from outputs (B, N), this module's is {shape}; "
            "give a function of it as target"
        )
    size, count = output.shape
    if target is None:
        return output.amax(1).sum()
    index = torch.as_tensor(target, device=output.device)
    if index.dim() > 1 or (index.dim() == 1 and len(index) != size) or index.is_floating_point():
        raise ValueError(
            f"the target is {index.dtype} of shape {tuple(index.shape)}; it must be an index, or "
            f"one for each of {size} samples"
        )
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < count):
        raise ValueError(f"the target is {target}; this module's outputs are 0 to {count - 1}")
    return output.gather(1, index.long().expand(size)[:, None]).sum()


def _gradient(score: Tensor, of: Tensor, what: str) -> Tensor:
    """d score / d `of`, without touching any parameter's gradient."""
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score, of, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the target doesn't depend on {what} by any differentiable way")
    return gradient


def plain(observation: Tensor) -> Tensor:
    """The observation as autograd takes it: tensors made in inference mode are copied."""
    if not observation.is_inference():
        return observation
    with torch.inference_mode(False):
        return observation.clone()


def _name(module: nn.Module, layer: nn.Module) -> str:
    return next((repr(n) for n, m in module.named_modules() if m is layer and n), "given")
