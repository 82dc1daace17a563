"""What a run asks of the operating system: one process a folder, an orderly stop, warm memory."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of handing it back after each update.

    Otherwise every update faults its tensors' pages in anew. Elsewhere than on glibc nothing is
    done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    mallopt(mmap_threshold, 32 << 20)  # the greatest that glibc takes
    mallopt(trim_threshold, 1 << 30)
    mallopt(top_pad, 64 << 20)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep a second process out of the folder; the system frees the lock of one that died."""
    try:
        import fcntl
    except ImportError:  # Windows keeps no such lock
        yield
        return
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is training in {run_dir}; wait for it or stop it"
            ) from None
        yield


@contextmanager
def stoppable(
    lost: str = "what came after the last checkpoint is lost",
) -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the second ends the process at once.

    lost  what is told then of what was not brought to its end

    At once means without waiting for anything, for an environment that hangs can't be waited for.
    A signal that the process was started to ignore, as nohup does with SIGHUP, stays ignored.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            _say(f"agents: ended at once; {lost}")
            os._exit(128 + number)
        stop.set()
        _say("agents: stopping in good order; once more ends at once")

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does, where they would kill.

    For the time before and after `stoppable`, so that what is open then is closed, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    deadly = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in deadly:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in deadly:
            signal.signal(number, signal.SIG_DFL)


def _say(text: str) -> None:
    """A line on stderr from within a signal's handler, where print may be under way already."""
    with suppress(OSError):  # a terminal that hung up
        os.write(2, f"\n{text}\n".encode())


def write_text(path: Path, text: str) -> None:
    """Write a small file beside and rename it, so that a kill leaves the old one or the new one."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
