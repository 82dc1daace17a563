"""Atomic checkpoints of plain files: safetensors for tensors, JSON for the rest, never a pickle.

    run_dir/checkpoints/step-000000200000/   complete: it was renamed into place
        manifest.json                        schema, step, size and crc32 of each file
        ...                                  whatever `write` put there
    run_dir/checkpoints/.tmp-...             what a kill left of an unfinished one

A folder is written and flushed under another name and then renamed, so a kill at any instant
leaves either the old state or the new one. Reading one can run no code: JSON and safetensors
hold data only.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.errors import CheckpointError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
"""Version of the layout; raised when an older reader would misread a folder."""

FOLDER = "checkpoints"
BEST = "best"
"""Folder of the checkpoint of the run's best evaluation, in place of `FOLDER`."""
MANIFEST = "manifest.json"
_PREFIX = "step-"
_TEMPORARY = ".tmp-"
_STALE = ".old-"
_CHUNK = 1 << 20


def save(
    run_dir: Path,
    step: int,
    write: Callable[[Path], None],
    keep: int = 2,
    own_crc: tuple[str, ...] = (),
    among: str = FOLDER,
) -> Path:
    """Have `write` fill a folder, then make it the run's checkpoint at `step`, and return it.

    It stands in the run folder's folder `among`.

    The newest `keep` checkpoints stay; older ones, leftovers of a kill and damaged ones beyond
    `step` are deleted. Files below a folder named in `own_crc` (relative, such as "replay") are
    listed with their size only: they carry their own checksums, and may be many gigabytes of hard
    links.

    Raises StorageError, in one line, where the disk is full or the folder can't be written;
    the checkpoints that were there still stand.
    """
    if step < 0:
        raise ValueError(f"step is {step}; it must be 0 or more")
    if keep < 1:
        raise ValueError(f"keep is {keep}; it must be at least 1")
    parent = Path(run_dir) / among
    name = f"{_PREFIX}{step:012d}"
    final, temporary = parent / name, parent / f"{_TEMPORARY}{name}-{os.getpid()}"
    with _storage(parent):
        parent.mkdir(exist_ok=True)
        try:
            _remove(temporary)
            temporary.mkdir()
            write(temporary)
            _write_manifest(temporary, step, own_crc)
            if final.exists():  # the same step again: the old one steps aside for an instant
                aside = parent / f"{_STALE}{name}"
                _remove(aside)
                final.rename(aside)
                temporary.rename(final)
            else:
                temporary.rename(final)
            _sync(parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _tidy(parent, step, keep)
    return final


def latest(
    run_dir: Path,
    warn: Callable[[str], None] | None = None,
    before: int | None = None,
    without: tuple[str, ...] = (),
    among: str = FOLDER,
) -> Path:
    """The newest checkpoint that is whole, of those at a step below `before` where it is given.

    What lies below a folder named in `without` is not looked at: an agent plays without a replay.

    A damaged one is passed over for the one before it, and `warn` is called with a line that
    names the file at fault. Raises FileNotFoundError where the run has no checkpoint yet, and
    CheckpointError where none is whole or the newest needs a newer version of this program.
    """
    found = steps(run_dir, among)
    if not found and among == BEST:
        raise FileNotFoundError(
            f"{run_dir} holds no best agent: only runs with --eval-every, once evaluated, have one"
        )
    if not found:
        raise FileNotFoundError(f"{run_dir} holds no checkpoint")
    if before is not None:
        found = {step: path for step, path in found.items() if step < before}
        if not found:
            raise CheckpointError(f"{run_dir} holds no checkpoint before step {before}")
    faults = []
    for step in sorted(found, reverse=True):
        try:
            verify(found[step], without)
            return found[step]
        except NewerSchema:
            raise
        except CheckpointError as fault:
            faults.append(str(fault))
            if warn is not None:
                warn(str(fault))
    raise CheckpointError(f"{run_dir} holds no whole checkpoint: {faults[0]}")


def steps(run_dir: Path, among: str = FOLDER) -> dict[int, Path]:
    """The checkpoints of a run, whole or not, by their step."""
    parent = Path(run_dir) / among
    found: dict[int, Path] = {}
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        # A kill between the two renames of `save` leaves the old one aside: it still counts.
        name = path.name.removeprefix(_STALE)
        digits = name.removeprefix(_PREFIX)
        if not (name.startswith(_PREFIX) and digits.isdecimal() and path.is_dir()):
            continue
        if path.name == name or int(digits) not in found:
            found[int(digits)] = path
    return found


class NewerSchema(CheckpointError):
    """The checkpoint was written by a newer version of this program."""


def verify(folder: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest of a checkpoint, once every file in it, not in `without`, was found whole.

    Raises NewerSchema for a newer schema, CheckpointError naming the file that is missing, of
    another size, or changed.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, listed = manifest["schema"], manifest["files"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise NewerSchema(
                f"{folder} has schema {schema}, and this version reads up to {SCHEMA}: "
                "update sightline-rl to read it"
            )
        expected = {name: (entry["size"], entry.get("crc32")) for name, entry in listed.items()}
        if schema != SCHEMA or not isinstance(manifest["step"], int):
            raise ValueError
        if manifest["crc32"] != _manifest_crc(manifest):
            raise ValueError
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is damaged: it has no {MANIFEST}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged") from None
    for name, (size, crc) in expected.items():
        file = folder / name
        if name.partition("/")[0] in without:
            continue
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        if file.stat().st_size != size:
            raise CheckpointError(
                f"{file} is damaged: it has {file.stat().st_size} bytes, not {size}"
            )
        if crc is not None and _crc(file) != crc:
            raise CheckpointError(f"{file} is damaged: its checksum is not the recorded one")
    return dict(manifest)


# --- trees of tensors ---------------------------------------------------------------------------


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.

    Two files: `path`.safetensors with the tensors and `path`.json with the rest. They come
    back exactly, dict keys that are integers, tuples, infinities and NaN included. Tensors
    come back on the CPU, each with its own memory. Raises TypeError for anything else.
    """
    from safetensors.torch import save as serialize

    tensors: dict[str, Tensor] = {}
    skeleton = _pack(tree, tensors, "")
    # Written by Python, not by safetensors, so that a full disk is an OSError.
    Path(f"{path}.safetensors").write_bytes(serialize(tensors))
    text = json.dumps({"schema": SCHEMA, "tree": skeleton}, allow_nan=False)
    Path(f"{path}.json").write_text(text, encoding="utf-8")


def load_tree(path: Path) -> Any:
    """What `save_tree` wrote, tensors on the CPU. CheckpointError names the file at fault."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    plain, tensors = Path(f"{path}.json"), Path(f"{path}.safetensors")
    try:
        value = json.loads(plain.read_text(encoding="utf-8"))
        if isinstance(value["schema"], int) and value["schema"] > SCHEMA:
            raise NewerSchema(f"{plain} has a newer schema: update sightline-rl to read it")
        loaded = load_file(str(tensors))
        return _unpack(value["tree"], loaded)
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename or tensors} is missing") from None
    except SafetensorError as error:
        raise CheckpointError(f"{tensors} is damaged: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{plain} is damaged") from None


def _pack(value: Any, tensors: dict[str, Any], where: str) -> Any:
    """A JSON twin of `value`; whatever JSON can't say is `{"tag": content}`."""
    from torch import Tensor

    if value is None or isinstance(value, bool | str):
        return value
    if type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        # Memory of their own: safetensors refuses tensors that share it.
        name = where or "value"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if type(value) in (list, tuple):
        packed = [_pack(entry, tensors, f"{where}/{i}") for i, entry in enumerate(value)]
        return packed if type(value) is list else {"tuple": packed}
    if isinstance(value, dict):
        pairs = []
        for key, entry in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"a key is {key!r}; save_tree takes text and whole numbers")
            pairs.append([key, _pack(entry, tensors, f"{where}/{key!r}")])
        return {"dict": pairs}
    raise TypeError(f"{where or 'the value'} is a {type(value).__name__}; save_tree can't hold it")


def _unpack(value: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_unpack(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "tensor":
        return tensors[content]
    if tag == "float":
        return float(content)
    if tag == "tuple":
        return tuple(_unpack(entry, tensors) for entry in content)
    if tag == "dict":
        return {key: _unpack(entry, tensors) for key, entry in content}
    raise ValueError(f"unknown tag {tag!r}")


# --- files --------------------------------------------------------------------------------------


def _write_manifest(folder: Path, step: int, own_crc: tuple[str, ...]) -> None:
    listed: dict[str, dict[str, int]] = {}
    for name in _files(folder):
        if name == MANIFEST:
            raise ValueError(f"{MANIFEST} is the checkpoint's own file")
        file = folder / name
        listed[name] = {"size": file.stat().st_size}
        if not any(name.startswith(f"{part}/") for part in own_crc):
            listed[name]["crc32"] = _crc(file)
        _sync(file)
    manifest: dict[str, Any] = {"schema": SCHEMA, "step": step, "files": listed}
    manifest["crc32"] = _manifest_crc(manifest)
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(path)
    for inner in folder.rglob("*"):
        if inner.is_dir():
            _sync(inner)
    _sync(folder)


def _manifest_crc(manifest: dict[str, Any]) -> int:
    rest = {key: value for key, value in manifest.items() if key != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _files(folder: Path) -> list[str]:
    """Paths of all files below `folder`, relative, with forward slashes."""
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    if os.name == "nt":  # Windows flushes only files that are open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _tidy(parent: Path, step: int, keep: int) -> None:
    """Delete what a kill left, and all but the newest `keep` checkpoints up to `step`.

    One beyond `step` is of a future that did not come: it was damaged, and the run went back.
    """
    for path in parent.iterdir():
        # One aside is spare only once its successor stands.
        spare = path.name.startswith(_STALE) and (parent / path.name[len(_STALE) :]).is_dir()
        if spare or path.name.startswith(_TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)
    found = sorted(path for path in parent.iterdir() if path.name.startswith(_PREFIX))
    past = [path for path in found if path.name <= f"{_PREFIX}{step:012d}"]
    for path in set(found) - set(past[-keep:]):
        # Renamed first, so that a kill in mid-deletion leaves no half of a checkpoint.
        doomed = parent / f"{_TEMPORARY}{path.name}-old"
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    """Turn the system's errors of writing into one line that says what to do."""
    try:
        yield
    except OSError as error:
        stands = "; earlier checkpoints stand" if steps(folder.parent) else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free / 1e6
            raise StorageError(
                f"no space left for a checkpoint in {folder} ({free:,.1f} MB free){stands}"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{folder} can't be written: {error.strerror}{stands}") from error
        if error.errno is None:
            raise
        raise StorageError(f"a checkpoint in {folder} failed: {error}{stands}") from error
