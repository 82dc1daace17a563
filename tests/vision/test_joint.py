"""The joint encoder: each image through its own, all vectors through one, in a known order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import vision
from vision import JointEncoder, OnePart, build_encoder

SHAPES = {"wrist": (3, 40, 48), "state": (3,), "camera": (4, 36, 36), "goal": (2,)}


def observation(seed: int = 0, size: int = 2) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, shape in SHAPES.items():
        if len(shape) == 3:
            found[name] = torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=draw)
        else:
            found[name] = torch.randn(size, *shape, generator=draw)
    return found


def test_features_stand_side_by_side_in_the_order_of_names() -> None:
    torch.manual_seed(0)
    joint = build_encoder("nature", SHAPES, 0.25)
    assert isinstance(joint, JointEncoder) and list(joint.images) == ["camera", "wrist"]
    seen = observation()
    camera, wrist = (joint.images[name](seen[name]) for name in ("camera", "wrist"))
    assert joint.vectors is not None and joint.vectors.observation_shape == (5,)
    vectors = joint.vectors(torch.cat([seen["goal"], seen["state"]], 1))
    expected = torch.cat([camera, wrist, vectors], 1)
    assert torch.equal(joint(seen), expected) and expected.shape == (2, joint.feature_dim)
    turned = build_encoder("nature", dict(reversed(SHAPES.items())), 0.25)
    assert list(turned.state_dict()) == list(joint.state_dict())
    turned.load_state_dict(joint.state_dict())
    assert torch.equal(turned(seen), expected)


def test_names_in_the_state_dict() -> None:
    shapes = {"observation.top": (1, 36, 36), "keys": (1, 36, 36), "train": (2,)}
    names = list(build_encoder("nature", shapes, 0.1).state_dict())
    assert names[0] == "image_keys.convs.0.weight"
    assert "image_observation/top.convs.2.bias" in names and names[-1] == "vectors.layers.1.bias"


def test_images_alone_and_vectors_alone() -> None:
    images = build_encoder("drq", {"a": (1, 20, 20), "b": (1, 30, 30)}, 0.1, head="pool")
    assert images.vectors is None and images.feature_dim == 6
    vectors = build_encoder("mlp", {"a": (2,), "b": (1,)}, 0.1)
    assert vectors.images == {} and vectors.feature_dim == 26
    out = vectors({"a": torch.tensor([[255, 0]], dtype=torch.uint8), "b": torch.ones(1, 1)})
    assert torch.equal(out, vectors({"a": torch.tensor([[1.0, 0]]), "b": torch.ones(1, 1)}))
    for options, name in (({"head": "pool"}, "mlp"), ({"norm": "group"}, "nature")):
        with pytest.raises(ValueError, match=f"the encoder '{name}' has no option"):
            build_encoder(name, {"a": (2,)} if name == "mlp" else SHAPES, **options)


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("nature", {"a": (3,), "b": (2,)}, "nature takes images, and none of a, b is one.*'mlp'"),
        ("nature", {"a": (1, 36, 36), "b": (1, 20, 36)}, "'b': nature needs images of at least 36"),
        ("nature", {"a": (1, 36, 36), "b": (36, 36)}, r"'b' has shape \(36, 36\); an image is"),
        ("natur", {"a": (1, 36, 36)}, "did you mean 'nature'"),
        ("nature", {}, "no parts"),
        ("drq", {"a.b": (1, 20, 20), "a/b": (1, 20, 20)}, "two parts are called 'a/b'"),
    ],
)
def test_shapes_that_do_not_fit(name: str, shapes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_encoder(name, shapes, 0.1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": None}, "built for camera, goal, state, wrist, and is given wrist, camera, goal"),
        ({"other": torch.zeros(2, 1)}, "is given .*other"),
        ({"state": torch.zeros(2, 4)}, r"'state' was to have shape \(3,\).*\(2, 4\)"),
        ({"goal": torch.zeros(2)}, r"'goal' was to have shape \(2,\)"),
        ({"camera": torch.zeros(2, 4, 36, 35)}, r"\(4, 36, 36\)"),
    ],
)
def test_observations_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    joint = build_encoder("nature", SHAPES, 0.1)
    seen = {name: v for name, v in (observation() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        joint(seen)
    with pytest.raises(ValueError, match="is given one tensor"):
        joint(torch.zeros(2, 3))  # type: ignore[arg-type]


def test_features_come_in_an_images_place() -> None:
    joint, seen = build_encoder("drq", SHAPES, 0.1), observation()
    cached = seen | {name: encoder(seen[name]) for name, encoder in joint.images.items()}
    assert torch.equal(joint(cached), joint(seen))
    single = build_encoder("drq", (3, 20, 20), 0.1, head="pool")
    image = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    half = single(image).half()
    assert torch.equal(single(half), half.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert single(half).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="was built for observations of shape"):
        single(half[:, 1:])  # neither an image nor its features


def test_one_freezes_norms_and_loads_by_part(tmp_path: Path) -> None:
    shapes = {"camera": (3, 40, 40), "grey": (1, 40, 40), "state": (2,)}
    options = {"norm": "group", "head": "pool"}
    joint = build_encoder("resnet18", shapes, 0.125, **options)
    torch.manual_seed(1)
    net = vision.resnet18(10, width=0.125, norm="group")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    for encoder in joint.images.values():
        vision.load_weights(encoder, tmp_path / "net.safetensors")
    first = net.conv1.weight
    assert torch.equal(joint.images["camera"].backbone.conv1.weight, first)  # type: ignore[union-attr]
    assert joint.images["grey"].backbone.conv1.weight.shape[1] == 1  # type: ignore[union-attr, index]
    vision.freeze(joint)
    assert not any(p.requires_grad for p in joint.parameters())
    assert not any(m.training for m in joint.train().modules())


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_images_of_one_shape_share_an_encoder(norm: str) -> None:
    shapes = {"left": (3, 40, 40), "right": (3, 40, 40), "top": (1, 40, 40)}
    options = {"norm": norm, "head": "pool"}
    joint = build_encoder("resnet18", shapes, 0.125, share=True, **options)
    apart = build_encoder("resnet18", shapes, 0.125, **options)
    assert joint.images["left"] is joint.images["right"] is not joint.images["top"]
    assert joint.feature_dim == apart.feature_dim
    assert {name.partition(".")[0] for name in joint.state_dict()} == {"image_left", "image_top"}
    seen = {name: torch.rand(2, *shape) for name, shape in shapes.items()}
    joint.eval()
    features = {name: joint.images[name](seen[name]) for name in shapes}
    expected = torch.cat(list(features.values()), 1)
    assert torch.allclose(joint(seen), expected, atol=1e-6)
    assert torch.allclose(joint(seen | {"right": features["right"]}), expected, atol=1e-6)
    if norm == "batch":  # one batch of both moves the statistics once
        joint.train()(seen)
        counts = {int(v) for n, v in joint.state_dict().items() if "batches_tracked" in n}
        assert counts == {1}
    with pytest.raises(ValueError, match="no two of one shape: camera is .*, wrist is"):
        build_encoder("nature", SHAPES, share=True)


def test_one_part_is_explained_while_the_rest_is_held() -> None:
    torch.manual_seed(0)
    joint, seen = build_encoder("nature", SHAPES, 0.25), observation()
    network = torch.nn.Sequential(joint, torch.nn.Linear(joint.feature_dim, 3))
    one = OnePart(network, seen, "wrist")
    assert torch.equal(one(seen["wrist"]), network(seen))
    cam = vision.grad_cam(one, joint.images["wrist"].head, seen["wrist"], 1, at="input")
    # by hand: the linear layer's weights are the gradient of its last map
    last = joint.images["wrist"].feature_maps(seen["wrist"])[-1].detach()
    start = joint.images["camera"].feature_dim
    gradient = network[1].weight[1, start : start + last[0].numel()].view(last.shape[1:])
    expected = (gradient.mean((1, 2))[None, :, None, None] * last).sum(1).relu()
    assert torch.allclose(cam, expected, atol=1e-6)
    guided = vision.guided_backprop(one, seen["wrist"], 1)
    assert guided.shape == seen["wrist"].shape and guided.abs().max() > 0
    with torch.inference_mode():
        held = {name: value.clone() for name, value in seen.items()}
    again = vision.grad_cam(
        OnePart(network, held, "wrist"), joint.images["wrist"].head, held["wrist"], 1, at="input"
    )
    assert torch.equal(again, cam)
    with pytest.raises(ValueError, match="no part 'hand'; the parts are wrist, state"):
        OnePart(network, seen, "hand")
