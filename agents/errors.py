"""The faults that the command line turns into one line and an exit code."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of a newer schema, or of another run."""


class StorageError(RuntimeError):
    """The run folder can't be written: no space, no permission. What it held still stands."""
