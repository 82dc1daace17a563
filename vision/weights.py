"""Pretrained weights into a network: from a local file, or by a torchvision or timm name."""

from __future__ import annotations

import difflib
import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vision.backbones.backbone import Backbone, BackboneEncoder
from vision.registry import choose

RULES = ("auto", "average", "tile")
_PACKAGES = ("torchvision", "timm")
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and DataParallel write before every key."""
_SHOWN = 4


@dataclass(frozen=True)
class Report:
    """What became of a file's keys; printed, a few lines."""

    source: str
    matched: tuple[str, ...]
    """Keys that were loaded."""
    missing: tuple[str, ...] = ()
    """Keys of the network that the file doesn't have; they stay as they were."""
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    """Key, shape in the file, shape in the network; they stay as they were."""
    unused: tuple[str, ...] = ()
    """Keys of the file that the network doesn't have."""
    adapted: str = ""
    """How the first convolution took other channels than the file's; empty where it didn't."""

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.matched)} keys matched"]
        if self.adapted:
            lines.append(f"  adapted: {self.adapted}")
        shapes = tuple(f"{key} {_size(a)} for {_size(b)}" for key, a, b in self.misshaped)
        for word, keys in (
            ("missing", self.missing),
            ("mis-shaped", shapes),
            ("unused", self.unused),
        ):
            if keys:
                lines.append(f"  {len(keys)} {word}: {_some(keys)}")
        return "\n".join(lines)


def load_weights(
    module: nn.Module,
    source: str | Path,
    sha256: str | None = None,
    *,
    first_conv: str = "auto",
    strict: bool = True,
) -> Report:
    """Load weights into `module` in place, all or nothing.

    source      a safetensors file, or one of torch.save, of which only tensors are read; or
                "torchvision:resnet18" or "timm:resnet18", which downloads by that package
    sha256      the file's digest in hexadecimal, or its first 8 digits or more
    first_conv  what becomes of the first convolution's weights where the file's have other input
                channels: "tile" repeats them over the channels, "average" gives each channel
                their mean, "auto" tiles where the channels are a multiple of the file's (stacked
                colour frames) and averages elsewhere. Either is scaled by old / new channels, so
                equal channels give the response that equal channels gave: one grey channel gets
                the sum over red, green and blue.
    strict      False loads whatever fits; True demands all but the classifier: of a network's own
                keys none may be missing or mis-shaped, of the file's none unused

    What DataParallel and torch.compile write before every key is dropped; an encoder takes its
    classifier's file, and a classifier its encoder's. BatchNorm's counters, which old files lack,
    are never missing. Files that were trained on normalised images want encoders built with
    normalize="imagenet".

    Raises FileNotFoundError, and ValueError in one line for a file that is none of these, is
    truncated, has another digest, or belongs to another network.
    """
    choose("no rule for the first convolution is called", first_conv, RULES)
    package, colon, name = str(source).partition(":")
    if colon and package in _PACKAGES:
        if sha256 is not None:
            raise ValueError(f"{source} is no file whose sha256 could be checked")
        state = _download(package, name)
    else:
        state = _tensors(Path(source), sha256)
    return _fill(module, state, str(source), first_conv, strict)


def _fill(
    module: nn.Module, state: dict[str, Tensor], source: str, rule: str, strict: bool
) -> Report:
    """Match keys and shapes, refuse or copy."""
    own = module.state_dict(keep_vars=True)
    for key, value in state.items():
        # as float32, which greater numbers of a float64 file become infinite in
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            raise ValueError(f"{source} holds NaN or infinity in {key}")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if isinstance(module, BackboneEncoder):
        state = {
            key if key in own or "backbone." + key not in own else "backbone." + key: value
            for key, value in state.items()
        }
    elif all(key.startswith(("backbone.", "head.")) for key in state):
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
    first = _first_conv(module)
    copies: dict[str, Tensor] = {}
    misshaped, adapted = [], ""
    for key, value in state.items():
        if key not in own:
            continue
        if key == first and _only_channels_differ(value, own[key]):
            value, adapted = adapt_channels(value, own[key].shape[1], rule)
            adapted = f"{key} {adapted}"
        if value.shape == own[key].shape:
            copies[key] = value
        else:
            misshaped.append((key, tuple(value.shape), tuple(own[key].shape)))
    missing = tuple(
        key for key in own if key not in state and not key.endswith("num_batches_tracked")
    )
    unused = tuple(key for key in state if key not in own)
    report = Report(source, tuple(copies), missing, tuple(misshaped), unused, adapted)
    if strict:
        _refuse(module, report)
    if not copies:
        raise ValueError(
            f"{source} fits nothing in {type(module).__name__}: its keys are {_some(tuple(state))}"
        )
    with torch.no_grad():
        for key, value in copies.items():
            own[key].copy_(value)
    return report


