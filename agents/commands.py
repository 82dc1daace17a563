"""The commands behind `agents`: read their options, then hand over. Nothing heavy is imported here.

Each takes the words after its name.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agents.options import Parser, UsageError, add_config, flag, from_text, read
from configs.loader import field_types, presets, summary, unknown

if TYPE_CHECKING:
    from agents.session import Session
    from envs.vector import Episode

DEVICES = Literal["auto", "cpu", "cuda"]


class RunFault(Exception):
    """A training run failed; the cause is the exception that ended it."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"the run in {run_dir} failed")
        self.run_dir = run_dir


def do_train(words: list[str]) -> None:
    if words and not words[0].startswith("-"):
        _train_new(words[0], words[1:])
        return
    parser = Parser(
        "agents train ALGO [--env NAME] [options]\n       agents train --resume DIR [--steps N]",
        "Train an agent, or go on with a run. ALGO is one of: " + ", ".join(_algorithms()) + ".",
        "All options of an algorithm: agents train dqn --help, agents train ddpg --help",
    )
    parser.option("--resume", "Run folder to go on with.", "DIR")
    parser.option("--steps", "Agent steps of the whole run, where it is to be longer.", "INT")
    _machine_options(parser, default="the run's")
    parser.option(
        "--compile",
        "Have torch compile the updates (default: the run's).",
        action=argparse.BooleanOptionalAction,
    )
    parser.option(
        "--graphs",
        "On a CUDA GPU, capture acting and learning as graphs (default: the run's).",
        action=argparse.BooleanOptionalAction,
    )
    options = {word.partition("=")[0] for word in words}
    resumes = difflib.get_close_matches("--resume", options, cutoff=0.75)  # misspelt, too
    if not resumes and not {"-h", "--help"} & options:
        raise UsageError("name an algorithm first, such as: agents train dqn --env Breakout")
    _refuse_fixed(words)
    given = parser.parse(words)
    folder = run_folder(given["resume"])
    steps, threads = _count(given, "steps", None), _count(given, "threads", None)
    device = from_text("--device", given["device"], DEVICES) if "device" in given else None
    from agents.start import resume

    how = {name: given.get(name) for name in ("compile", "graphs")}
    _run(resume(folder, steps, device=device, threads=threads, **how))


def _refuse_fixed(words: list[str]) -> None:
    """UsageError for an option of a new run where one goes on."""
    from agents.config import lookup
    from configs.run import RunConfig
    from envs.config import EnvConfig

    configs = (RunConfig, EnvConfig, *(lookup(name).config for name in _algorithms()))
    fixed = {flag(name) for config in configs for name in field_types(config)}
    fixed |= {option.replace("--", "--no-", 1) for option in fixed} | {"--preset"}
    free = {"--steps", "--device", "--threads"}
    free |= {f"--{no}{name}" for name in ("compile", "graphs") for no in ("", "no-")}
    for word in words:
        option = word.partition("=")[0]
        if option in fixed - free:
            raise UsageError(
                f"{option} is of a new run: one that goes on keeps what it began with, but for "
                "--steps, --device, --threads, --compile and --graphs"
            )


def _train_new(algorithm: str, words: list[str]) -> None:
    from agents.config import default_preset, lookup, resolve
    from configs.run import RunConfig
    from envs.config import EnvConfig

    agent_config = lookup(algorithm).config
    preset = _ahead(words, "--preset")
    shown = resolve(algorithm, preset or "default", {}, image=True)
    image = default_preset(algorithm, image=True) != "default"
    other, what = default_preset(algorithm, image=image), "images" if image else "vectors"
    parser = Parser(
        f"agents train {algorithm} [--env NAME] [--preset P] [options]",
        f"Train {algorithm}. The defaults below are those of the preset {shown.preset}.",
        f"Without --preset, an environment whose observations are {what} takes {other}: "
        f"agents train {algorithm} --preset {other} --help",
    )
    known = ", ".join(presets(algorithm))
    parser.option("--preset", f"What the other options start from: {known}.", "NAME")
    add_config(parser, "run", RunConfig, shown.flat())
    add_config(parser, "environment", EnvConfig, shown.flat())
    add_config(parser, "agent", agent_config, shown.flat())
    if _ahead(words, "--resume") is not None:
        raise UsageError("--resume takes no algorithm: agents train --resume DIR")
    given = parser.parse(words)
    overrides: dict[str, Any] = {}
    for config in (RunConfig, EnvConfig, agent_config):
        overrides |= read(config, given)
    if preset is not None:
        resolve(algorithm, preset, overrides, image=True)  # says no before torch is imported
    from agents.start import create

    _run(create(algorithm, preset, overrides))


