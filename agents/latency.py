"""Percentiles of durations in fixed memory, however long a run is."""

from __future__ import annotations

import math

_LEAST, _GREATEST, _RATIO = 1e-6, 1e3, 1.01


class Durations:
    """Counts durations in bins 1% wide from a microsecond to a quarter of an hour."""

    def __init__(self) -> None:
        self._bins = [0] * (int(math.log(_GREATEST / _LEAST) / math.log(_RATIO)) + 2)
        self.count = 0
        self.greatest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.greatest = max(self.greatest, seconds)
        at = math.log(max(seconds, _LEAST) / _LEAST) / math.log(_RATIO)
        self._bins[min(int(at), len(self._bins) - 1)] += 1

    def quantile(self, share: float) -> float:
        """The duration, to 1%, that `share` of all do not exceed; NaN without any."""
        if not self.count:
            return math.nan
        left = share * self.count
        for index, count in enumerate(self._bins):
            left -= count
            if left <= 0 and count:
                return min(_LEAST * _RATIO ** (index + 1), self.greatest)
        return self.greatest

    def summary(self) -> dict[str, float | None]:
        """p50, p95, p99 and the greatest, in milliseconds; None without any."""
        if not self.count:
            return dict.fromkeys(("p50", "p95", "p99", "max"))
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        found = {name: self.quantile(share) for name, share in shares.items()}
        return {name: round(1e3 * x, 3) for name, x in (found | {"max": self.greatest}).items()}
