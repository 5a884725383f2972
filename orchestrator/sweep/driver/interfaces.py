"""What the dispatcher needs of others, so that a test can put something simpler in their place."""

from __future__ import annotations

from typing import Protocol

from orchestrator.spec.result import TrialResult
from orchestrator.sweep.driver.allocation import Allocation
from orchestrator.sweep.driver.jobs import Job
from orchestrator.sweep.driver.messages import EpochReport
from orchestrator.sweep.space.arms import PlannedTrial


class RecordStore(Protocol):
    """The records and markers of one sweep.

    Every method may raise OSError; one that `spec.failures.store_unavailable` recognizes ends the sweep.
    """

    def has_record(self, trial_id: str) -> bool:
        """Return whether a trial has a record, whichever machine wrote it."""

    def has_local_record(self, trial_id: str) -> bool:
        """Return whether this machine holds a record of a trial; sends no request to a bucket."""

    def read_record(self, trial_id: str) -> TrialResult:
        """Return the record of a trial."""

    def write_record(self, result: TrialResult) -> None:
        """Write the record of a trial, unless it has one."""

    def has_stage(self, name: str, key: str) -> bool:
        """Return whether the output of a shared stage exists."""

    def fetch_latency(self, trial_id: str) -> None:
        """Bring the latency that a worker measured to this machine."""

    def write_verdict(self, trial_id: str, rung: int, reason: str) -> None:
        """Tell the worker of a trial that waits at a rung to end it."""

    def new_backoff_marker(self) -> str:
        """Return a name for a backoff marker that no earlier one had; nothing is written."""

    def write_backoff_marker(self, name: str) -> None:
        """Tell workers to begin no job whose context names this marker."""

    def delete_backoff_markers(self) -> None:
        """Delete every backoff marker of the sweep, also those of earlier drivers."""


class JobEvents(Protocol):
    """Receives what happens to jobs, in the order in which the dispatcher decides it."""

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, report: EpochReport) -> None: ...

    def requeued(self, job: Job) -> None:
        """The job has stopped without an end and waits again."""

    def stage_ended(self, job: Job, error: str | None) -> None: ...

    def trial_ended(self, job: Job, result: TrialResult) -> None: ...

    def already_recorded(self, job: Job, result: TrialResult) -> None:
        """The trial was not run: somebody else has recorded it since the sweep was planned."""

    def measured(self, job: Job, error: str | None) -> None: ...

    def reallocated(self, allocation: Allocation) -> None:
        """From now on fewer trials share a GPU."""

    def tick(self) -> None:
        """Some time has passed."""


class SuggestionSource(Protocol):
    """The trials of an adaptive search, one after another (`Suggestions`)."""

    @property
    def finished(self) -> bool: ...

    def take(self, wait: float = 0.0) -> PlannedTrial | None: ...

    def ended(self, result: TrialResult) -> bool: ...

    def lost(self, trial_id: str) -> None: ...
