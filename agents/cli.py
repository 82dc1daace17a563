"""The `agents` command: wiring only. Nothing heavy is imported before it is needed.

Exit codes: 0 done, 2 bad input (one line on stderr), 1 a fault in mid-run (one line that names
the file with the traceback), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.errors import StorageError
from agents.options import Parser, UsageError, add_config, from_text, read

if TYPE_CHECKING:
    from agents.session import Session

ROOMS = ("agents", "configs", "envs", "replay", "vision")

USAGE = """\
usage: agents COMMAND ...

Train agents that control things from pixels, and watch them.

  agents train ALGO --env NAME    train an agent: agents train dqn --env Breakout
  agents train --resume DIR       go on with a run
  agents eval DIR                 score a run's agent
  agents play DIR                 watch a run's agent, or film it
  agents explain DIR              film what a run's agent looks at
  agents list WHAT                names of envs, presets or encoders

options:
  -h, --help                      show this, or after a command its options
  --version                       show the version
  --traceback                     show the whole traceback of an error

"""


class RunFault(Exception):
    """A training run failed; the cause is the exception that ended it."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"the run in {run_dir} failed")
        self.run_dir = run_dir


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, without the program's name, and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    bare = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        _dispatch(words)
        return 0
    except SystemExit as leave:  # argparse, after --help
        return leave.code if isinstance(leave.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `agents list envs | head`; the exit would fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RunFault as fault:
        assert fault.__cause__ is not None
        if bare:
            raise fault.__cause__ from None
        return _tell_fault(fault.__cause__, fault.run_dir)
    except Exception as error:
        if bare:
            raise
        if not _is_refusal(error):
            return _tell_fault(error, None)
        _tell(_one_line(error))
        return 2


def _dispatch(words: list[str]) -> None:
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": _train,
        "eval": _eval,
        "play": _play,
        "explain": _explain,
        "list": _list,
    }
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
    elif words[0] == "--version":
        from importlib.metadata import version

        print(f"sightline-rl {version('sightline-rl')}")
    elif words[0] in commands:
        commands[words[0]](words[1:])
    else:
        from configs.loader import unknown

        raise UsageError(unknown("command", words[0], commands))


# --- commands -----------------------------------------------------------------------------------


def _train(words: list[str]) -> None:
    if words and not words[0].startswith("-"):
        _train_new(words[0], words[1:])
        return
    parser = Parser(
        "agents train ALGO [--env NAME] [options]\n       agents train --resume DIR [--steps N]",
        "Train an agent, or go on with a run. ALGO is one of: " + ", ".join(_algorithms()) + ".",
        "All options of an algorithm: agents train dqn --help",
    )
    parser.option("--resume", "Run folder to go on with.", "DIR")
    parser.option("--steps", "Agent steps of the whole run, where it is to be longer.", "INT")
    if not {"-h", "--help", "--resume"} & {word.partition("=")[0] for word in words}:
        raise UsageError("name an algorithm first, such as: agents train dqn --env Breakout")
    given = parser.parse(words)
    folder = _run_folder(given["resume"])
    steps = _count(given, "steps", None)
    from agents.session import resume

    _run(resume(folder, steps))


def _train_new(algorithm: str, words: list[str]) -> None:
    from agents.config import default_preset, lookup, resolve
    from configs.run import RunConfig
    from envs.config import EnvConfig

    agent_config, _ = lookup(algorithm)
    preset = _ahead(words, "--preset")
    shown = resolve(algorithm, preset, {}, image=True)
    classic = default_preset(image=False)
    parser = Parser(
        f"agents train {algorithm} [--env NAME] [--preset P] [options]",
        f"Train {algorithm}. The defaults below are those of the preset {shown.preset}.",
        f"Without --preset, an environment whose observations are vectors takes {classic}: "
        f"agents train {algorithm} --preset {classic} --help",
    )
    known = ", ".join(_presets(algorithm))
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
    from agents.session import create

    _run(create(algorithm, preset, overrides))


def _eval(words: list[str]) -> None:
    parser = Parser(
        "agents eval DIR [--episodes N] [--json]",
        "Play whole episodes with a run's agent and tell the mean score, with its 95% interval "
        "and the protocol.",
    )
    parser.add_argument("folder", metavar="DIR", help="Run folder.")
    parser.option("--episodes", "Episodes to play (default: 30).", "INT")
    parser.option("--epsilon", "Share of random actions (default: the protocol's).", "FLOAT")
    parser.option("--seed", "Seed of the environments and of the agent (default: 0).", "INT")
    parser.option("--json", "Print all figures as JSON.", action="store_true")
    given = parser.parse(words)
    folder = _run_folder(given["folder"])
    episodes, seed = _count(given, "episodes", 30), _count(given, "seed", 0, least=0)
    epsilon = None
    if "epsilon" in given:
        epsilon = from_text("--epsilon", given["epsilon"], float)
        if not 0 <= epsilon <= 1:
            raise UsageError(f"--epsilon is {epsilon}; it must lie in [0, 1]")
    from agents.evaluate import evaluate_run

    result = evaluate_run(folder, episodes, epsilon, seed)
    print(json.dumps(result) if "json" in given else result["text"])


