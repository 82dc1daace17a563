"""What is made of a camera's picture before an agent sees it: declared, saved, and compared.

The steps have one order: undistort, crop, mirror, grey, resize. A view is part of what an agent
was trained on, so a run keeps it (`camera.json`) and another is refused where the agent acts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

FILE = "camera.json"
"""Name of a view in a run folder."""
SCHEMA = 1
MOST = 16_384
"""Pixels of a side, at most."""


@dataclass(frozen=True)
class Lens:
    """A camera's matrix and distortion, as `cv2.calibrateCamera` finds them."""

    matrix: tuple[float, ...]
    """Nine numbers, row by row: (fx, 0, cx, 0, fy, cy, 0, 0, 1), in pixels."""
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """OpenCV's coefficients: 4, 5, 8, 12 or 14 of them."""

    def __post_init__(self) -> None:
        if len(self.matrix) != 9:
            raise ValueError(f"the lens's matrix has {len(self.matrix)} numbers; expected 9")
        if len(self.distortion) not in (4, 5, 8, 12, 14):
            raise ValueError(
                f"the lens has {len(self.distortion)} distortion coefficients; expected 4, 5, 8, "
                "12 or 14"
            )
        if not np.isfinite([*self.matrix, *self.distortion]).all():
            raise ValueError("the lens holds NaN or infinity; its numbers must be finite")
        fx, fy = self.matrix[0], self.matrix[4]
        if not (0 < fx < 1e6 and 0 < fy < 1e6 and self.matrix[6:] == (0, 0, 1)):
            raise ValueError(
                f"the lens's matrix is {self.matrix}; expected (fx, 0, cx, 0, fy, cy, 0, 0, 1) "
                "with fx and fy in pixels, above 0"
            )


@dataclass(frozen=True)
class View:
    """From a picture (H, W, 3) uint8 RGB to what the agent sees, uint8 (h, w, 3) or (h, w).

    Sizes are (height, width), in pixels. A view with nothing set leaves pictures as they are.
    """

    source: tuple[int, int] | None = None
    """Size that the camera's pictures must have; None takes any."""
    undistort: Lens | None = None
    """The lens whose distortion is taken out."""
    crop: tuple[int, int, int, int] | None = None
    """Top, left, height and width of what is kept."""
    mirror: bool = False
    """Left and right change places."""
    grey: bool = False
    """ITU-R BT.601 luma, as Atari's own palette has it."""
    resize: tuple[int, int] | None = None
    """Size in the end; by area averages where it shrinks, bilinear where it grows."""

    def __post_init__(self) -> None:
        for name, least in (("source", 1), ("resize", 1), ("crop", 0)):
            value = getattr(self, name)
            if value is None:
                continue
            numbers = 4 if name == "crop" else 2
            whole = all(isinstance(n, int) and not isinstance(n, bool) for n in value)
            if len(value) != numbers or not whole or min(value) < least or min(value[-2:]) < 1:
                raise ValueError(
                    f"{name} is {value}; expected {numbers} whole numbers of pixels, sizes from 1"
                )
            if max(value) > MOST:
                raise ValueError(f"{name} is {value}; a side has {MOST:,} pixels at most")

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """Shape of what comes out; ValueError where only the camera could tell it."""
        size = self.resize or (self.crop[2:] if self.crop else self.source)
        if size is None:
            raise ValueError("the view fixes no size; give it resize=(height, width)")
        return size if self.grey else (*size, 3)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """What the agent sees of `picture`; ValueError, naming both sizes, where it doesn't fit."""
        import cv2

        size = picture.shape[:2]
        if self.source is not None and size != self.source:
            raise ValueError(
                f"the camera's pictures are {_size(size)}; this view is for {_size(self.source)} "
                "(height x width)"
            )
        if self.undistort is not None:
            picture = cv2.remap(picture, *_maps(self.undistort, *size), cv2.INTER_LINEAR)
        if self.crop is not None:
            top, left, height, width = self.crop
            if top + height > size[0] or left + width > size[1]:
                raise ValueError(
                    f"crop {self.crop} (top, left, height, width) reaches beyond the camera's "
                    f"picture, {_size(size)}"
                )
            picture = picture[top : top + height, left : left + width]
        if self.mirror:
            picture = picture[:, ::-1]
        if self.grey and picture.ndim == 3:
            picture = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        if self.resize is not None and picture.shape[:2] != self.resize:
            shrinks = picture.shape[0] >= self.resize[0] and picture.shape[1] >= self.resize[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            picture = cv2.resize(
                np.ascontiguousarray(picture), self.resize[::-1], interpolation=how
            )
        return np.ascontiguousarray(picture)

    def differences(self, other: View) -> str:
        """What tells the two apart, both values named; empty where nothing does."""
        found = [
            f"{field.name} is {getattr(self, field.name)} here and {getattr(other, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
        return ", ".join(found)

    def to_json(self) -> str:
        """The text of `camera.json`."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = FILE) -> View:
        """The view that `to_json` wrote; ValueError, naming the file, for anything else."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
                raise ValueError(f"it is of no schema known here, {SCHEMA}")
            known = {field.name for field in fields(cls)}
            if odd := set(values) - known:
                raise ValueError(f"unknown key {sorted(odd)[0]!r}")
            for key in ("source", "crop", "resize"):
                values[key] = tuple(values[key]) if values.get(key) is not None else None
            if values.get("undistort") is not None:
                values["undistort"] = lens(values["undistort"])
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} holds no view of a camera: {error}") from None


def lens(values: Any) -> Lens:
    """A lens of {"matrix": 3x3 or nine numbers, "distortion": [...]}; ValueError otherwise."""
    if not isinstance(values, dict) or "matrix" not in values:
        raise ValueError('a lens is {"matrix": [9 numbers], "distortion": [4 or more]}')
    if odd := set(values) - {"matrix", "distortion"}:
        raise ValueError(f"a lens has no {sorted(odd)[0]!r}; expected matrix and distortion")
    return Lens(*(_floats(key, values.get(key, (0.0,) * 4)) for key in ("matrix", "distortion")))


def _floats(key: str, value: Any) -> tuple[float, ...]:
    try:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(np.asarray(value, np.float64).ravel().tolist())
    except (TypeError, ValueError):
        text = str(value)
        text = text if len(text) < 60 else text[:57] + "..."
        raise ValueError(f"the lens's {key} is {text}; expected a list of numbers") from None


def saved(run_dir: Path) -> View | None:
    """The view that a run was trained through; None where it saw no camera."""
    path = run_dir / FILE
    return View.from_json(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def _size(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


@lru_cache(maxsize=4)
def _maps(lens: Lens, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    matrix, distortion = np.array(lens.matrix).reshape(3, 3), np.array(lens.distortion)
    kind = cv2.CV_16SC2
    return cv2.initUndistortRectifyMap(matrix, distortion, None, matrix, (width, height), kind)
