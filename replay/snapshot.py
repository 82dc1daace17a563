"""A replay on disk: compressed chunks that never change once full, so that saves are incremental.

    replay.json        what the replay is, its cursors and generator, and the list of files
    state.safetensors  priority (rows * lanes,) float32
    chunk-00000.zst    the slots of some consecutive rows, all lanes: frames, action, reward, flag,
                       age, one array after the other, compressed by zstd

Each file's size and CRC-32 stand in replay.json, which carries its own. Nothing is unpickled.
A chunk whose slots are the same as in the `previous` snapshot becomes a hard link to its file.
Which rows are open, and their leaves, follow from the slots, under another n_step or alpha too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from replay import generators
from replay.store import Store
from replay.types import Field

if TYPE_CHECKING:
    from replay.prioritized import PrioritizedReplay

SCHEMA = 2  # 1 told the action among the observation's fields
MANIFEST = "replay.json"
_STATE = "state.safetensors"
_CHUNK_SLOTS = 16_384  # 115 MB of 84x84 frames: 64 files hold a million
_LEVEL = 1  # zstd; frames of games shrink 20-fold at once, and higher levels cost the run time
_BLOCK = 1 << 20


_KEYS = (
    "id", "capacity", "lanes", "fields", "action", "written", "greatest", "nan_count", "generator",
    "state", "chunks",
)  # fmt: skip


class DamagedSnapshot(ValueError):
    """A file of a snapshot is not what `save` wrote, or is gone."""


class _Sink:
    """A new file that counts its bytes and their CRC-32 while they are written."""

    def __init__(self, path: Path) -> None:
        # A leftover may share its inode with an older snapshot: it is replaced, not overwritten.
        path.unlink(missing_ok=True)
        self._file = path.open("xb")
        self.name = path.name
        self.bytes = 0
        self.crc32 = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        return self._file.write(data)

    def close(self) -> dict[str, Any]:
        """What the manifest says of the file, which is on the disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"file": self.name, "bytes": self.bytes, "crc32": self.crc32}


def save(replay: PrioritizedReplay, folder: Path, previous: Path | None) -> None:
    """Write everything that `load` needs into `folder`, which is made if it is missing.

    FileExistsError if a snapshot is there already, another OSError, naming the folder, where it
    can't be written. `previous` helps only if this replay wrote or loaded it, else all is written
    anew; it may be removed afterwards.
    """
    try:
        _save(replay, folder, previous)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from None


