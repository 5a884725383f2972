"""A store in memory, a log of events and a small plan: what tests of the dispatcher need."""

from __future__ import annotations

from typing import Any

from orchestrator.spec.failures import JobOutcome
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import Resources, SearchSpace
from orchestrator.sweep.driver.allocation import Allocation
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.driver.jobs import Job, remaining_jobs
from orchestrator.sweep.driver.messages import JobEnded, JobRequest, WorkerContext
from orchestrator.sweep.planning import Plan, plan

CONTEXT = WorkerContext("runs", "s")


class MemoryStore:
    """The records and markers of one sweep, in memory; `problem` is raised by everything that writes."""

    def __init__(self) -> None:
        self.records: dict[str, TrialResult] = {}
        self.verdicts: dict[tuple[str, int], str] = {}
        self.backoff_markers: set[str] = set()
        self.problem: OSError | None = None
        self.n_markers = 0

    def has_record(self, trial_id: str) -> bool:
        return trial_id in self.records

    def has_local_record(self, trial_id: str) -> bool:
        return self.has_record(trial_id)

    def read_record(self, trial_id: str) -> TrialResult:
        return self.records[trial_id]

    def write_record(self, result: TrialResult) -> None:
        self._write()
        self.records.setdefault(result.trial_id, result)

    def has_stage(self, name: str, key: str) -> bool:
        return False

    def fetch_latency(self, trial_id: str) -> None:
        return None

    def write_verdict(self, trial_id: str, rung: int, reason: str) -> None:
        self._write()
        self.verdicts[trial_id, rung] = reason

    def new_backoff_marker(self) -> str:
        self.n_markers += 1
        return f"backoff-{self.n_markers}"

    def write_backoff_marker(self, name: str) -> None:
        self._write()
        self.backoff_markers.add(name)

    def delete_backoff_markers(self) -> None:
        self.backoff_markers.clear()

    def _write(self) -> None:
        if self.problem is not None:
            raise self.problem


class EventLog:
    """Events as (name, key of the job, what else was said)."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == name]

    def started(self, job: Job) -> None:
        self.events.append(("started", job.key))

    def epoch(self, job: Job, report: Any) -> None:
        self.events.append(("epoch", job.key, report.epoch))

    def requeued(self, job: Job) -> None:
        self.events.append(("requeued", job.key))

    def stage_ended(self, job: Job, error: str | None) -> None:
        self.events.append(("stage_ended", job.key, error))

    def trial_ended(self, job: Job, result: TrialResult) -> None:
        self.events.append(("trial_ended", job.key, result.status, result.error))

    def already_recorded(self, job: Job, result: TrialResult) -> None:
        self.events.append(("already_recorded", job.key))

    def measured(self, job: Job, error: str | None) -> None:
        self.events.append(("measured", job.key, error))

    def reallocated(self, allocation: Allocation) -> None:
        self.events.append(("reallocated", allocation.per_gpu))

    def tick(self) -> None:
        return None


def planned(**more: Any) -> Plan:
    """Two arms and two seeds: two baselines, four trials."""
    base = {"model": "lenet5", "data": "digits", "retrain": {"name": "clr", "epochs": 4}, "target": {"sparsity": 0.5}}
    return plan(
        SearchSpace.parse({"name": "s", "base": base, "axes": {"seed": [0, 1]}, "arms": ["l1_norm", "random"], **more})
    )


class Bench:
    """A dispatcher with its store and events, and short names for what a worker would do."""

    def __init__(self, this: Plan | None = None, allocation: Allocation | None = None, **more: Any) -> None:
        self.store, self.log = MemoryStore(), EventLog()
        jobs = remaining_jobs(this or planned(), set(), lambda name, key: False)
        self.dispatcher = Dispatcher(jobs, CONTEXT, allocation or Allocation(Resources()), self.store, self.log, **more)

    def start(self, kind: str | None = None) -> JobRequest:
        """Take the next job and begin it."""
        request = self.dispatcher.next_job()
        assert request is not None
        assert kind is None or request.job.kind == kind
        self.dispatcher.on_started(request)
        return request

    def finish(self, request: JobRequest, outcome: JobOutcome = JobOutcome.DONE, reason: str | None = None) -> None:
        """What a worker does at the end of a job: a trial's record first, then the message."""
        if request.job.kind == "trial" and outcome is JobOutcome.DONE:
            self.store.write_record(record_of(request.job))
        self.dispatcher.on_ended(request, JobEnded(outcome, reason))

    def drain(self) -> list[str]:
        """Run all that is left; return the keys of the jobs in order."""
        keys: list[str] = []
        while not self.dispatcher.exhausted:
            request = self.dispatcher.next_job()
            if request is None:
                assert self.dispatcher.exhausted, "nothing can start and nothing runs"
                break
            keys.append(request.job.key)
            self.finish(request)
        return keys


def record_of(job: Job, **more: Any) -> TrialResult:
    return TrialResult(
        trial_id=job.spec.trial_id, spec=job.spec, arm=job.arm, point=dict(job.point), **{"status": "done", **more}
    )
