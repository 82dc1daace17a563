"""Loading weights: round trips on files made here, adaptation by hand, refusals."""

from __future__ import annotations

import hashlib
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vision
from vision.weights import adapt_channels

WIDTH = 1 / 8


def net(name: str = "resnet18", classes: int = 5, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    module = getattr(vision, name)(classes, width=WIDTH, **options).eval()
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if "running_mean" in key:
                value.uniform_(-0.5, 0.5)
            elif "running_var" in key:
                value.uniform_(0.5, 1.5)
    return module


def write(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "resnet20"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_gives_back_the_network(name: str, suffix: str, tmp_path: Path) -> None:
    source, other = net(name), net(name, seed=1)
    x = torch.randn(2, 3, 40, 40)
    assert not torch.allclose(source(x), other(x))
    path = write(tmp_path / f"w.{suffix}", source.state_dict())
    report = vision.load_weights(other, path)
    assert torch.equal(source(x), other(x))
    assert set(report.matched) == set(source.state_dict())
    assert (report.missing, report.misshaped, report.unused, report.adapted) == ((), (), (), "")
    assert str(report) == f"{path}: {len(report.matched)} keys matched"
    assert all(p.requires_grad for p in other.parameters())


def test_old_files_and_wrapped_ones_load(tmp_path: Path) -> None:
    source, other = net("resnet20"), net("resnet20", seed=1)
    state = OrderedDict(
        (f"module.{k}", v) for k, v in source.state_dict().items() if "num_batches" not in k
    )
    path = tmp_path / "resnet20.th"
    wrapped = {"state_dict": state, "best_prec1": 91.7, "epoch": 3}
    torch.save(wrapped, path, _use_new_zipfile_serialization=False)
    report = vision.load_weights(other, path)
    assert report.missing == () and len(report.matched) == len(state)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(source(x), other(x))


def test_an_encoder_takes_its_classifiers_file(tmp_path: Path) -> None:
    source = net("resnet18")
    path = write(tmp_path / "w.safetensors", source.state_dict())
    encoder = vision.build_encoder("resnet18", (3, 64, 64), width=WIDTH, head="softmax").eval()
    report = vision.load_weights(encoder, path)
    assert set(report.unused) == {"fc.bias", "fc.weight"}
    assert report.missing == ("head.temperature",)
    x = torch.rand(2, 3, 64, 64)
    for a, b in zip(encoder.feature_maps(x), source.stages(x), strict=True):
        assert torch.equal(a, b)
    assert "2 unused: " in str(report) and "1 missing: head.temperature" in str(report)
    # and its own, which its classifier takes too
    write(path, encoder.state_dict())
    assert vision.load_weights(encoder, path).unused == ()
    other = net("resnet18", seed=1)
    report = vision.load_weights(other, path)
    assert set(report.missing) == {"fc.bias", "fc.weight"}
    assert torch.equal(other.eval().stages(x)[-1], source.stages(x)[-1])
    # a classifier that was saved as a part of something
    write(path, {f"backbone.{key}": value for key, value in source.state_dict().items()})
    assert set(vision.load_weights(encoder, path).unused) == {
        "backbone.fc.bias",
        "backbone.fc.weight",
    }


def test_another_number_of_classes_leaves_the_classifier(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", net(classes=5).state_dict())
    other = net(classes=7, seed=1)
    before = other.fc.weight.clone()
    report = vision.load_weights(other, path)
    assert report.misshaped == (("fc.weight", (5, 64), (7, 64)), ("fc.bias", (5,), (7,)))
    assert torch.equal(other.fc.weight, before)
    assert "2 mis-shaped: fc.weight 5x64 for 7x64, fc.bias 5 for 7" in str(report)


def test_first_convolutions_are_adapted_by_hand() -> None:
    weight = torch.arange(6.0).view(2, 3, 1, 1)  # [0 1 2], [3 4 5]
    for channels, rule, expected in (
        (1, "auto", [[3], [12]]),
        (6, "auto", [[0, 0.5, 1] * 2, [1.5, 2, 2.5] * 2]),
        (4, "auto", [[0.75] * 4, [3] * 4]),
        (4, "tile", [[0, 0.75, 1.5, 0], [2.25, 3, 3.75, 2.25]]),
        (6, "average", [[0.5] * 6, [2] * 6]),
    ):
        new, _ = adapt_channels(weight, channels, rule)
        assert new[:, :, 0, 0].tolist() == expected, (channels, rule)


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 1), ("vgg11", 9), ("resnet20", 4)])
def test_grey_gives_what_equal_colours_gave(name: str, channels: int, tmp_path: Path) -> None:
    source = net(name)
    path = write(tmp_path / "w.pth", source.state_dict())
    other = net(name, seed=1, in_channels=channels)
    report = vision.load_weights(other, path)
    grey = torch.randn(2, 1, 32, 32)
    expected = source(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(other(grey.expand(-1, channels, -1, -1)), expected)
    assert f"from 3 to {channels} channels" in report.adapted


def test_digests_are_checked(tmp_path: Path) -> None:
    module = net()
    path = write(tmp_path / "w.safetensors", module.state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for given in (digest, digest.upper(), digest[:8]):
        vision.load_weights(module, path, sha256=given)
    with pytest.raises(ValueError, match=f"has the sha256 {digest}, not {'0' * 64}"):
        vision.load_weights(module, path, sha256="0" * 64)
    with pytest.raises(ValueError, match="'abc'; it must be 8 to 64 hexadecimal digits"):
        vision.load_weights(module, path, sha256="abc")


def refused(module: nn.Module, source: Path | str, error: type[Exception] = ValueError) -> str:
    """The error's message; it is one line and the module is as before."""
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(error) as found:
        vision.load_weights(module, source)
    assert "\n" not in str(found.value)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    return str(found.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_truncated_file_says_so(suffix: str, share: float, tmp_path: Path) -> None:
    path = write(tmp_path / f"w.{suffix}", net().state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"{path} is truncated or damaged: " in refused(net(seed=1), path)


def test_what_is_no_weights_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_text("<html>404</html>")
    assert "neither safetensors nor one of torch.save" in refused(net(), path)
    path.write_bytes(b"")
    assert "neither safetensors nor one of torch.save" in refused(net(), path)
    torch.save([1, 2], path)
    assert "holds no state dict but list" in refused(net(), path)
    torch.save({"epoch": 3}, path)
    assert "holds no state dict: 'epoch' is int, not a tensor" in refused(net(), path)
    write(tmp_path / "resnet18.pth", net().state_dict())
    missing = refused(net(), tmp_path / "resnet81.pth", FileNotFoundError)
    assert f"did you mean {tmp_path / 'resnet18.pth'}?" in missing


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(net(), path)
    assert "holds more than tensors, and loading that could run code" in refused(net(), path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", net("resnet34").state_dict())
    said = refused(net("resnet18"), path)
    assert "is of another network than this ResNet: of its keys 122 fit, 96 without a place" in said
    assert "layer1.2.conv1.weight" in said and "strict=False" in said
    path = write(tmp_path / "w.pth", net("vgg11").state_dict())
    said = refused(net("resnet18"), path)
    # of 122 less the classifier's two and the counters of 20 norms
    assert "of its keys 0 fit, 100 missing (conv1.weight" in said
    with pytest.raises(ValueError, match="fits nothing in ResNet: its keys are features.0.weight"):
        vision.load_weights(net("resnet18"), path, strict=False)


def test_what_fits_is_loaded_if_asked(tmp_path: Path) -> None:
    source, other = net("resnet34"), net("resnet18", seed=1)
    path = write(tmp_path / "w.pth", source.state_dict())
    report = vision.load_weights(other, path, strict=False)
    assert len(report.matched) == 122 and len(report.unused) == 96
    assert "96 unused: layer1.2.conv1.weight, " in str(report) and "92 more" in str(report)
    assert torch.equal(other.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_an_unknown_rule_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'averaged'; did you mean 'average'. Known: auto,"):
        vision.load_weights(net(), tmp_path / "w.pth", first_conv="averaged")


def test_names_are_asked_of_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = net(), net(seed=1)
    models = types.ModuleType("torchvision.models")

    def get_model(name: str, weights: str) -> nn.Module:
        if name != "resnet18":
            raise KeyError(f"Unknown model {name}")
        assert weights == "DEFAULT"
        return source

    models.get_model = get_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    vision.load_weights(other, "torchvision:resnet18")
    assert torch.equal(other.conv1.weight, source.conv1.weight)
    assert "torchvision could not give 'resnet19'" in refused(other, "torchvision:resnet19")
    with pytest.raises(ValueError, match="no file whose sha256"):
        vision.load_weights(other, "torchvision:resnet18", "0" * 64)


def test_a_package_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    said = refused(net(), "timm:resnet18")
    assert said.startswith("timm:resnet18 needs timm, which can't be imported here (")
    assert said.endswith("give a local file instead")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = net("resnet20").state_dict()
    state["conv1.weight"][0, 0, 0, 0] = torch.nan
    path = write(tmp_path / "w.safetensors", state)
    assert "holds NaN or infinity in conv1.weight" in refused(net("resnet20", seed=1), path)


def test_keys_that_are_no_names_and_numbers_beyond_float32(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({1: torch.ones(2)}, path)
    with pytest.raises(ValueError, match="holds no state dict: 1 is no parameter's name"):
        vision.load_weights(net(), path)
    state = net("resnet18").state_dict()
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"].double() * 1e300
    torch.save(state, path)
    encoder = vision.build_encoder("resnet18", (3, 64, 64), width=WIDTH)
    with pytest.raises(ValueError, match=r"NaN or infinity in layer1\.0\.conv1\.weight"):
        vision.load_weights(encoder, path)


def test_a_compiled_networks_file_loads(tmp_path: Path) -> None:
    source, other = net(), net(seed=1)
    state = {f"_orig_mod.{key}": value for key, value in source.state_dict().items()}
    assert vision.load_weights(other, write(tmp_path / "w.pth", state)).missing == ()
