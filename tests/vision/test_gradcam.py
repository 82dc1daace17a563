"""Grad-CAM and guided backpropagation against sums by hand; nothing of the network moves."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vision
from vision.gradcam import guided_relu, input_gradient


class Small(nn.Module):
    """Two convolutions and a linear layer; `kind` says how its ReLUs are computed."""

    def __init__(self, kind: str = "module") -> None:
        super().__init__()
        self.kind = kind
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=kind == "in-place module")
        self.fc = nn.Linear(5 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activate(self.norm(self.conv1(x)))
        x = self.activate(self.conv2(x))
        return self.fc(x.flatten(1))

    def activate(self, x: Tensor) -> Tensor:
        match self.kind:
            case "torch.relu":
                return torch.relu(x)
            case "torch.relu_":
                return torch.relu_(x)
            case "F.relu":
                return F.relu(x)
            case "F.relu in place":
                return F.relu(x, inplace=True)
            case "method":
                return x.relu()
            case "method in place":
                x.relu_()
                return x
        return self.relu(x)


KINDS = ["module", "in-place module", "torch.relu", "torch.relu_", "F.relu"]
KINDS += ["F.relu in place", "method", "method in place"]


def small(kind: str = "module") -> Small:
    torch.manual_seed(0)
    net = Small(kind)
    with torch.no_grad():
        net.norm.running_mean.uniform_(-0.2, 0.2)
        net.norm.running_var.uniform_(0.5, 1.5)
    return net


def images(size: int = 3) -> Tensor:
    return torch.rand(size, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def before_conv2(net: Small, x: Tensor) -> Tensor:
    x = net.conv1(x)
    mean, var = net.norm.running_mean[:, None, None], net.norm.running_var[:, None, None]
    return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("kind", KINDS)
def test_grad_cam_by_hand_before_any_relu(kind: str) -> None:
    # scores are linear behind conv2's ReLU, so the gradient is the weight where it is open
    net, x, action = small(kind), images(), 1
    with torch.no_grad():
        maps = net.conv2(before_conv2(net, x).clamp(min=0))
        weights = net.fc.weight[action].view(5, 4, 4)
        expected = torch.zeros(3, 4, 4)
        for b in range(3):
            for k in range(5):
                alpha = (weights[k] * (maps[b, k] > 0)).sum() / 16
                expected[b] += alpha * maps[b, k]
        expected = expected.clamp(min=0)
    assert expected.max() > 0
    torch.testing.assert_close(vision.grad_cam(net, net.conv2, x, action), expected)


def test_grad_cam_of_an_inner_layer_is_autograds() -> None:
    net, x = small().eval(), images()
    maps = net.norm(net.conv1(x)).detach().requires_grad_()
    score = net.fc(net.conv2(maps.relu()).relu().flatten(1))[:, 2].sum()
    (gradient,) = torch.autograd.grad(score, maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    torch.testing.assert_close(vision.grad_cam(net, net.norm, x, 2), expected)


@pytest.mark.parametrize("name", ["nature", "resnet18", "vgg11", "impala"])
def test_an_encoders_last_map_is_its_heads_input(name: str) -> None:
    torch.manual_seed(0)
    encoder = vision.build_encoder(name, (1, 64, 64), width=0.1, head="pool").eval()
    net = nn.Sequential(encoder, nn.Linear(encoder.feature_dim, 2))
    x = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        maps = encoder.feature_maps(x)[-1]
        # pooling and a linear layer: Grad-CAM is the class activation map (Zhou et al. 2016)
        weight = net[1].weight[1] / maps[0, 0].numel()
        expected = torch.einsum("c,bchw->bhw", weight, maps).clamp(min=0)
    found = vision.grad_cam(net, encoder.head, x, 1, at="input")
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
    product = vision.guided_grad_cam(net, encoder.head, x, 1, at="input")
    assert product.shape == (2, 1, 64, 64)
    assert not encoder.head._forward_pre_hooks


def guided_by_hand(net: Small, x: Tensor, weight: Tensor) -> Tensor:
    """Layer by layer backwards; `weight` (B, 80) is the score's gradient by the features."""
    with torch.no_grad():
        first = before_conv2(net, x)
        second = net.conv2(first.clamp(min=0))
        g = weight.view(len(x), 5, 4, 4)
        g = g * (second > 0) * (g > 0)
        g = F.conv_transpose2d(g, net.conv2.weight)
        g = g * (first > 0) * (g > 0)
        g = g / (net.norm.running_var[:, None, None] + 1e-5).sqrt()
        return F.conv_transpose2d(g, net.conv1.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_guided_backpropagation_by_hand(kind: str) -> None:
    net, x = small(kind), images()
    expected = guided_by_hand(net, x, net.fc.weight[1].expand(3, -1).detach())
    found = vision.guided_backprop(net, x, 1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, input_gradient(net, x, 1))


def test_only_relus_inside_the_context_are_guided() -> None:
    x = torch.tensor([1.0, -1.0, 2.0], requires_grad=True)
    upstream = torch.tensor([3.0, 3.0, -3.0])

    def gradient() -> list[float]:
        return torch.autograd.grad(x.relu(), x, upstream)[0].tolist()

    assert gradient() == [3, 0, -3]
    with guided_relu():
        assert gradient() == [3, 0, 0]
    assert gradient() == [3, 0, -3]


def test_guided_grad_cam_is_the_product() -> None:
    net, x = small(), images()
    cam = F.interpolate(
        vision.grad_cam(net, net.conv2, x, 0)[:, None], (8, 8), mode="bilinear", align_corners=False
    )
    assert torch.equal(vision.grad_cam(net, net.conv2, x, 0, upsample=True), cam[:, 0])
    product = cam * vision.guided_backprop(net, x, 0)
    torch.testing.assert_close(vision.guided_grad_cam(net, net.conv2, x, 0), product)


def test_targets_pick_the_same_thing_however_they_say_it() -> None:
    net, x = small().eval(), images()
    best = net(x).argmax(1)
    for explain in (
        lambda target: vision.grad_cam(net, net.conv2, x, target),
        lambda target: vision.guided_backprop(net, x, target),
        lambda target: vision.guided_grad_cam(net, net.conv2, x, target),
    ):
        expected = explain(best)
        assert torch.equal(explain(None), expected)
        torch.testing.assert_close(explain(lambda out: out.amax(1)), expected)
        torch.testing.assert_close(explain(2), explain(torch.tensor([2, 2, 2])))
        torch.testing.assert_close(explain(2), explain(lambda out: out[:, 2]))


def test_advantages_and_other_outputs_are_targets_too() -> None:
    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small = small()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"mean": self.small(x).tanh()}

    net = Actor()
    layer = net.small.conv2
    cams = [
        vision.grad_cam(net, layer, images(), lambda out, i=i: out["mean"][:, i]) for i in range(2)
    ]
    scores = net.eval()(images())["mean"].detach()
    for i, cam in enumerate(cams):
        # tanh scales each sample's gradient by 1 - tanh^2
        slope = (1 - scores[:, i] ** 2)[:, None, None]
        torch.testing.assert_close(cam, slope * vision.grad_cam(net.small, layer, images(), i))
    assert cams[1].max() > 0
    with pytest.raises(ValueError, match=r"outputs \(B, N\), this module's is dict; give a funct"):
        vision.grad_cam(net, net.small.conv2, images(), 0)


