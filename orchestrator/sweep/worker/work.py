"""What a worker does with a job: runs it, reports to the driver, and ends a trial where the driver says so.

A trial's record is written here, so that a killed driver loses nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.records.records import write_latency, write_result
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.failures import Failure, JobOutcome, classify
from orchestrator.spec.result import EpochRow
from orchestrator.storage.bucket import PATIENCE
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import TrialPaths
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.jobs import LATENCY
from orchestrator.sweep.driver.messages import (
    EpochReport,
    JobEnded,
    JobRequest,
    Message,
    RungReport,
    WorkerContext,
)
from orchestrator.sweep.stopping.policy import epochs_at

_REPORT_SECONDS = 0.25
"""Epochs shorter than this are reported now and then, not each: a report costs a trip to the driver."""

Tell = Callable[[Message], None]
"""Sends a message; returns once the driver has received and answered it."""

OnFailure = Callable[[Failure], None]


class DeviceLost(PrunesweepError):
    """This process can no longer use its GPU and must end; the driver knows of it."""


def work(request: JobRequest, tell: Tell, device: str, on_failure: OnFailure | None = None) -> None:
    """Do one job in a warm worker; the last message is `JobEnded`.

    Args:
        request: the job.
        tell: sends a message to the driver.
        device: ``cpu`` or ``cuda``.
        on_failure: receives what went wrong, before it is recorded, where the exception is still at hand.

    Raises:
        DeviceLost: after the last message, where the process must be replaced.
    """
    try:
        end = _end_of(request, tell, device, on_failure or _ignore)
    except Exception as problem:
        failure = classify(problem)
        if failure.outcome is not JobOutcome.STORE_UNAVAILABLE:
            raise
        end = JobEnded.of(failure)
    if end.outcome is JobOutcome.DEVICE_LOST:
        tell(end)
        raise DeviceLost
    _release_gpu_memory(device)
    tell(end)


def _end_of(request: JobRequest, tell: Tell, device: str, on_failure: OnFailure) -> JobEnded:
    """Do the job; return how it ended."""
    context, job = request.context, request.job
    workspace = workspace_of(context, device)
    if (
        context.backoff_marker is not None
        and workspace.store.read_marker(workspace.folder / context.backoff_marker) is not None
    ):
        return JobEnded(JobOutcome.REQUEUED)
    if job.kind != "trial":
        return JobEnded.of(_do_stage(request, workspace, tell, on_failure))
    if _has_record(workspace, job.key):
        return JobEnded(JobOutcome.ALREADY_RECORDED)
    return JobEnded.of(_do_trial(request, workspace, tell, on_failure))


def workspace_of(context: WorkerContext, device: str) -> Workspace:
    """Return the workspace of a worker; opens the store."""
    return Workspace(
        store=Store.open(context.store, patience=PATIENCE),
        sweep=context.sweep,
        device=device,
        threads=max(1, int(context.cpus)),
        data_cache=Path(context.data_cache) if context.data_cache else None,
    )


def _has_record(workspace: Workspace, trial_id: str) -> bool:
    """Return whether another worker, e.g. of an earlier driver, has recorded the trial meanwhile."""
    return workspace.store.read_marker(workspace.paths.trial(trial_id).result) is not None


def _do_trial(request: JobRequest, workspace: Workspace, tell: Tell, on_failure: OnFailure) -> Failure | None:
    """Run a trial and write its record, unless the job is to be tried again."""
    from orchestrator.trial.run import execute_trial

    job = request.job
    store, paths = workspace.store, workspace.paths.trial(job.key)
    reporter = _Reporter(store, paths, request.rungs, tell)
    reporter.delete_verdicts()
    result, failure = execute_trial(
        job.spec,
        workspace,
        reporter.epoch,
        cut=reporter.cut,
        arm=job.arm,
        point=job.point,
        metrics=request.context.metrics,
    )
    if failure is not None:
        on_failure(failure)
        if _is_retried(failure, request.context):
            return failure
        failure = _advised(failure, request.context)
        result = result.model_copy(update={"error": failure.reason})
    if result.status == "done":
        # Upload the network first: a visible record implies a visible network.
        store.upload([paths.network, paths.cut])
    write_result(store, paths.folder, result)
    return failure


def _do_stage(request: JobRequest, workspace: Workspace, tell: Tell, on_failure: OnFailure) -> Failure | None:
    """Compute a shared stage, or measure a latency."""
    from orchestrator.trial.run import run_stage

    job = request.job
    try:
        if job.kind == LATENCY:
            from orchestrator.sweep.worker.latency import measure

            folder = workspace.trial_folder(job.spec.trial_id)
            workspace.store.download(folder)
            write_latency(workspace.store, folder, measure(folder, workspace.device, workspace.threads))
        else:
            reporter = _Reporter(workspace.store, workspace.paths.trial(job.spec.trial_id), (), tell)
            run_stage(job.kind, job.spec, workspace, reporter.epoch)
    except Exception as problem:
        failure = classify(problem)
        on_failure(failure)
        if failure.outcome is JobOutcome.OUT_OF_MEMORY and job.kind == LATENCY:
            # A network is measured alone: no allocation would give it more.
            return Failure(JobOutcome.FAILED, failure.reason, problem)
        return _advised(failure, request.context)
    return None


def _is_retried(failure: Failure, context: WorkerContext) -> bool:
    """Return whether the driver tries the job again: on another process, or with fewer jobs on the GPU."""
    if failure.outcome is JobOutcome.OUT_OF_MEMORY:
        return context.backoff_marker is not None
    return failure.outcome is JobOutcome.DEVICE_LOST


def _advised(failure: Failure, context: WorkerContext) -> Failure:
    """Add what a user can do about it to the reason of a lack of memory."""
    if failure.outcome is not JobOutcome.OUT_OF_MEMORY or context.backoff_marker is not None:
        return failure
    return Failure(failure.outcome, f"{failure.reason}; {context.out_of_memory_advice}", failure.exception)


def _release_gpu_memory(device: str) -> None:
    """Release cached GPU memory for the other workers on this GPU."""
    if device == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def _ignore(failure: Failure) -> None:
    return None


class _Reporter:
    """Reports epochs now and then, and at every rung, where it waits for the driver's verdict."""

    def __init__(self, store: Store, paths: TrialPaths, rungs: tuple[float, ...], tell: Tell) -> None:
        self._store, self._paths, self._rungs, self._tell = store, paths, rungs, tell
        self._last_report = 0.0
        self._sizes: dict[str, float] | None = None
        self._curve: list[float] = []

    def delete_verdicts(self) -> None:
        """Delete what an earlier attempt was told."""
        for rung in range(len(self._rungs)):
            self._store.delete_marker(self._paths.stop_marker(rung))

    def cut(self, sizes: dict[str, float]) -> None:
        """Take in the sizes after the cut; raises `Stopped` where the verdict says so."""
        self._sizes = sizes
        for index, rung in enumerate(self._rungs):
            if rung == 0:
                self._wait_for_verdict(index, None, 0.0)

    def epoch(self, row: EpochRow, epochs: int) -> None:
        """Take in an epoch; raises `Stopped` where it ends at a rung and the verdict says so."""
        report = EpochReport(row.stage, row.epoch, epochs, row.val_accuracy)
        # Before the cut the trial is still at stages that others share: nothing to stop there.
        if self._sizes is not None:
            self._curve.append(row.val_accuracy)
            n_epochs = len(self._curve)
            for index, rung in enumerate(self._rungs):
                if rung > 0 and epochs_at(rung, epochs) == n_epochs < epochs:
                    self._wait_for_verdict(index, report, n_epochs / epochs)
                    return
        now = time.monotonic()
        if now - self._last_report >= _REPORT_SECONDS:
            self._last_report = now
            self._tell(report)

    def _wait_for_verdict(self, rung: int, epoch: EpochReport | None, share: float) -> None:
        from orchestrator.trial.run import Stopped

        self._last_report = time.monotonic()
        self._tell(RungReport(rung, tuple(self._curve), self._sizes or {}, epoch))
        verdict = self._paths.stop_marker(rung)
        reason = self._store.read_marker(verdict)
        if reason is not None:
            self._store.delete_marker(verdict)
            raise Stopped(reason, share)
