"""Where a trial runs: store, sweep, device, threads. Never part of an id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths


@dataclass(frozen=True)
class Workspace:
    """Where a trial runs, never what it does.

    Args:
        store: the store that all sweeps share (``runs/``).
        sweep: name of the sweep, a folder in the store.
        device: a torch device, e.g. ``cpu`` or ``cuda``.
        threads: arithmetic threads of the trial (the CPUs it was given).
        data_cache: folder of decoded images on this machine; None: the user's cache folder.
    """

    store: Store
    sweep: str
    device: str = "cpu"
    threads: int = 1
    data_cache: Path | None = None

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self.store.folder / self.sweep

    @property
    def paths(self) -> SweepPaths:
        """The files of the sweep."""
        return SweepPaths(self.folder)

    def trial_folder(self, trial_id: str) -> Path:
        """Return the folder of one trial."""
        return self.paths.trial(trial_id).folder

    def stage_folder(self, stage: str, key: str) -> Path:
        """Return the folder of a shared stage's output."""
        return self.store.cache / stage / key