def do_eval(words: list[str]) -> None:
    parser = Parser(
        "agents eval DIR [--episodes N] [--json]",
        "Play whole episodes with a run's agent and tell the mean score, with its 95% interval "
        "and the protocol.",
    )
    parser.add_argument("folder", metavar="DIR", help="Run folder.")
    parser.option("--episodes", "Episodes to play (default: 30).", "INT")
    best_option(parser)
    parser.option("--epsilon", "Share of random actions (default: the protocol's).", "FLOAT")
    parser.option("--seed", "Seed of the environments and of the agent (default: 0).", "INT")
    parser.option("--json", "Print all figures as JSON.", action="store_true")
    _machine_options(parser)
    given = parser.parse(words)
    folder = run_folder(given["folder"])
    episodes, seed = _count(given, "episodes", 30), _count(given, "seed", 0, least=0)
    epsilon = None
    if "epsilon" in given:
        epsilon = from_text("--epsilon", given["epsilon"], float)
        if not 0 <= epsilon <= 1:
            raise UsageError(f"--epsilon is {epsilon}; it must lie in [0, 1]")
    from agents.evaluate import evaluate_run

    with _counted(episodes) as tell:
        result = evaluate_run(folder, episodes, epsilon, seed, tell=tell, **_machine(given))
    print(json.dumps(result) if "json" in given else result["text"])


def do_play(words: list[str]) -> None:
    parser = Parser(
        "agents play DIR [--video FILE.mp4] [--episodes N]",
        "Let a run's agent play, and film it.",
    )
    _film_options(parser)
    given = parser.parse(words)
    folder = run_folder(given["folder"])
    episodes, seed = _count(given, "episodes", 1), _count(given, "seed", 0, least=0)
    film = video(given)
    from agents.evaluate import play

    with _counted(episodes) as tell:
        result = play(folder, film, episodes, seed, tell=tell, **_machine(given))
    print(result["text"])
    if result["video"]:
        print(f"video: {result['video']}")


def do_explain(words: list[str]) -> None:
    parser = Parser(
        "agents explain DIR [--video FILE.mp4] [--episodes N]\n       agents explain DIR --sanity",
        "Film a run's agent with what it looks at (Grad-CAM of the action taken) and its action "
        "values.",
    )
    _film_options(parser)
    parser.option("--camera", "Image to explain, of several (default: the first by name).", "NAME")
    parser.option(
        "--sanity",
        "Tell instead how alike explanations stay when layers are made random, from the output "
        "down: what stays alike doesn't show what was learned.",
        action="store_true",
    )
    given = parser.parse(words)
    folder = run_folder(given["folder"])
    episodes, seed = _count(given, "episodes", 1), _count(given, "seed", 0, least=0)
    if "sanity" in given:
        for other in ("video", "episodes"):
            if other in given:
                raise UsageError(f"--{other} is of films, and --sanity makes none: leave one out")
        _tell_sanity(folder, seed, given.get("camera"), **_machine(given))
        return
    film = video(given)
    from agents.explain import explain

    with _counted(episodes) as tell:
        camera = given.get("camera")
        result = explain(folder, film, episodes, seed, camera, tell=tell, **_machine(given))
    print(result["text"])
    if result["caution"]:
        print(f"note: {result['caution']}")
    print(f"video: {result['video']}")