def snapshot(net: nn.Module) -> tuple:
    return (
        {k: v.clone() for k, v in net.state_dict().items()},
        {n: m.training for n, m in net.named_modules()},
        {n: id(m) for n, m in net.named_modules()},
        {n: (len(m._forward_hooks), len(m._backward_hooks)) for n, m in net.named_modules()},
        {n: (p.requires_grad, None if p.grad is None else p.grad.clone()) for n, p in
         net.named_parameters()},
    )  # fmt: skip


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(p, q) for p, q in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("grads", [False, True])
@pytest.mark.parametrize("kind", ["in-place module", "F.relu in place"])
def test_the_network_is_as_it_was(kind: str, grads: bool) -> None:
    net = small(kind).train()
    net.conv2.eval()
    if grads:
        net(images()).sum().backward()
    else:
        net.conv1.weight.requires_grad_(False)
    before, x = snapshot(net), images()
    kept = x.clone()
    vision.grad_cam(net, net.conv2, x)
    vision.guided_backprop(net, x)
    vision.guided_grad_cam(net, net.norm, x)
    with pytest.raises(RuntimeError, match="mine"):
        vision.grad_cam(net, net.conv2, x, broken)
    with pytest.raises(RuntimeError, match="mine"):
        vision.guided_backprop(net, x, broken)
    assert same(snapshot(net), before)
    assert torch.equal(x, kept) and not x.requires_grad


def broken(output: Tensor) -> Tensor:
    raise RuntimeError("mine")