def _play(words: list[str]) -> None:
    parser = Parser(
        "agents play DIR [--video FILE.mp4] [--episodes N]",
        "Let a run's agent play, and film it.",
    )
    parser.add_argument("folder", metavar="DIR", help="Run folder.")
    parser.option("--video", "Film to write (default: a new one in the run folder).", "FILE.mp4")
    parser.option("--episodes", "Episodes to play (default: 1).", "INT")
    parser.option("--seed", "Seed of the environment and of the agent (default: 0).", "INT")
    given = parser.parse(words)
    folder = _run_folder(given["folder"])
    episodes, seed = _count(given, "episodes", 1), _count(given, "seed", 0, least=0)
    video = _video(given)
    from agents.evaluate import play

    result = play(folder, video, episodes, seed)
    print(result["text"])
    if result["video"]:
        print(f"video: {result['video']}")


def _explain(words: list[str]) -> None:
    parser = Parser(
        "agents explain DIR [--video FILE.mp4] [--episodes N]\n       agents explain DIR --sanity",
        "Film a run's agent with what it looks at (Grad-CAM of the action taken) and its action "
        "values.",
    )
    parser.add_argument("folder", metavar="DIR", help="Run folder.")
    parser.option("--video", "Film to write (default: a new one in the run folder).", "FILE.mp4")
    parser.option("--episodes", "Episodes to play (default: 1).", "INT")
    parser.option("--seed", "Seed of the environment and of the agent (default: 0).", "INT")
    parser.option(
        "--sanity",
        "Tell instead how alike explanations stay when layers are made random, from the output "
        "down: what stays alike doesn't show what was learned.",
        action="store_true",
    )
    given = parser.parse(words)
    folder = _run_folder(given["folder"])
    episodes, seed = _count(given, "episodes", 1), _count(given, "seed", 0, least=0)
    if "sanity" in given:
        _tell_sanity(folder, seed)
        return
    video = _video(given)
    from agents.explain import explain

    result = explain(folder, video, episodes, seed)
    print(result["text"])
    print(f"video: {result['video']}")


def _tell_sanity(folder: Path, seed: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from agents.explain import sanity

    found = sanity(folder, seed=seed)
    table = Table(title="rank correlation with the trained network's explanation")
    table.add_column("random from the output down to")
    for name in found:
        table.add_column(name, justify="right")
    for rows in zip(*found.values(), strict=True):
        table.add_row(rows[0].layer, *(f"{row.rank:.2f}" for row in rows))
    Console().print(table)


def _list(words: list[str]) -> None:
    kinds = ("envs", "presets", "encoders")
    parser = Parser("agents list WHAT", "Tell names. WHAT is one of: " + ", ".join(kinds) + ".")
    parser.add_argument("what", metavar="WHAT", help="What to list: " + ", ".join(kinds) + ".")
    what = parser.parse(words)["what"]
    if what == "presets":
        from configs.loader import summary

        for algorithm in _algorithms():
            for preset in _presets(algorithm):
                print(f"{algorithm}  {preset:10}  {summary(algorithm, preset)}")
    elif what == "envs":
        from envs.names import names

        print("\n".join(f"{name.kind:9}  {name.id}" for name in names()))
    elif what == "encoders":
        import vision

        print("\n".join(vision.names()))
    else:
        from configs.loader import unknown

        raise UsageError(unknown("list", what, kinds))


# --- pieces -------------------------------------------------------------------------------------


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


def _presets(algorithm: str) -> list[str]:
    from configs.loader import presets

    return presets(algorithm)


def _run_folder(text: str) -> Path:
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


def _video(given: dict[str, Any]) -> Path | None:
    """Where a film goes; None for a new one in the run folder."""
    if "video" not in given:
        return None
    video = Path(given["video"])
    if video.suffix != ".mp4":
        raise UsageError(f"--video is {str(video)!r}; its name must end in .mp4")
    if not video.absolute().parent.is_dir():
        raise UsageError(f"--video is {str(video)!r}; there is no folder {str(video.parent)!r}")
    return video


def _is_refusal(error: BaseException) -> bool:
    """Whether this is bad input that one of our rooms, or the system, refused.

    A ValueError that a library raised is nothing that we foresaw, so its traceback matters.
    """
    if isinstance(error, OSError | ImportError | MemoryError | StorageError | UsageError):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    ours = str(module).partition(".")[0] in ROOMS
    return ours and isinstance(error, ValueError | TypeError)


def _tell_fault(error: BaseException, run_dir: Path | None) -> int:
    path = _write_traceback(error, run_dir)
    _tell(_one_line(error) + (f" (traceback: {path})" if path else ""))
    return 1


def _write_traceback(error: BaseException, run_dir: Path | None) -> Path | None:
    """A file with the traceback, in the run folder or else a temporary one."""
    import tempfile
    import time

    text = "".join(traceback.format_exception(error))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for folder in (run_dir, Path(tempfile.gettempdir())):
        if folder is None:
            continue
        path = folder / f"traceback-{stamp}-{os.getpid()}.txt"
        try:
            path.write_text(text, encoding="utf-8")
            return path
        except OSError:  # a full disk may well be what ended the run
            continue
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    plain = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
    ours = type(error).__module__.partition(".")[0] in ROOMS
    if text and (ours or isinstance(error, plain)):
        return text
    if isinstance(error, MemoryError):
        return text or "out of memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _tell(text: str) -> None:
    print(f"agents: {text}", file=sys.stderr)
