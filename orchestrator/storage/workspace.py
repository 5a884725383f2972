"""Where a trial runs: paths, device, threads. Never part of an id."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Remote(Protocol):
    """The bucket that holds a store, as a trial needs it (`storage/bucket.py`); every path is one in the mirror."""

    def read(self, path: Path) -> bytes | None:
        """What an object holds, or None where there is none."""

    def put(self, path: Path, file: Path | None = None) -> None:
        """Send a file, by the name it has yet where that is another; an earlier object is replaced whole."""

    def take(self, folder: Path) -> bool:
        """Make a folder what it is in the bucket, whole or not at all; False where there is nothing."""

    def remove(self, path: Path) -> None:
        """Remove an object from the bucket, if it is there; the mirror stays as it is."""

    def clear(self, folder: Path) -> None:
        """Remove all below a folder from the bucket; the mirror stays as it is."""

    def alone(self, path: Path) -> AbstractContextManager[None]:
        """Wait until no process of any machine is alone with this path, then be it."""


@dataclass(frozen=True)
class Workspace:
    """Where, never what.

    Args:
        out: the store that all sweeps share (``runs/``).
        sweep: name of the sweep, a folder under ``out``.
        device: a torch device, e.g. ``cpu`` or ``cuda``.
        threads: arithmetic threads of the trial (the CPUs it was given).
        data_cache: where decoded images are kept on this machine; None: the user's cache folder.
        remote: the bucket that ``out`` mirrors; None: ``out`` itself is the store.
    """

    out: Path
    sweep: str
    device: str = "cpu"
    threads: int = 1
    data_cache: Path | None = None
    remote: Remote | None = None

    @property
    def folder(self) -> Path:
        return self.out / self.sweep

    def trial_folder(self, trial_id: str) -> Path:
        return self.folder / "trials" / trial_id

    def stage_folder(self, stage: str, key: str) -> Path:
        return self.out / "cache" / stage / key