def test_frozen_networks_and_inference_mode_are_explained_the_same() -> None:
    net, x = small(), images()
    cam, guided = vision.grad_cam(net, net.conv2, x, 1), vision.guided_backprop(net, x, 1)
    net.requires_grad_(False)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            inner = x + 0
            assert torch.equal(vision.grad_cam(net, net.conv2, inner, 1), cam)
            assert torch.equal(vision.guided_backprop(net, inner, 1), guided)
    assert not cam.requires_grad and not guided.requires_grad


def test_bytes_are_explained_as_their_floats() -> None:
    encoder = vision.build_encoder("resnet18", (1, 32, 32), width=0.1, head="pool")
    net = nn.Sequential(encoder, nn.Linear(encoder.feature_dim, 2))
    x = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    layer = encoder.backbone.layer2
    torch.testing.assert_close(
        vision.grad_cam(net, layer, x, 1), vision.grad_cam(net, layer, x / 255, 1)
    )
    guided = vision.guided_backprop(net, x, 1)
    torch.testing.assert_close(guided, vision.guided_backprop(net, x / 255, 1))
    assert guided.shape == (2, 1, 32, 32) and guided.abs().max() > 0


def test_a_batch_is_explained_sample_by_sample() -> None:
    net, x = small(), images()
    for explain in (
        lambda x: vision.grad_cam(net, net.conv2, x, 1),
        lambda x: vision.guided_backprop(net, x, 1),
    ):
        torch.testing.assert_close(explain(x), torch.cat([explain(x[i : i + 1]) for i in range(3)]))


def test_a_thousand_calls_leave_nothing_behind() -> None:
    net, x = small("in-place module"), images(1)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    def calls(count: int) -> None:
        for _ in range(count // 2):
            vision.grad_cam(net, net.conv2, x, 1)
            vision.guided_backprop(net, x, 1)

    calls(200)
    before, memory = tensors(), psutil.Process().memory_info().rss
    calls(1000)
    assert tensors() == before
    # one graph of this network that stayed behind each call would be ten times this
    assert psutil.Process().memory_info().rss - memory < 2**20
    assert not net.conv2._forward_hooks


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda n, x: vision.grad_cam(n, nn.Conv2d(1, 1, 1), x), "Conv2d is no part of this Small"),
        (lambda n, x: vision.grad_cam(n, n.relu, x), "'relu' ran 2 times in one forward pass"),
        (lambda n, x: vision.grad_cam(n, n.fc, x), r"'fc' puts out \(3, 3\); Grad-CAM needs maps"),
        (
            lambda n, x: vision.grad_cam(n, n.fc, x, at="input"),
            r"'fc' takes in \(3, 80\); Grad-CAM needs maps",
        ),
        (lambda n, x: vision.grad_cam(n, n.fc, x, at="in"), "at is 'in'; it must be 'input' or"),
        (lambda n, x: vision.grad_cam(n, n.conv2, x, 3), "target is 3; .* outputs are 0 to 2"),
        (lambda n, x: vision.grad_cam(n, n.conv2, x, -1), "target is -1"),
        (lambda n, x: vision.grad_cam(n, n.conv2, x, torch.zeros(2).long()), "each of 3 samples"),
        (lambda n, x: vision.grad_cam(n, n.conv2, x, lambda o: 1.0), "target gave float"),
        (
            lambda n, x: vision.grad_cam(n, n.conv2, x, lambda o: o.detach()),
            "doesn't depend on the layer 'conv2'",
        ),
        (
            lambda n, x: vision.guided_backprop(n, x, lambda o: n.fc.weight.sum()),
            "doesn't depend on the observation",
        ),
        (
            lambda n, x: vision.guided_backprop(
                nn.Sequential(n.conv1, nn.GELU(), nn.Flatten()), x, 0
            ),
            "no ReLU was met in this Sequential",
        ),
    ],
)
def test_bad_requests_get_one_clear_line(
    call: Callable[[Small, Tensor], Tensor], says: str
) -> None:
    net = small()
    with pytest.raises(ValueError, match=says) as error:
        call(net, images())
    assert "\n" not in str(error.value)
    assert not any(m._forward_hooks for m in net.modules())


def test_a_layers_name_is_no_layer() -> None:
    with pytest.raises(TypeError, match=r"layer is 'conv_2', a name; .*get_submodule.'conv2'"):
        vision.grad_cam(small(), "conv_2", images())  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_is_the_same_on_cuda() -> None:
    net, x = small("in-place module"), images()
    there = copy.deepcopy(net).cuda()
    for found, expected in (
        (vision.guided_backprop(there, x.cuda(), 1), vision.guided_backprop(net, x, 1)),
        (vision.grad_cam(there, there.conv2, x.cuda(), 1), vision.grad_cam(net, net.conv2, x, 1)),
    ):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-3)
