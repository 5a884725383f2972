"""Receives job events; updates the outcome, the display and the views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.spec.result import TrialResult
from orchestrator.sweep.driver.allocation import Allocation
from orchestrator.sweep.driver.display import State, View, outcome_line
from orchestrator.sweep.driver.interrupts import Interrupted
from orchestrator.sweep.driver.jobs import Job
from orchestrator.sweep.driver.messages import EpochReport
from orchestrator.sweep.driver.outcome import SweepOutcome


class Views(Protocol):
    """Parquet and MLflow (`records.views.ViewWriter`)."""

    def put(self, trial_id: str) -> None:
        """A record or a latency has been written."""


class SweepEvents:
    """Receives the events of a sweep's jobs.

    Args:
        outcome: what the run did so far; changed here.
        state: what the display shows; changed here.
        view: the display.
        views: Parquet and MLflow.
        is_lost: whether another driver has taken over the sweep.
        reallocated: called when fewer trials share a GPU.
    """

    def __init__(
        self,
        outcome: SweepOutcome,
        state: State,
        view: View,
        views: Views,
        is_lost: Callable[[], bool],
        reallocated: Callable[[Allocation], None],
    ) -> None:
        self._outcome, self._state, self._view, self._views = outcome, state, view, views
        self._is_lost, self._reallocated = is_lost, reallocated

    def started(self, job: Job) -> None:
        self._state.start(job)

    def epoch(self, job: Job, report: EpochReport) -> None:
        self._state.epoch(job.key, report)
        self._view.update()

    def requeued(self, job: Job) -> None:
        self._state.requeued(job.key)

    def stage_ended(self, job: Job, error: str | None) -> None:
        self._state.stage_ended(job.key)
        if error is None:
            self._outcome.trained[job.kind] = self._outcome.trained.get(job.kind, 0) + 1
        what = f"{job.owner} {job.kind} ({job.spec.model.name}, seed {job.spec.seed})"
        self._view.update(f"{what}: {'computed' if error is None else error}")

    def trial_ended(self, job: Job, result: TrialResult) -> None:
        self._outcome.executed += 1
        self.already_recorded(job, result)

    def already_recorded(self, job: Job, result: TrialResult) -> None:
        self._state.trial_ended(job.key, result)
        self._views.put(result.trial_id)
        self._view.update(outcome_line(result))

    def measured(self, job: Job, error: str | None) -> None:
        self._state.stage_ended(job.key)
        self.latency_measured(job.spec.trial_id, error)

    def latency_measured(self, trial_id: str, error: str | None) -> None:
        """The latency of a finished trial has been recorded, or could not be measured."""
        if error is None:
            self._outcome.measured += 1
            self._views.put(trial_id)
        else:
            self._outcome.warnings.append(f"no latency for {trial_id}: {error}")

    def reallocated(self, allocation: Allocation) -> None:
        self._reallocated(allocation)

    def tick(self) -> None:
        if self._is_lost():
            raise Interrupted("another driver has taken this sweep over: the bucket was away for too long")
        self._view.update()