def _tell_sanity(folder: Path, seed: int, camera: str | None, **machine: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from agents.explain import conclusion, sanity

    found = sanity(folder, seed=seed, camera=camera, **machine)
    table = Table(title="rank correlation with the trained network's explanation")
    table.add_column("random from the output down to")
    for name in found:
        table.add_column(name, justify="right")
    for rows in zip(*found.values(), strict=True):
        table.add_row(rows[0].layer, *(f"{row.rank:.2f}" for row in rows))
    Console().print(table)
    for name, similarities in found.items():
        print(f"{name}: {conclusion(similarities)}")


def do_check(words: list[str]) -> None:
    parser = Parser(
        "agents check ENV [--env-args MAP] [--seed N]",
        "Try an environment with random actions, and tell in plain words what is wrong with it.",
    )
    parser.add_argument(
        "env", metavar="ENV", help="A Gymnasium id, dmc/domain-task, or package.module:Class."
    )
    parser.option("--env-args", "The environment's own arguments, as `agents train` takes.", "MAP")
    parser.option("--seed", "Seed of the environment and of the actions (default: 0).", "INT")
    given = parser.parse(words)
    from envs.check import check

    wrong, seed = 0, _count(given, "seed", 0, least=0)
    for finding in check(given["env"], seed, given.get("env_args", "")):
        print(f"{finding.kind:5}  {finding.text}", flush=True)
        wrong += finding.kind == "wrong"
    if wrong:
        raise UsageError(f"{given['env']} has {wrong} fault{'s' * (wrong > 1)}, told above")


def do_list(words: list[str]) -> None:
    kinds = ("envs", "presets", "encoders")
    parser = Parser("agents list WHAT", "Tell names. WHAT is one of: " + ", ".join(kinds) + ".")
    parser.add_argument("what", metavar="WHAT", help="What to list: " + ", ".join(kinds) + ".")
    what = parser.parse(words)["what"]
    if what == "presets":
        for algorithm in _algorithms():
            for preset in presets(algorithm):
                print(f"{algorithm}  {preset:12}  {summary(algorithm, preset)}")
    elif what == "envs":
        from envs.names import names

        print("\n".join(f"{name.kind:9}  {name.id}" for name in names()))
    elif what == "encoders":
        import vision

        for name in vision.names():
            print(f"{name:12}  {vision.summary(name)}")
    else:
        raise UsageError(unknown("list", what, kinds))


def _run(session: Session) -> None:
    try:
        try:
            session.run()
        finally:
            session.close()
    except Exception as error:
        raise RunFault(session.run_dir) from error


def _algorithms() -> list[str]:
    from agents.config import ALGORITHMS

    return list(ALGORITHMS)


def run_folder(text: str) -> Path:
    """The folder of a run, once its config was read: a wrong one is told before torch loads."""
    from agents.config import load

    load(Path(text))
    return Path(text)


def _ahead(words: list[str], option: str) -> str | None:
    """The value of an option that must be known before the parser can be built."""
    for position, word in enumerate(words):
        if word == option:
            return words[position + 1] if position + 1 < len(words) else ""
        if word.startswith(option + "="):
            return word[len(option) + 1 :]
    return None


def _count(given: dict[str, Any], name: str, default: Any, least: int = 1) -> Any:
    if name not in given:
        return default
    number = from_text(f"--{name}", given[name], int)
    if number < least:
        raise UsageError(f"--{name} is {number}; it must be at least {least}")
    return number


def _film_options(parser: Parser) -> None:
    """What the commands that film a run's agent have in common."""
    parser.add_argument("folder", metavar="DIR", help="Run folder.")
    parser.option("--video", "Film to write (default: a new one in the run folder).", "FILE.mp4")
    parser.option("--episodes", "Episodes to play (default: 1).", "INT")
    best_option(parser)
    parser.option("--seed", "Seed of the environment and of the agent (default: 0).", "INT")
    _machine_options(parser)


def best_option(parser: Parser) -> None:
    best = "Take the agent of the run's best evaluation (--eval-every) in place of the newest."
    parser.option("--best", best, action="store_true")


def _machine_options(parser: Parser, default: str = "auto") -> None:
    """Where a run's agent computes, which may be another machine than it was trained on."""
    devices = "auto|cpu|cuda"
    parser.option("--device", f"Where the networks live (default: {default}).", devices)
    parser.option("--threads", "Threads for arithmetic (default: the run's).", "INT")


def _machine(given: dict[str, Any]) -> dict[str, Any]:
    """Those options' values, and where notes go."""
    device = from_text("--device", given.get("device", "auto"), DEVICES)
    threads = _count(given, "threads", None)
    return {"device": device, "threads": threads, "best": "best" in given, "note": note}


def note(text: str) -> None:
    print(f"agents: {text}", file=sys.stderr)


@contextmanager
def _counted(episodes: int) -> Iterator[Callable[[Sequence[Episode]], None] | None]:
    """Something to tell of episodes that ended: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    parts = "{task.completed:,.0f} of {task.total:,.0f} episodes", "mean {task.fields[mean]:.1f}"
    columns = TextColumn(parts[0]), BarColumn(bar_width=None), TextColumn(parts[1])
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("", total=episodes, mean=math.nan)

        def tell(played: Sequence[Episode]) -> None:
            mean = sum(episode.score for episode in played) / len(played)
            bar.update(task, completed=len(played), mean=mean)

        yield tell


def video(given: dict[str, Any], option: str = "video") -> Path | None:
    """The film that an option names, once it can be written; None where it isn't given."""
    if option not in given:
        return None
    return new_file(f"--{option}", given[option], (".mp4",))


def new_file(called: str, text: str, suffixes: Sequence[str]) -> Path:
    """The file to write that an argument names, which must end in one of `suffixes`."""
    path = Path(text)
    if path.suffix not in suffixes:
        raise UsageError(f"{called} is {text!r}; its name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UsageError(f"{called} is {text!r}, which is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{called} is {text!r}; there is no folder {str(path.parent)!r}")
    return path