def _save(replay: PrioritizedReplay, folder: Path, previous: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists():
        raise FileExistsError(f"{folder} holds a snapshot already; save into a new folder")
    store = replay.store
    store.settle()
    known: dict[str, Any] = {}
    if previous is not None:
        try:
            before = _manifest(previous)
        except (FileNotFoundError, ValueError):
            before = {"id": None}  # a lost predecessor costs its links, not this snapshot
        same = list(before.get("fields", ())) == list(store.observation)  # chunks have their order
        if same and before["id"] in replay.ancestors:
            known = {chunk["signature"]: chunk for chunk in before["chunks"]}
    chunks = []
    for number, (first, last) in enumerate(_ranges(store, store.written)):
        signature = _signature(store, first, last)
        name = f"chunk-{number:05d}.zst"
        found = known.get(signature)
        if found is None or previous is None or not _link(previous, found, folder / name):
            found = _write_chunk(store, first, last, folder / name)
        chunks.append({**found, "file": name, "signature": signature})
    manifest = {
        "schema": SCHEMA,
        "id": uuid.uuid4().hex,
        "capacity": replay.capacity,
        "lanes": store.lanes,
        **_fields(store),
        **store.counters(),
        "state": _write_state(folder, store.priorities()),
        "chunks": chunks,
    }
    text = json.dumps({**manifest, "crc32": _crc(manifest)}, indent=1)
    sink = _Sink(folder / MANIFEST)
    sink.write(text.encode())
    sink.close()
    replay.ancestors.add(str(manifest["id"]))


def load(replay: PrioritizedReplay, folder: Path) -> None:
    """Replace the whole state of `replay` by the snapshot's, its random generator included.

    Capacity, lanes, and the fields' shapes and dtypes must agree; n_step, gamma, alpha and stacks
    may differ. FileNotFoundError if there is no snapshot; ValueError, naming the file, for one that
    is damaged or does not fit, with `replay` as it was.
    """
    manifest = _manifest(folder)
    store = replay.store
    known = {"capacity": replay.capacity, "lanes": store.lanes, **_fields(store)}
    for key, ours in known.items():
        if manifest[key] != ours:
            raise ValueError(f"{folder} holds a replay of {key} {manifest[key]}; expected {ours}")
    written = _numbers(folder / MANIFEST, manifest, store.lanes)
    ranges = list(_ranges(store, written))
    if len(ranges) != len(manifest["chunks"]):
        raise DamagedSnapshot(f"{folder / MANIFEST} is damaged: it needs {len(ranges)} chunks")
    for entry in (manifest["state"], *manifest["chunks"]):
        _verify(folder / entry["file"], entry)
    priority = _read_state(folder / manifest["state"]["file"], store.rows * store.lanes)

    # From here on only a file that changes under our hands can fail; the replay is empty then.
    store.clear()
    for (first, last), entry in zip(ranges, manifest["chunks"], strict=True):
        _read_chunk(store, manifest["fields"], first, last, folder / entry["file"])
    store.restore(manifest, priority)
    replay.ancestors = {manifest["id"]}


def _ranges(store: Store, written: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rows of each chunk, as far as any lane has written."""
    used = int(min(written.max(), store.rows))
    step = max(1, _CHUNK_SLOTS // store.lanes)
    for first in range(0, used, step):
        yield first, min(first + step, used)


def _signature(store: Store, first: int, last: int) -> str:
    """Digest of which step each slot holds, and of the flags.

    A slot is written once a lap, and later only its flag can change, when a reset ends an episode:
    within one replay's history equal signatures mean equal slots.
    """
    newest = store.written[None] - 1
    times = newest - (newest - np.arange(first, last)[:, None]) % store.rows
    digest = hashlib.blake2b(np.ascontiguousarray(times).tobytes(), digest_size=16)
    digest.update(store.read("flag", first * store.lanes, last * store.lanes).tobytes())
    return digest.hexdigest()


def _write_chunk(store: Store, first: int, last: int, path: Path) -> dict[str, Any]:
    sink = _Sink(path)
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    with compressor.stream_writer(sink, closefd=False) as stream:  # type: ignore[arg-type]
        for name in store.arrays:
            array = store.read(name, first * store.lanes, last * store.lanes)
            stream.write(array.reshape(-1).view(np.uint8).data)
    return sink.close()


def _read_chunk(store: Store, fields: Iterable[str], first: int, last: int, path: Path) -> None:
    """Take up a chunk, which holds the observation's `fields` in this order."""
    slots = first * store.lanes, last * store.lanes
    rest = store.arrays[len(store.observation) :]
    names = [*(f"observation.{name}" for name in fields), *rest]
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            for name in names:
                array = store.blank(name, *slots)
                view = array.reshape(-1).view(np.uint8).data
                while view:
                    count = stream.readinto(view[:_BLOCK])
                    if not count:
                        raise DamagedSnapshot(f"{path} is damaged: it ends too soon")
                    view = view[count:]
                store.put(name, *slots, array)
            if stream.read(1):
                raise DamagedSnapshot(f"{path} is damaged: it holds more than its slots")
    except zstandard.ZstdError as error:
        raise DamagedSnapshot(f"{path} is damaged: {error}") from None


def _link(previous: Path, entry: dict[str, Any], target: Path) -> bool:
    """Put the previous snapshot's file at `target`; False if it is not as it was written."""
    source = previous / entry["file"]
    if not source.is_file() or source.stat().st_size != entry["bytes"]:
        return False
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
    return True


def _write_state(folder: Path, priority: NDArray[np.float32]) -> dict[str, Any]:
    path = folder / _STATE
    path.unlink(missing_ok=True)
    with path.open("wb") as file:  # not save_file, whose error on a full disk is no OSError
        file.write(to_bytes({"priority": priority}))
        file.flush()
        os.fsync(file.fileno())
    return {"file": _STATE, "bytes": path.stat().st_size, "crc32": _file_crc(path)}


def _read_state(path: Path, size: int) -> NDArray[np.float32]:
    try:
        priority: NDArray[np.float32] = load_file(path)["priority"]
    except (SafetensorError, KeyError) as error:
        raise DamagedSnapshot(f"{path} is damaged: {error}") from None
    right = priority.shape == (size,) and priority.dtype == np.float32
    if not right or not (np.isfinite(priority) & (priority >= 0)).all():
        raise DamagedSnapshot(f"{path} is damaged: expected {size} finite priorities of at least 0")
    return priority


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no replay snapshot ({MANIFEST} is missing)")
    try:
        manifest = json.loads(path.read_bytes())
        claimed = manifest.pop("crc32")
        schema = manifest["schema"]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DamagedSnapshot(f"{path} is damaged: it is no manifest of a replay") from None
    if schema not in (1, SCHEMA):
        raise ValueError(f"{path} has schema {schema}; this version reads {SCHEMA}")
    claims = claimed == _crc(manifest)
    if schema == 1 and claims and "fields" in manifest:
        manifest["action"] = manifest["fields"].pop("action", None)
    if not claims or any(key not in manifest for key in _KEYS):
        raise DamagedSnapshot(f"{path} is damaged: its checksum does not match")
    return dict(manifest)


def _numbers(path: Path, manifest: dict[str, Any], lanes: int) -> NDArray[np.int64]:
    """Write counts (lanes,) of a manifest; ValueError if they or its other numbers can't be."""
    try:
        written = np.array(manifest["written"], np.int64)
        generators.check(manifest["generator"])
        right = written.shape == (lanes,) and 0 <= written.min() <= written.max() < 1 << 52
        right = right and 0 < float(manifest["greatest"]) < float("inf")
        right = right and int(manifest["nan_count"]) >= 0
    except (ValueError, TypeError, KeyError, OverflowError):
        right = False
    if not right:
        raise DamagedSnapshot(f"{path} is damaged: its counts or its generator's state can't be")
    return written


def _crc(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _file_crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _verify(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise DamagedSnapshot(f"{path} is missing from the snapshot")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise DamagedSnapshot(f"{path} is damaged: it has {size} bytes instead of {entry['bytes']}")
    if _file_crc(path) != entry["crc32"]:
        raise DamagedSnapshot(f"{path} is damaged: its checksum does not match")


def _fields(store: Store) -> dict[str, Any]:
    """Names, shapes and dtypes of what is stored; a stack is only a way to read it."""

    def told(field: Field) -> dict[str, Any]:
        return {"shape": list(field.shape), "dtype": field.dtype}

    fields = {name: told(field) for name, field in store.observation.items()}
    return {"fields": fields, "action": told(store.action)}
