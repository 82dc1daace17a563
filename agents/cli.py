"""The `agents` command: wiring only. Nothing heavy is imported before it is needed.

Exit codes: 0 done, 2 bad input (one line on stderr), 1 a fault in mid-run (one line that names
the file with the traceback), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from agents import commands, export_command, live_commands
from agents.commands import RunFault
from agents.errors import StorageError
from agents.options import UsageError
from agents.process import keep_compiled_code

ROOMS = ("agents", "configs", "envs", "replay", "vision")

USAGE = """\
usage: agents COMMAND ...

Train agents that control things from pixels, and watch them.

  agents train ALGO --env NAME    train an agent: agents train dqn --env Breakout,
                                  agents train ddpg --env HalfCheetah
  agents train --resume DIR       go on with a run
  agents eval DIR                 score a run's agent
  agents play DIR                 watch a run's agent, or film it
  agents explain DIR              film what a run's agent looks at
  agents export DIR FILE          write a run's policy for torch alone, or as ONNX
  agents run DIR --camera SOURCE  let a run's agent act on a live camera
  agents camera-sim --env NAME    publish an environment as a live camera
  agents check ENV                try an environment before training on it
  agents list WHAT                names of envs, presets or encoders

options:
  -h, --help                      show this, or after a command its options
  --version                       show the version
  --traceback                     show the whole traceback of an error

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, without the program's name, and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    bare = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    keep_compiled_code()
    try:
        _dispatch(words)
        return 0
    except SystemExit as leave:  # argparse, after --help
        return leave.code if isinstance(leave.code, int) else 1
    except KeyboardInterrupt as stop:
        if not stop.args:  # a run tells itself where it stopped
            _tell("stopped")
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
    known: dict[str, Callable[[list[str]], None]] = {
        "train": commands.do_train,
        "eval": commands.do_eval,
        "play": commands.do_play,
        "explain": commands.do_explain,
        "export": export_command.do_export,
        "run": live_commands.do_run,
        "camera-sim": live_commands.do_camera_sim,
        "check": commands.do_check,
        "list": commands.do_list,
    }
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
    elif words[0] == "--version" and len(words) == 1:
        from agents import __version__

        print(f"sightline-rl {__version__}")
    elif words[0] == "--version":
        raise UsageError(f"unexpected argument {words[1]!r} after --version")
    elif words[0] in known:
        known[words[0]](words[1:])
    else:
        from configs.loader import unknown

        raise UsageError(unknown("command", words[0], known))


def _is_refusal(error: BaseException) -> bool:
    """Whether this is bad input that one of our rooms, or the system, refused.

    A ValueError that a library raised is nothing that we foresaw, so its traceback matters; where a
    camera or a sink stayed away from an environment, none tells more.
    """
    if isinstance(error.__cause__, ConnectionError):
        return True
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
    _tell(_one_line(error, run_dir) + (f" (traceback: {path})" if path else ""))
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


def _one_line(error: BaseException, run_dir: Path | None = None) -> str:
    text = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or run_dir
        text = f"{where}: {error.strerror}" if where is not None else error.strerror
    plain = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
    ours = type(error).__module__.partition(".")[0] in ROOMS
    if text and (ours or isinstance(error, plain)):
        return text
    if isinstance(error, MemoryError):
        return text or "out of memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _tell(text: str) -> None:
    with suppress(OSError):  # a terminal that hung up
        print(f"agents: {text}", file=sys.stderr)
