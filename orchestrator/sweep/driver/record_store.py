"""The records and markers of one sweep, as the dispatcher reads and writes them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.bucket_sync import cached_stages, delete_marker, refresh, write_marker
from orchestrator.records.records import LATENCY, RESULT, read_result, write_result
from orchestrator.spec.result import TrialResult
from orchestrator.sweep.driver.messages import verdict_path

BACKOFF_PREFIX = ".retreat-"
"""Names of backoff markers begin with this; releases since 0.1.0 clear away what a killed driver left under it."""


@dataclass(frozen=True)
class SweepRecordStore:
    """The records and markers of a sweep in its folder, or in the bucket that the folder mirrors.

    Args:
        folder: the sweep's folder on this machine.
        cached: name and key of every stage output in the bucket when the driver started; None: the store is a folder,
            which is asked.
    """

    folder: Path
    cached: frozenset[tuple[str, str]] | None = None

    @classmethod
    def open(cls, folder: Path) -> SweepRecordStore:
        """Return the record store of the sweep in `folder`; lists the stage outputs of a bucket."""
        cached = cached_stages(folder.parent)
        return cls(folder, None if cached is None else frozenset(cached))

    def has_record(self, trial_id: str) -> bool:
        return self._fetched(trial_id, RESULT).exists()

    def read_record(self, trial_id: str) -> TrialResult:
        return read_result(self._fetched(trial_id, RESULT))

    def write_record(self, result: TrialResult) -> None:
        write_result(self._trial_folder(result.trial_id), result)

    def has_stage(self, name: str, key: str) -> bool:
        if self.cached is not None:
            return (name, key) in self.cached
        return (self.folder.parent / "cache" / name / key / "stage.json").exists()

    def fetch_latency(self, trial_id: str) -> None:
        self._fetched(trial_id, LATENCY)

    def write_verdict(self, trial_id: str, rung: int, reason: str) -> None:
        write_marker(verdict_path(self._trial_folder(trial_id), rung), reason)

    def new_backoff_marker(self) -> str:
        return f"{BACKOFF_PREFIX}{secrets.token_hex(4)}"

    def write_backoff_marker(self, name: str) -> None:
        write_marker(self.folder / name, "")

    def delete_backoff_markers(self) -> None:
        for marker in self.folder.glob(f"{BACKOFF_PREFIX}*"):
            delete_marker(marker)

    def _trial_folder(self, trial_id: str) -> Path:
        return self.folder / "trials" / trial_id

    def _fetched(self, trial_id: str, name: str) -> Path:
        """The path of a trial's file, which a worker on another machine may have written."""
        path = self._trial_folder(trial_id) / name
        if not path.exists():
            refresh(path.parent)
        return path
