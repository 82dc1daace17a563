"""What a run asks of the operating system: one process a folder, an orderly stop, warm memory."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import tempfile
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


def keep_compiled_code() -> None:
    """Have numba keep what it compiles in a temporary folder where it finds no other place.

    So in an image that can't be written. Call it before numba is imported.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    places = Path(__file__).parents[1] / "replay" / "__pycache__", cache / "numba"
    if not os.environ.get("NUMBA_CACHE_DIR") and not any(map(_takes_files, places)):
        folder = tempfile.mkdtemp(prefix="sightline-numba-")  # nobody else's, for it holds code
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["NUMBA_CACHE_DIR"] = folder


def _takes_files(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep a second session out of the folder; the system frees the lock of a process that died."""
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
                f"another session is training in {run_dir}; wait for it or stop it"
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
    """`write_bytes` of a text, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file beside and rename it, so that a kill leaves the old one or the new one.

    An OSError names the file, and leaves the old one.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        error.filename = str(path)
        raise


class Whole:
    """A file that grows by whole pieces: what the disk doesn't take waits in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[bytes] = []
        self._file = path.open("ab", buffering=0)

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._file.closed

    def write(self, piece: bytes) -> None:
        """Have a piece written by the next flush."""
        self._waiting.append(piece)

    def flush(self) -> None:
        """Write what waits; where not all of it fits, the rest waits on, and an OSError names the
        file."""
        end, data, written = self._file.seek(0, os.SEEK_END), b"".join(self._waiting), 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
            self._waiting.clear()
        except OSError as error:
            while len(self._waiting[0]) <= written:
                size = len(self._waiting.pop(0))
                end, written = end + size, written - size
            self._file.truncate(end)
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Close the file; what was not flushed is lost."""
        self._file.close()
