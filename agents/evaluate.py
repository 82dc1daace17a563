"""Scores with their protocol, and films of a trained agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.vector import Episode, VectorEnv


def summary(episodes: Sequence[Episode], env: VectorEnv, epsilon: float) -> dict[str, Any]:
    """Mean score with its 95% interval, and the protocol that it was played under.

    The interval is Student's t over episodes: mean ± t * s / sqrt(n). Seeds of training vary
    beyond it.
    """
    scores = np.array([episode.score for episode in episodes])
    half = student_t(len(scores) - 1) * scores.std(ddof=1) / math.sqrt(len(scores)) if len(
        scores
    ) > 1 else math.nan
    protocol = env.protocol.describe() if env.protocol else "the environment's own rules"
    mean = float(scores.mean())
    return {
        "mean": mean,
        "interval": [mean - half, mean + half] if math.isfinite(half) else None,
        "median": float(np.median(scores)),
        "best": float(scores.max()),
        "episodes": len(scores),
        "scores": scores.tolist(),
        "lengths": [episode.length for episode in episodes],
        "epsilon": epsilon,
        "protocol": protocol,
        "text": f"score {mean:.1f}"
        + (f" ± {half:.1f} (95%)" if math.isfinite(half) else "")
        + f", median {np.median(scores):.1f}, best {scores.max():.1f} over {len(scores)} episodes, "
        f"epsilon {epsilon:g}, {protocol}",
    }


def student_t(freedom: int) -> float:
    """The 97.5% quantile of Student's t, to 1% from two degrees of freedom on.

    Hill 1970 (CACM algorithm 396), its expansion around the normal quantile.
    """
    z = 1.959964
    if freedom == 1:
        return 12.7062
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
