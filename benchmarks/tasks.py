"""What ddpg learns on many tasks with one set of options: trains, then prints the table.

    python -m benchmarks.tasks --out runs/tasks                     every task, a seed each
    python -m benchmarks.tasks --out runs/tasks --seeds 1 2 3 --names Pendulum-v1 Reacher-v5
    python -m benchmarks.tasks --out runs/tasks --table             the table of what is there

Each run is `agents train ddpg --env TASK --steps N --seed S`; see `benchmarks.runs`. Options after
`--` go to every run, and belong in another `out`.

A task is solved where the mean reaches its mark; failures stay in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from benchmarks.runs import Result, command_line, grouped, interval


class Task(NamedTuple):
    """One line of the table."""

    env: str
    steps: int
    """Agent steps of a run."""
    solved: float
    """Mean return from which on it counts as solved."""
    known: str
    """Greatest return that is known, and whose."""


TD3 = "TD3 at 1M steps, Fujimoto et al. 2018"
MOST = "1,000, the most there is"
TASKS = (
    Task("Pendulum-v1", 20_000, -200, "about -150"),
    Task("MountainCarContinuous-v0", 50_000, 90, "below 100"),
    Task("InvertedPendulum-v5", 50_000, 950, MOST),
    Task("InvertedDoublePendulum-v5", 50_000, 9_100, f"9,337, {TD3}"),
    Task("Reacher-v5", 50_000, -6, f"-3.6, {TD3}"),
    Task("Pusher-v5", 100_000, -35, "about -22"),
    Task("Swimmer-v5", 200_000, 300, "about 360"),
    Task("HalfCheetah-v5", 300_000, 6_000, f"9,637, {TD3}"),
    Task("Hopper-v5", 300_000, 3_000, f"3,564, {TD3}"),
    Task("Walker2d-v5", 300_000, 4_000, f"4,683, {TD3}"),
    Task("dmc/cartpole-balance", 50_000, 900, MOST),
    Task("dmc/cartpole-swingup", 100_000, 800, MOST),
    Task("dmc/cartpole-swingup_sparse", 100_000, 700, MOST),
    Task("dmc/pendulum-swingup", 100_000, 700, MOST),
    Task("dmc/reacher-easy", 100_000, 900, MOST),
    Task("dmc/ball_in_cup-catch", 100_000, 900, MOST),
    Task("dmc/finger-spin", 100_000, 800, MOST),
    Task("dmc/point_mass-easy", 100_000, 800, MOST),
    Task("dmc/cheetah-run", 300_000, 700, MOST),
    Task("dmc/walker-stand", 100_000, 900, MOST),
    Task("dmc/walker-walk", 300_000, 800, MOST),
)


def table(results: Sequence[Result]) -> Table:
    """A line a task and number of steps."""
    told = "agents train ddpg --env TASK --steps STEPS --seed SEED --eval-episodes 30"
    shown = Table(title="ddpg, one set of options for all", caption=told)
    for column in ("task", "steps", "hours a run", "seeds", "mean return", "solved at", "known"):
        left = column in ("task", "known")
        shown.add_column(column, justify="left" if left else "right")
    for task in TASKS:
        for steps, lines, cells in grouped(results, task.env):
            solved = interval(lines)[0] >= task.solved
            mark = "solved" if solved else f"{task.solved:,g} not reached"
            shown.add_row(task.env, f"{steps:,}", *cells, mark, task.known)
    return shown


if __name__ == "__main__":
    steps = {task.env: task.steps for task in TASKS}
    command_line(__doc__, "ddpg", steps, "runs/tasks", table)