def _refuse(module: nn.Module, report: Report) -> None:
    """ValueError if more than the classifier, or an encoder's own head, doesn't fit."""
    backbone = module.backbone if isinstance(module, BackboneEncoder) else module
    spared: tuple[str, ...] = ()
    if isinstance(backbone, Backbone):
        classifier = backbone.classifier_name + "."
        spared = ("head.", classifier, "backbone." + classifier)
    wrong = [
        f"{len(keys)} {word} ({_some(keys)})"
        for word, every in (
            ("missing", report.missing),
            ("mis-shaped", tuple(key for key, _, _ in report.misshaped)),
            ("without a place", report.unused),
        )
        if (keys := tuple(key for key in every if not key.startswith(spared)))
    ]
    if wrong:
        raise ValueError(
            f"{report.source} is of another network than this {type(module).__name__}: of its "
            f"keys {len(report.matched)} fit, {', '.join(wrong)}; "
            "vision.load_weights(..., strict=False) loads what fits"
        )


def adapt_channels(weight: Tensor, channels: int, rule: str = "auto") -> tuple[Tensor, str]:
    """A convolution's weights for other input channels, and the rule in words.

    (out, before, kH, kW) -> (out, channels, kH, kW); the rules are `load_weights`'.
    """
    before = weight.shape[1]
    if rule == "auto":
        rule = "average" if channels % before else "tile"
    if rule == "tile":
        new = weight[:, torch.arange(channels) % before]
    else:
        new = weight.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    word = "averaged" if rule == "average" else "tiled"
    return new * (before / channels), f"{word} from {before} to {channels} channels"


def _first_conv(module: nn.Module) -> str | None:
    """The key of the first convolution's weights."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            return f"{name}.weight" if name else "weight"
    return None


def _only_channels_differ(a: Tensor, b: Tensor) -> bool:
    return (
        a.dim() == b.dim() == 4
        and a.shape[1] != b.shape[1]
        and a.shape[0] == b.shape[0]
        and a.shape[2:] == b.shape[2:]
    )


def _tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """A local file's tensors by name."""
    if not path.is_file():
        folder = path.parent
        there = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, there, n=1)
        raise FileNotFoundError(
            f"no weights file {path}" + (f"; did you mean {folder / near[0]}?" if near else "")
        )
    if sha256 is not None:
        _check_hash(path, sha256)
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return _read_torch(path)
    raise ValueError(f"{path} is no weights file: neither safetensors nor one of torch.save")


def _check_hash(path: Path, sha256: str) -> None:
    wanted = sha256.lower()
    if not 8 <= len(wanted) <= 64 or set(wanted) - set("0123456789abcdef"):
        raise ValueError(f"sha256 is {sha256!r}; it must be 8 to 64 hexadecimal digits")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise ValueError(f"{path} has the sha256 {found}, not {wanted}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {_line(error)}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # a damaged file fails anywhere in the reader, with whatever error the bytes provoke
    except Exception as error:
        if "weights_only" in str(error) and "Unsupported" in str(error):
            raise ValueError(
                f"{path} holds more than tensors, and loading that could run code: "
                "save the network's state_dict() instead"
            ) from error
        raise ValueError(f"{path} is truncated or damaged: {_line(error)}") from error
    if isinstance(content, dict):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
                break
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict but {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(f"{path} holds no state dict: {key!r} is no parameter's name")
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds no state dict: {key!r} is {type(value).__name__}, not a tensor"
            )
    return content


def _download(package: str, name: str) -> dict[str, Tensor]:
    """The pretrained weights of a package's model; needs the package and its server."""
    try:
        models = importlib.import_module("timm" if package == "timm" else "torchvision.models")
    # torchvision beside another torch fails with RuntimeError
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"{package}:{name} needs {package}, which can't be imported here ({_line(error)}); "
            "give a local file instead"
        ) from error
    try:
        if package == "timm":
            network = models.create_model(name, pretrained=True)
        else:
            network = models.get_model(name, weights="DEFAULT")
    # unknown names, servers out of reach, full disks: each package has errors of its own
    except Exception as error:
        raise ValueError(f"{package} could not give {name!r}: {_line(error)}") from error
    return network.state_dict()


def _line(error: BaseException) -> str:
    """An error's first line, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _some(keys: tuple[str, ...]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
