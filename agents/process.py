"""What a run asks of the operating system: one process a folder, an orderly stop, warm memory."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of handing it back after each update.

    Otherwise every update faults its tensors' pages in anew (benchmarks/train.py measures what
    that costs). Elsewhere than on glibc nothing is done.
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
def stoppable() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second ends the process at once.

    At once means without waiting for anything, for an environment that hangs can't be waited for.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_text(path: Path, text: str) -> None:
    """Write a small file beside and rename it, so that a kill leaves the old one or the new one."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
