"""The jobs that a plan still needs, shared stages before the trials that wait for them, and their queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.failures import Failure
from orchestrator.spec.trial import TrialSpec
from orchestrator.sweep.planning import Plan, PlannedTrial, stages_of

HasStage = Callable[[str, str], bool]
"""Whether the store has the output of a shared stage, by its name and key."""

LATENCY = "latency"
"""The kind of a job that measures a finished network; nothing else runs beside it."""
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
        """A short name for a person: the point of a trial, the seed of a stage."""
        if self.kind in ("trial", LATENCY):
            return short_point(self.point) or self.key
        return f"{self.kind}, seed {self.spec.seed}"

    @property
    def owner(self) -> str:
        """The arm; `shared` for a baseline, from which all arms start."""
        return "shared" if self.kind == "baseline" else self.arm


def short_point(point: Mapping[str, Any]) -> str:
    """Return the values of a point in one line, each under the last part of its path."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in point.items())


def remaining_jobs(plan: Plan, recorded: Collection[str], has_stage: HasStage) -> list[Job]:
    """Return the jobs of the trials without a record, after those of their stages that the store lacks."""
    missing = [trial for trial in plan.trials if trial.trial_id not in recorded]
    jobs = [job for trial in missing for job in jobs_of(trial, has_stage)]
    stages = {job.key: job for job in jobs if job.kind != "trial"}
    return [*stages.values(), *(job for job in jobs if job.kind == "trial")]


def jobs_of(trial: PlannedTrial, has_stage: HasStage) -> list[Job]:
    """Return the job of one trial, after those of its stages that the store lacks."""
    missing = [stage for stage in stages_of(trial.spec) if not has_stage(stage.name, stage.key)]
    missing_keys = {stage.key for stage in missing}
    jobs = [
        Job(stage.key, stage.name, trial.arm, stage.spec, {}, tuple(key for key in stage.needs if key in missing_keys))
        for stage in missing
    ]
    needs = tuple(stage.key for stage in missing)
    return [*jobs, Job(trial.trial_id, "trial", trial.arm, trial.spec, trial.point, needs)]


def latency_job(trial: Job | PlannedTrial) -> Job:
    """Return the job that measures the latency of a finished trial."""
    return Job(f"{LATENCY}/{trial.spec.trial_id}", LATENCY, trial.arm, trial.spec, trial.point)


class JobQueue:
    """Hands out jobs whose needs are met; a job that needs a failed stage fails with it.

    Jobs may be added while others run. A latency job waits until nothing runs, and nothing starts beside it.
    """

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._waiting = {job.key: job for job in jobs}
        self._running: dict[str, Job] = {}
        self._deaths: dict[str, int] = {}
        self._failed: dict[str, Failure] = {}
        """Stages that failed, or need one that did."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing waits and nothing runs that might come back."""
        return not self._waiting and not self._running

    def add(self, jobs: Iterable[Job]) -> list[tuple[Job, Failure]]:
        """Add the jobs that the queue does not know; return trials that need a failed stage, with its failure."""
        dependents: list[tuple[Job, Failure]] = []
        for job in jobs:
            if job.key in self._waiting or job.key in self._running or job.key in self._failed:
                continue
            failure = next((self._failed[need] for need in job.needs if need in self._failed), None)
            if failure is None:
                self._waiting[job.key] = job
            elif job.kind == "trial":
                dependents.append((job, failure))
            else:
                self._failed[job.key] = failure
        return dependents

    def take(self) -> Job | None:
        """Return the next job in order that can start, now running; None if all must wait."""
        if any(job.kind == LATENCY for job in self._running.values()):
            return None
        job = next((job for job in self._waiting.values() if self._is_ready(job)), None)
        if job is None:
            return None
        del self._waiting[job.key]
        self._running[job.key] = job
        return job

    def retry(self, job: Job) -> bool:
        """Put a job back whose worker died; return False, and drop it, if that happened too often."""
        self._running.pop(job.key, None)
        self._deaths[job.key] = self._deaths.get(job.key, 0) + 1
        if self._deaths[job.key] > _RETRIES:
            return False
        self.requeue(job)
        return True

    def requeue(self, job: Job) -> None:
        """Put a running job back at the head of the queue."""
        self._running.pop(job.key, None)
        self._waiting = {job.key: job, **self._waiting}

    def finish(self, key: str) -> None:
        """Remove a job that has ended."""
        self._running.pop(key, None)

    def fail_stage(self, key: str, failure: Failure) -> list[Job]:
        """Remove a failed stage and all that needs it; return the trials that can no longer run."""
        self._running.pop(key, None)
        self._failed[key] = failure
        dependents: list[Job] = []
        for job in [job for job in self._waiting.values() if key in job.needs]:
            if self._waiting.pop(job.key, None) is None:
                continue
            if job.kind == "trial":
                dependents.append(job)
            else:
                dependents += self.fail_stage(job.key, failure)
        return dependents

    def _is_ready(self, job: Job) -> bool:
        if job.kind == LATENCY:
            return not self._running
        return not any(need in self._waiting or need in self._running for need in job.needs)
