"""The seven games of the first DQN paper at its 10M frames: trains, then prints the table.

    python -m benchmarks.games --out runs/games                     every game, a seed each
    python -m benchmarks.games --out runs/games --names Pong Qbert
    python -m benchmarks.games --out runs/games --table             the table of what is there

Each run is `agents train dqn --env GAME --steps 2500000 --seed S`; see `benchmarks.runs`. Options
after `--` go to every run, and belong in another `out`.

The paper (Mnih et al. 2013, table 1) trained for 10M frames and played with epsilon 0.05, as we do.
What differs is told by our protocol's name: see `envs/protocol.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.runs import Result, command_line, grouped

PAPER = {
    "BeamRider": 4092,
    "Breakout": 168,
    "Enduro": 470,
    "Pong": 20,
    "Qbert": 1952,
    "Seaquest": 1705,
    "SpaceInvaders": 581,
}
"""Mean scores of the paper's DQN."""
STEPS = 2_500_000


def table(results: Sequence[Result]) -> Table:
    """A line a game and number of steps."""
    protocols = {json.loads((Path(r.run) / "result.json").read_text())["protocol"] for r in results}
    told = f"final evaluations, protocol {', '.join(sorted(protocols))}"
    shown = Table(title="dqn, one set of options for all", caption=told)
    for column in ("game", "frames", "hours a run", "seeds", "mean score", "median", "paper"):
        shown.add_column(column, justify="left" if column == "game" else "right")
    for game, paper in PAPER.items():
        for steps, lines, cells in grouped(results, game):
            middle = median(score for line in lines for score in line.scores)
            shown.add_row(game, f"{4 * steps / 1e6:g}M", *cells, f"{middle:,.1f}", f"{paper:,}")
    return shown


if __name__ == "__main__":
    command_line(__doc__, "dqn", dict.fromkeys(PAPER, STEPS), "runs/games", table)
