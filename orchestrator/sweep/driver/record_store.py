"""The records and markers of one sweep, as the dispatcher reads and writes them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.records import read_result, write_result
from orchestrator.spec.result import TrialResult
from orchestrator.storage.workspace import Workspace

BACKOFF_PREFIX = ".retreat-"
"""Names of backoff markers begin with this; releases since 0.1.0 clear away what a killed driver left under it."""


@dataclass(frozen=True)
class SweepRecordStore:
    """The records and markers of a sweep in its store.

    Args:
        workspace: the store and the sweep.
        cached: name and key of every stage output in the bucket when the driver started; None: the store is a folder,
            which is asked.
    """

    workspace: Workspace
    cached: frozenset[tuple[str, str]] | None = None

    @classmethod
    def open(cls, workspace: Workspace) -> SweepRecordStore:
        """Return the record store of a sweep; lists the stage outputs of a bucket."""
        cached = workspace.store.cached_stages()
        return cls(workspace, None if cached is None else frozenset(cached))

    def has_record(self, trial_id: str) -> bool:
        return self._fetched(self.workspace.paths.trial(trial_id).result).exists()

    def has_local_record(self, trial_id: str) -> bool:
        return self.workspace.paths.trial(trial_id).result.exists()

    def read_record(self, trial_id: str) -> TrialResult:
        return read_result(self._fetched(self.workspace.paths.trial(trial_id).result))

    def write_record(self, result: TrialResult) -> None:
        write_result(self.workspace.store, self.workspace.trial_folder(result.trial_id), result)

    def has_stage(self, name: str, key: str) -> bool:
        if self.cached is not None:
            return (name, key) in self.cached
        return (self.workspace.stage_folder(name, key) / "stage.json").exists()

    def fetch_latency(self, trial_id: str) -> None:
        self._fetched(self.workspace.paths.trial(trial_id).latency)

    def write_verdict(self, trial_id: str, rung: int, reason: str) -> None:
        self.workspace.store.write_marker(self.workspace.paths.trial(trial_id).stop_marker(rung), reason)

    def new_backoff_marker(self) -> str:
        return f"{BACKOFF_PREFIX}{secrets.token_hex(4)}"

    def write_backoff_marker(self, name: str) -> None:
        self.workspace.store.write_marker(self.workspace.folder / name, "")

    def delete_backoff_markers(self) -> None:
        for marker in self.workspace.folder.glob(f"{BACKOFF_PREFIX}*"):
            self.workspace.store.delete_marker(marker)

    def _fetched(self, path: Path) -> Path:
        """Return the path of a trial's file, which a worker on another machine may have written."""
        if not path.exists():
            self.workspace.store.refresh(path.parent)
        return path
