"""What remains of a plan, as jobs in order of need: shared stages first, then the trials that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.spec.result import TrialResult
from orchestrator.spec.trial import TrialSpec
from orchestrator.sweep.driver.allocation import Allocation
from orchestrator.sweep.planning import Plan, PlannedTrial, stages_of

LATENCY = "latency"
"""The kind of a job that measures a finished network: nothing else runs beside it."""
_RETRIES = 2
"""How often a job is tried again whose worker died."""


@dataclass(frozen=True)
class Job:
    """One piece of work for one worker."""

    key: str
    kind: str
    """``trial``, the name of a stage, or ``latency``."""
    arm: str
    spec: TrialSpec
    point: Mapping[str, Any]
    needs: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        if self.kind in ("trial", LATENCY):
            told = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in self.point.items())
            return told or self.key
        return f"{self.kind}, seed {self.spec.seed}"

    @property
    def owner(self) -> str:
        """The arm, or `shared` for what all arms start from."""
        return "shared" if self.kind == "baseline" else self.arm


class Events(Protocol):
    """What the runner hears of its jobs."""

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, event: Mapping[str, Any]) -> None: ...

    def stage_ended(self, job: Job, error: str | None) -> None: ...

    def trial_ended(self, job: Job, result: TrialResult) -> None: ...

    def measured(self, job: Job, error: str | None) -> None: ...

    def returned(self, job: Job) -> None:
        """It runs no longer and waits again."""

    def reallocated(self, allocation: Allocation) -> None:
        """From here on fewer trials share a GPU."""

    def tick(self) -> None: ...


def remaining_jobs(plan: Plan, recorded: Collection[str], stage_is_there: Callable[[str, str], bool]) -> list[Job]:
    """Jobs for the trials without a record, and for those of their stages that the store lacks."""
    missing = [trial for trial in plan.trials if trial.trial_id not in recorded]
    jobs = [job for trial in missing for job in jobs_of(trial, stage_is_there)]
    stages = {job.key: job for job in jobs if job.kind != "trial"}
    return [*stages.values(), *(job for job in jobs if job.kind == "trial")]


def jobs_of(trial: PlannedTrial, stage_is_there: Callable[[str, str], bool]) -> list[Job]:
    """The stages that the store lacks for one trial, in order, and the trial."""
    missing = [stage for stage in stages_of(trial.spec) if not stage_is_there(stage.name, stage.key)]
    keys = {stage.key for stage in missing}
    jobs = [
        Job(stage.key, stage.name, trial.arm, stage.spec, {}, tuple(key for key in stage.needs if key in keys))
        for stage in missing
    ]
    needs = tuple(stage.key for stage in missing)
    return [*jobs, Job(trial.trial_id, "trial", trial.arm, trial.spec, trial.point, needs)]


def measuring_job(trial: Job | PlannedTrial) -> Job:
    """The measuring of a finished trial's latency."""
    return Job(f"{LATENCY}/{trial.spec.trial_id}", LATENCY, trial.arm, trial.spec, trial.point)


class JobQueue:
    """Hands out jobs whose needs are met; what needs a failed stage fails with its reason.

    Jobs may be added while others run. A measuring job waits until nothing runs, and nothing starts beside it.
    """

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._waiting = {job.key: job for job in jobs}
        self._running: dict[str, Job] = {}
        self._deaths: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        """Stages that failed, or need one that did, and why."""

    @property
    def exhausted(self) -> bool:
        """Nothing waits, and nothing runs that might come back."""
        return not self._waiting and not self._running

    @property
    def idle(self) -> bool:
        """Nothing runs."""
        return not self._running

    def add(self, jobs: Iterable[Job]) -> list[tuple[Job, str]]:
        """Take in more jobs, but for those that are here already; returns trials whose stage failed, and why."""
        lost: list[tuple[Job, str]] = []
        for job in jobs:
            if job.key in self._waiting or job.key in self._running or job.key in self._failed:
                continue
            reason = next((self._failed[need] for need in job.needs if need in self._failed), None)
            if reason is None:
                self._waiting[job.key] = job
            elif job.kind == "trial":
                lost.append((job, reason))
            else:
                self._failed[job.key] = reason
        return lost

    def take(self) -> Job | None:
        """The next job in order that can start; None if all must wait."""
        if any(job.kind == LATENCY for job in self._running.values()):
            return None
        job = next((job for job in self._waiting.values() if self._ready(job)), None)
        if job is None:
            return None
        del self._waiting[job.key]
        self._running[job.key] = job
        return job

    def again(self, job: Job) -> bool:
        """Put a job back whose worker died; False if that happened too often."""
        self._running.pop(job.key, None)
        self._deaths[job.key] = self._deaths.get(job.key, 0) + 1
        if self._deaths[job.key] > _RETRIES:
            return False
        self._waiting = {job.key: job, **self._waiting}
        return True

    def back(self, job: Job) -> None:
        """Put a job back that ended for want of room: no fault of its own."""
        self._running.pop(job.key, None)
        self._waiting = {job.key: job, **self._waiting}

    def finished(self, key: str) -> None:
        self._running.pop(key, None)

    def failed(self, key: str, reason: str) -> list[Job]:
        """Take a failed stage away; returns the trials that can no longer run."""
        self._running.pop(key, None)
        self._failed[key] = reason
        lost: list[Job] = []
        for job in [job for job in self._waiting.values() if key in job.needs]:
            if self._waiting.pop(job.key, None) is None:
                continue
            if job.kind == "trial":
                lost.append(job)
            else:
                lost += self.failed(job.key, reason)
        return lost

    def _ready(self, job: Job) -> bool:
        if job.kind == LATENCY:
            return not self._running
        return not any(need in self._waiting or need in self._running for need in job.needs)
