"""The dispatcher: which job runs next, and what the end of each job means; knows no Ray, no threads and no clock.

A runner takes jobs with `next_job`, has workers do them and passes on what they report. Messages may come late or
twice: only those of the attempt that is running count. When the dispatcher is `backing_off`, the runner waits until
nothing runs and calls `resume_with_fewer`; when there is a `store_problem` or an `error`, it stops.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import Failure, JobOutcome, reason_of, store_unavailable
from orchestrator.spec.result import TrialResult
from orchestrator.sweep.driver.allocation import Allocation
from orchestrator.sweep.driver.interfaces import JobEvents, RecordStore, SuggestionSource
from orchestrator.sweep.driver.jobs import LATENCY, Job, JobQueue, jobs_of, latency_job
from orchestrator.sweep.driver.messages import (
    EpochReport,
    JobEnded,
    JobRequest,
    RungReport,
    WorkerContext,
    WorkerDied,
)
from orchestrator.sweep.stopping.policy import Progress, StoppingPolicy

_SUGGESTION_SECONDS = 5.0
"""How long `next_job` waits for a suggestion when no job is left."""


class Dispatcher:
    """Hands out the jobs of a sweep, and those of the trials that a search suggests meanwhile.

    Args:
        jobs: what the plan still needs.
        context: where workers find the sweep; what depends on the allocation is filled in here.
        allocation: what one trial holds.
        store: the sweep's records and markers.
        events: receives what happens to the jobs.
        suggestions: the trials of an adaptive search; they bring their stages along.
        policy: decides at the rungs which trials end early.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        context: WorkerContext,
        allocation: Allocation,
        store: RecordStore,
        events: JobEvents,
        *,
        suggestions: SuggestionSource | None = None,
        policy: StoppingPolicy | None = None,
    ) -> None:
        self.events = events
        self.store_problem: str | None = None
        """Why the store cannot be written any more; nothing is handed out or recorded from then on."""
        self.error: SpecError | None = None
        """Why the stopper can judge no trial; nothing is handed out or recorded from then on."""
        self.backing_off = False
        """A job ran out of memory that it would have with fewer jobs beside it: nothing is handed out."""
        self._queue = JobQueue(jobs)
        self._store, self._suggestions, self._policy = store, suggestions, policy
        self._running: dict[str, JobRequest] = {}
        self._attempts: dict[str, int] = {}
        self._judged: dict[str, set[int]] = {}
        """Rungs at which a running trial has been judged."""
        self._computed: set[str] = set()
        """Keys of stages that ended well here."""
        self._base_context = context
        store.delete_backoff_markers()
        self._allocate(allocation)

    @property
    def exhausted(self) -> bool:
        """Whether every job has ended and no suggestion will come."""
        return self._queue.exhausted and (self._suggestions is None or self._suggestions.finished)

    @property
    def n_running(self) -> int:
        """Number of jobs that are handed out and have not ended."""
        return len(self._running)

    def next_job(self) -> JobRequest | None:
        """Return a job for a worker; None: wait, unless the dispatcher is `exhausted`."""
        if self.backing_off or self._is_stopped:
            return None
        try:
            return self._next_request()
        except OSError as problem:
            self._stop_or_raise(problem)
            return None

    def on_started(self, request: JobRequest) -> None:
        """A worker begins a job."""
        if self._is_current(request):
            self.events.started(request.job)

    def on_report(self, request: JobRequest, report: EpochReport | RungReport) -> None:
        """A worker reports on its job; when this returns, the verdict on a trial at a rung is written, if it is to end.

        A trial that goes on needs no verdict.
        """
        if not self._is_current(request) or self._is_stopped:
            return
        epoch = report if isinstance(report, EpochReport) else report.epoch
        if isinstance(report, RungReport):
            try:
                self._judge(request.job, report)
            except OSError as problem:
                self._stop_or_raise(problem)
        if epoch is not None:
            self.events.epoch(request.job, epoch)

    def on_ended(self, request: JobRequest, end: JobEnded | WorkerDied) -> None:
        """A worker has ended its job, or died over it."""
        if not self._is_current(request) or self._is_stopped:
            return
        del self._running[request.job.key]
        self._judged.pop(request.job.key, None)
        if isinstance(end, JobEnded) and end.outcome is JobOutcome.STORE_UNAVAILABLE:
            self.store_problem = end.reason or "the store is unavailable"
            return
        try:
            self._conclude(request, end)
        except OSError as problem:
            self._stop_or_raise(problem)

    def resume_with_fewer(self) -> Allocation:
        """Go on with half as many jobs a GPU; to be called when `backing_off` and no worker is at a job any more."""
        for request in list(self._running.values()):
            self._requeue(request.job)
        self._store.delete_backoff_markers()
        self.backing_off = False
        self._allocate(self.allocation.halved())
        self.events.reallocated(self.allocation)
        return self.allocation

    def close(self) -> None:
        """Delete the markers that workers look for."""
        with suppress(OSError):  # the next driver deletes them
            self._store.delete_backoff_markers()

    def _allocate(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self._context = replace(
            self._base_context,
            cpus=allocation.resources.cpus,
            out_of_memory_advice=allocation.advice,
            backoff_marker=self._store.new_backoff_marker() if allocation.may_halve else None,
        )

    def _is_current(self, request: JobRequest) -> bool:
        running = self._running.get(request.job.key)
        return running is not None and running.attempt == request.attempt

    @property
    def _is_stopped(self) -> bool:
        return self.store_problem is not None or self.error is not None

    def _stop_or_raise(self, problem: OSError) -> None:
        if not store_unavailable(problem):
            raise problem
        self.store_problem = str(problem)

    def _next_request(self) -> JobRequest | None:
        while (job := self._next_job()) is not None:
            # The worker looks for a record in the bucket too; here, every runner event would wait for the request.
            if job.kind == "trial" and self._store.has_local_record(job.key):
                self._adopt(job)
                continue
            attempt = self._attempts.get(job.key, 0)
            self._attempts[job.key] = attempt + 1
            rungs = self._policy.rungs if self._policy is not None and job.kind == "trial" else ()
            request = self._running[job.key] = JobRequest(job, self._context, tuple(rungs), attempt)
            return request
        return None

    def _next_job(self) -> Job | None:
        job = self._queue.take()
        if job is not None or self._suggestions is None:
            return job
        wait = _SUGGESTION_SECONDS if self._queue.exhausted else 0.0
        while (trial := self._suggestions.take(wait)) is not None:
            for dependent, failure in self._queue.add(jobs_of(trial, self._has_stage)):
                self._end_trial(dependent, failure)
            if (job := self._queue.take()) is not None:
                return job
        return None

    def _has_stage(self, name: str, key: str) -> bool:
        return key in self._computed or self._store.has_stage(name, key)

    def _judge(self, job: Job, report: RungReport) -> None:
        judged = self._judged.setdefault(job.key, set())
        if self._policy is None or report.rung in judged:
            return
        try:
            reason = self._policy.decide(Progress(job.key, report.rung, report.curve, report.sizes))
        except (Exception, SystemExit) as problem:
            message = f"{self._policy.name!r} cannot judge trial {job.key} at rung {report.rung}: {reason_of(problem)}"
            self.error = SpecError("stopper.name", message)
            self.error.__cause__ = problem
            return
        if reason is not None:
            self._store.write_verdict(job.key, report.rung, f"{self._policy.name}: {reason}")
        judged.add(report.rung)

    def _conclude(self, request: JobRequest, end: JobEnded | WorkerDied) -> None:
        job = request.job
        if isinstance(end, WorkerDied) or end.outcome is JobOutcome.DEVICE_LOST:
            if self._retry(job):
                return
            failure: Failure | None = Failure(JobOutcome.FAILED, end.reason or "the device was lost")
        elif end.outcome is JobOutcome.REQUEUED:
            self._requeue(job)
            return
        elif end.outcome is JobOutcome.OUT_OF_MEMORY and request.context.backoff_marker is not None:
            self.backing_off = True
            # Jobs that are handed out and have not begun come back at once.
            self._store.write_backoff_marker(request.context.backoff_marker)
            self._requeue(job)
            return
        elif end.outcome is JobOutcome.ALREADY_RECORDED:
            self._adopt(job)
            return
        else:
            failure = None if end.outcome is JobOutcome.DONE else Failure(end.outcome, end.reason or str(end.outcome))
        if job.kind == "trial":
            self._queue.finish(job.key)
            self._end_trial(job, failure)
        elif job.kind == LATENCY:
            self._queue.finish(job.key)
            self._end_latency(job, failure)
        else:
            self._end_stage(job, failure)

    def _retry(self, job: Job) -> bool:
        """Put a job back whose worker died; return False where its trial has a record, or that happened too often."""
        if (job.kind == "trial" and self._store.has_record(job.key)) or not self._queue.retry(job):
            return False
        self.events.requeued(job)
        return True

    def _requeue(self, job: Job) -> None:
        self._running.pop(job.key, None)
        self._queue.requeue(job)
        self.events.requeued(job)

    def _end_stage(self, job: Job, failure: Failure | None) -> None:
        self.events.stage_ended(job, None if failure is None else failure.reason)
        if failure is None:
            self._computed.add(job.key)
            self._queue.finish(job.key)
            return
        failure = Failure(failure.outcome, f"{job.kind} failed: {failure.reason}")
        for dependent in self._queue.fail_stage(job.key, failure):
            self._end_trial(dependent, failure)

    def _end_trial(self, job: Job, failure: Failure | None) -> None:
        """Report the worker's own record; where no worker could write one, write one that says why."""
        if not self._store.has_record(job.key):
            self._write_failure(job, failure or Failure(JobOutcome.FAILED, "no record was written"))
        result = self._store.read_record(job.key)
        self.events.trial_ended(job, result)
        self._tell_search(job, result)

    def _write_failure(self, job: Job, failure: Failure) -> None:
        result = TrialResult(
            trial_id=job.key,
            spec=job.spec,
            arm=job.arm,
            point=dict(job.point),
            status="diverged" if failure.outcome is JobOutcome.DIVERGED else "failed",
            error=failure.reason,
        )
        self._store.write_record(result)

    def _adopt(self, job: Job) -> None:
        """Take over the record of a trial that was not run here."""
        self._queue.finish(job.key)
        result = self._store.read_record(job.key)
        self.events.already_recorded(job, result)
        self._tell_search(job, result)

    def _tell_search(self, job: Job, result: TrialResult) -> None:
        if self._suggestions is not None and not self._suggestions.ended(result):
            self._queue.add([latency_job(job)])

    def _end_latency(self, job: Job, failure: Failure | None) -> None:
        trial_id = job.spec.trial_id
        self._store.fetch_latency(trial_id)
        self.events.measured(job, None if failure is None else failure.reason)
        if self._suggestions is not None and not self._suggestions.ended(self._store.read_record(trial_id)):
            self._suggestions.lost(trial_id)
