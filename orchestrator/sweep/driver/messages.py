"""The messages between driver and worker, and the text in which they travel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.spec.failures import Failure, JobOutcome
from orchestrator.spec.trial import TrialSpec
from orchestrator.sweep.driver.jobs import Job


@dataclass(frozen=True)
class WorkerContext:
    """Where a worker finds the sweep, and what it may use."""

    store: str
    """Address of the store: a folder or a URI."""
    sweep: str
    """Name of the sweep, a folder in the store."""
    data_cache: str | None = None
    """Folder on the worker's machine for decoded images; None: the user's cache folder."""
    cpus: float = 1.0
    out_of_memory_advice: str = ""
    """What the record of a trial adds that ran out of GPU memory and could not have had more."""
    metrics: tuple[str, ...] = ()
    """Metrics of the user's own that a trial computes."""
    backoff_marker: str | None = None
    """Name of a file in the sweep's folder: once it exists, no job is begun. None where the allocation is final."""


@dataclass(frozen=True)
class JobRequest:
    """A job for a worker."""

    job: Job
    context: WorkerContext
    rungs: tuple[float, ...] = ()
    """Shares of the retraining after which the worker waits for a verdict."""
    attempt: int = 0
    """How often the job was handed out before: tells the messages of one attempt from those of another."""


@dataclass(frozen=True)
class EpochReport:
    """An epoch has ended."""

    stage: str
    epoch: int
    """Counted from 0."""
    epochs: int
    """Epochs of the stage."""
    val_accuracy: float


@dataclass(frozen=True)
class RungReport:
    """A trial waits at a rung for its verdict."""

    rung: int
    """Index in the request's rungs."""
    curve: tuple[float, ...]
    """Validation accuracy after each epoch of the retraining so far."""
    sizes: Mapping[str, float]
    """Size metrics of the network after the cut."""
    epoch: EpochReport | None = None
    """The epoch that ended at the rung; None at the rung right after the cut."""


@dataclass(frozen=True)
class JobEnded:
    """The last message of a job."""

    outcome: JobOutcome
    reason: str | None = None
    """One line; None where the job is done."""

    @classmethod
    def of(cls, failure: Failure | None) -> JobEnded:
        """Return the message for a failure; None: the job is done."""
        return cls(JobOutcome.DONE) if failure is None else cls(failure.outcome, failure.reason)


@dataclass(frozen=True)
class WorkerDied:
    """The worker of a job is gone without a last message; the runner says so in its place."""

    reason: str = "the worker died"


Message = EpochReport | RungReport | JobEnded


def encode_request(request: JobRequest) -> str:
    """Return a request as JSON text: Ray Tune flattens and compares every value of a configuration at every report."""
    job = request.job
    described = {"key": job.key, "kind": job.kind, "arm": job.arm, "point": dict(job.point)}
    described["spec"] = job.spec.model_dump(mode="json")
    context = asdict(request.context)
    return json.dumps({"job": described, "context": context, "rungs": request.rungs, "attempt": request.attempt})


def decode_request(text: str) -> JobRequest:
    """Return the request that `encode_request` wrote; of the job's needs nothing is sent: they are met."""
    fields = json.loads(text)
    job = fields["job"]
    return JobRequest(
        Job(job["key"], job["kind"], job["arm"], TrialSpec.model_validate(job["spec"]), job["point"]),
        WorkerContext(**{**fields["context"], "metrics": tuple(fields["context"]["metrics"])}),
        tuple(fields["rungs"]),
        fields["attempt"],
    )


def encode_message(message: Message) -> str:
    """Return a worker's message as JSON text."""
    match message:
        case EpochReport():
            return json.dumps({"epoch": asdict(message)})
        case RungReport():
            return json.dumps({"rung": asdict(message)})
        case JobEnded():
            return json.dumps({"ended": asdict(message)})


def decode_message(text: str) -> Message:
    """Return the message that `encode_message` wrote."""
    ((kind, fields),) = json.loads(text).items()
    if kind == "epoch":
        return EpochReport(**fields)
    if kind == "rung":
        return RungReport(fields["rung"], tuple(fields["curve"]), fields["sizes"], _epoch(fields["epoch"]))
    return JobEnded(JobOutcome(fields["outcome"]), fields["reason"])


def _epoch(fields: dict[str, Any] | None) -> EpochReport | None:
    return None if fields is None else EpochReport(**fields)
