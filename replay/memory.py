"""Refuse, before anything is allocated, a replay that the machine's memory cannot hold."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def _number(path: Path) -> int | None:
    """The integer in a control file; None where there is none (`max` means no limit)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(path: Path) -> int:
    """Page cache that the kernel gives up under pressure, from a group's memory.stat."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    stats = dict(line.split()[:2] for line in lines if " " in line)
    return int(stats.get("inactive_file", stats.get("total_inactive_file", 0)))


def _groups() -> list[tuple[Path, str, str]]:
    """Folders of this process's memory groups up to the root, with their limit and usage files."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, kind, name = line.split(":", 2)
        if kind not in ("", "memory"):
            continue
        root = _CGROUP / kind
        limit = "memory.limit_in_bytes" if kind else "memory.max"
        usage = "memory.usage_in_bytes" if kind else "memory.current"
        group = root / name.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                found.append((folder, limit, usage))
    return found


def available_bytes() -> int:
    """Bytes that this process can still take: the machine's, or its control groups' if less."""
    least = int(psutil.virtual_memory().available)
    for folder, limit, usage in _groups():
        most, now = _number(folder / limit), _number(folder / usage)
        if most is not None and now is not None:
            least = min(least, most - now + _reclaimable(folder / "memory.stat"))
    return max(least, 0)


RESERVE = 1 << 30
"""Bytes of a CUDA device that a replay leaves to networks, their graphs and CUDA's libraries."""


def device_bytes(device: torch.device) -> int:
    """Bytes that a CUDA device can still give: free ones, and those PyTorch keeps for reuse."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def require(capacity: int, needed: int, device: torch.device | None = None) -> None:
    """MemoryError if `needed` bytes, for `capacity` transitions, are not there to take."""
    gpu = device if device is not None and device.type == "cuda" else None
    free = available_bytes() if gpu is None else max(0, device_bytes(gpu) - RESERVE)
    if needed <= free:
        return
    fits = int(capacity * free / needed * 0.95)
    advice = f"a capacity of {fits:,} fits" if fits > 0 else "no capacity fits"
    place = "" if gpu is None else f" on {gpu}, beside what learning needs"
    raise MemoryError(
        f"a replay of {capacity:,} transitions needs {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB "
        f"are available{place}; {advice}"
    )
