"""A replay that keeps what a frozen encoder makes of images, in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from replay.checks import Frames, Lanes
from replay.prioritized import PrioritizedReplay
from replay.ring import Slots
from replay.types import Field, Observation, Spec, by_part, longest_stack

Encode = Callable[[Observation], dict[str, Tensor]]

DTYPE = "float16"
"""Of stored features: 11 bits, where bfloat16 has 8; what is beyond its range becomes its bound."""

_RECENT = "recent"
_LONE = ""


class FeatureReplay(PrioritizedReplay):
    """A `PrioritizedReplay` whose images are encoded once, as they come, and then forgotten.

    Args:
        capacity, observation, action: as `PrioritizedReplay` takes them; so are all other options.
        encode: from observations (N, *stacked_shape), or a dict of them, to the features (N, F) of
            each image by name; of an observation without names, under ''. It must give the same
            features for the same observation for ever. It is tried once with zeros.

    Frames go in and features come out: a lone image becomes a vector (F,), in a dict each image
    becomes one and vectors stay as they are. A feature is of a whole stack of frames, which the
    replay builds from the newest few that it keeps beside. `add` waits for the encoder.
    Raises ValueError for observations without an image.
    """

    def __init__(
        self,
        capacity: int,
        observation: Spec,
        action: Field = Field((), "int64"),  # noqa: B008 (frozen)
        *,
        encode: Encode,
        lanes: int = 1,
        **options: Any,
    ) -> None:
        self.encode = encode
        self.recent = PrioritizedReplay(
            lanes * (longest_stack(observation) + 2), observation, action, lanes=lanes, alpha=0.0
        )
        fields = by_part(observation)
        if not any(len(field.shape) == 3 for field in fields.values()):
            shapes = ", ".join(str(field.shape) for field in fields.values())
            raise ValueError(f"a replay of features needs an image; observations are {shapes}")
        stored = {
            name: Field((feature.shape[1],), DTYPE)
            for name, feature in encode(_zeros(observation)).items()
        }
        spec = stored[_LONE] if isinstance(observation, Field) else {**observation, **stored}
        super().__init__(capacity, spec, action, lanes=lanes, **options)
        self._behind = np.zeros(lanes, np.bool_)  # lanes whose newest frame has no features

    @property
    def nbytes(self) -> int:
        """Bytes of everything, as if full, the newest frames included."""
        return super().nbytes + self.recent.nbytes

    def reset(self, frame: Frames, lanes: Lanes = None) -> None:
        """Begin an episode in each lane with `frame`; see `PrioritizedReplay.reset`."""
        chosen = self._chosen(lanes)
        self.recent.reset(frame, lanes)
        self._behind[chosen] = True
        super().reset(self._encoded(frame, chosen), lanes)
        self._behind[chosen] = False

    def add(
        self,
        frame: Frames,
        action: ArrayLike,
        reward: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike,
        lanes: Lanes = None,
    ) -> None:
        """Store one step of each lane; see `PrioritizedReplay.add`.

        Where the encoder fails the step is lost, and its lanes have to be reset.
        """
        chosen = self._chosen(lanes)
        if self._behind[chosen].any():
            lane = chosen[self._behind[chosen]][0]
            raise ValueError(f"the newest frame of lane {lane} was not encoded; call reset first")
        self.recent.add(frame, action, reward, terminated, truncated, lanes)
        self._behind[chosen] = True
        features = self._encoded(frame, chosen)
        super().add(features, action, reward, terminated, truncated, lanes)
        self._behind[chosen] = False

    def save(self, folder: Path, previous: Path | None = None) -> None:
        """Write the whole state into `folder`, the newest frames below it."""
        super().save(folder, previous)
        self.recent.save(Path(folder) / _RECENT)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote; the encoder must be the one that the features are of."""
        self.recent.load(Path(folder) / _RECENT)
        super().load(folder)
        self._behind[:] = False

    def _encoded(self, frame: Frames, chosen: Slots) -> Frames:
        """What is stored of the newest frames of the lanes that `frame` was just written to."""
        stacks = {part: stack[chosen] for part, stack in self.recent.store.latest().items()}
        seen: Observation = stacks["frame"] if self.recent.single else stacks
        bound = torch.finfo(torch.float16).max
        features = {
            part: feature.float().clamp(-bound, bound).half().cpu().numpy()
            for part, feature in self.encode(seen).items()
        }
        if self.recent.single:
            return features[_LONE]
        assert isinstance(frame, Mapping)
        return {**frame, **features}


def _zeros(spec: Spec) -> Observation:
    """One observation of nothing but zeros."""

    def zero(field: Field) -> Tensor:
        return torch.from_numpy(np.zeros((1, *field.stacked_shape), field.dtype))

    if isinstance(spec, Field):
        return zero(spec)
    return {name: zero(field) for name, field in spec.items()}
