"""When the ranks of priorities are worked out anew (Schaul et al. 2016, section 3.3)."""

from __future__ import annotations

_LEAST = 64  # steps
_SHARE = 8


class Sorting:
    """Counts the steps written since the last sort.

    Between sorts a new priority takes the rank that it would have had among those of the last one.
    The paper sorts every 10^6 steps; here it is whenever an eighth of the memory is new.
    """

    def __init__(self) -> None:
        self._steps = 0

    def due(self, steps: int, held: int) -> bool:
        """Whether to sort, after `steps` more steps, with `held` frames in the memory."""
        self._steps += steps
        return self._steps >= max(_LEAST, held // _SHARE)

    def done(self) -> None:
        """Count from 0 again."""
        self._steps = 0
