"""How a job can end, and the one place where an exception is classified."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.redacting import redacted

_MEMORY_WORDS = re.compile(
    r"CUDA(?: driver)? (?:error: )?out of memory|CU(?:BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED"
)


class Diverged(PrunesweepError, RuntimeError):
    """The loss is infinite or NaN."""


class StoreAway(PrunesweepError, OSError):
    """A bucket cannot be reached or used; the message names it and says why."""


class JobOutcome(StrEnum):
    """How a job ended."""

    DONE = "done"
    """A trial has its record (also one that was stopped early), a stage its output, a network its latency."""
    FAILED = "failed"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    """A GPU's memory did not suffice."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The store cannot be written; nothing is recorded, and no other job can end well either."""
    DEVICE_LOST = "device_lost"
    """The process can no longer use its GPU; another process may."""
    REQUEUED = "requeued"
    """The job was not begun: jobs wait until fewer of them share a GPU."""
    ALREADY_RECORDED = "already_recorded"
    """The job was not begun: the trial has a record, e.g. by a worker of an earlier driver."""


@dataclass(frozen=True)
class Failure:
    """Why a job failed."""

    outcome: JobOutcome
    reason: str
    """One line for the record."""
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    """What was raised, in the process that caught it; never sent to another."""


def classify(problem: BaseException) -> Failure:
    """Return the kind of failure that an exception stands for, and the line that the record says."""
    if isinstance(problem, Diverged):
        outcome = JobOutcome.DIVERGED
    elif store_unavailable(problem):
        outcome = JobOutcome.STORE_UNAVAILABLE
    elif out_of_memory(problem):
        outcome = JobOutcome.OUT_OF_MEMORY
    elif device_lost(problem):
        outcome = JobOutcome.DEVICE_LOST
    else:
        outcome = JobOutcome.FAILED
    return Failure(outcome, reason_of(problem), problem)


def reason_of(problem: BaseException) -> str:
    """Return one line that says what went wrong, without secrets of URIs."""
    text = redacted(str(problem)).strip().splitlines()
    if out_of_memory(problem):
        # PyTorch goes on for a page about its allocator.
        return f"OutOfMemory: {'. '.join(text[0].split('. ')[:2]) if text else type(problem).__name__}"
    return f"{type(problem).__name__}: {text[0]}" if text else type(problem).__name__


def store_unavailable(problem: BaseException | None) -> bool:
    """Return whether the store cannot be written: its disk or quota is full, or its bucket is out of reach."""
    return any(
        (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        or isinstance(cause, StoreAway)
        or "No space left on device" in str(cause)
        for cause in _chain(problem)
    )


def out_of_memory(problem: BaseException | None) -> bool:
    """Return whether a GPU's memory did not suffice: `torch.OutOfMemoryError`, or a RuntimeError with CUDA's words."""
    return any(
        _is_named(cause, "OutOfMemoryError") or (isinstance(cause, RuntimeError) and _MEMORY_WORDS.search(str(cause)))
        for cause in _chain(problem)
    )


def device_lost(problem: BaseException | None) -> bool:
    """Return whether CUDA reported an error other than a lack of memory: this process cannot use the GPU any more."""
    return not out_of_memory(problem) and any(
        _is_named(cause, "AcceleratorError")
        or (isinstance(cause, RuntimeError) and str(cause).startswith(("CUDA error:", "CUDA driver error:")))
        for cause in _chain(problem)
    )


def _chain(problem: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised from."""
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


def _is_named(problem: BaseException, name: str) -> bool:
    # By name: this package is imported where torch is not.
    return any(base.__name__ == name for base in type(problem).__mro__)
