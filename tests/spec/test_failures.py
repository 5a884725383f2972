"""Exceptions and the kinds of failure that they stand for."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import torch

from orchestrator.spec.failures import Diverged, JobOutcome, StoreAway, classify


class AcceleratorError(RuntimeError):
    """As PyTorch raises for errors of CUDA."""


def caused(by: Exception) -> Exception:
    problem = ValueError("no scores")
    problem.__cause__ = by
    return problem


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [
        (ValueError("Diverged: OutOfMemory: No such thing"), JobOutcome.FAILED),
        (Diverged("the loss is nan"), JobOutcome.DIVERGED),
        (torch.OutOfMemoryError("CUDA out of memory."), JobOutcome.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), JobOutcome.OUT_OF_MEMORY),
        (caused(torch.OutOfMemoryError("CUDA out of memory.")), JobOutcome.OUT_OF_MEMORY),
        (AcceleratorError("CUDA error: an illegal memory access was encountered"), JobOutcome.DEVICE_LOST),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), JobOutcome.DEVICE_LOST),
        (caused(RuntimeError("CUDA error: unspecified launch failure")), JobOutcome.DEVICE_LOST),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), JobOutcome.FAILED),
        (OSError(errno.ENOSPC, "No space left on device"), JobOutcome.STORE_UNAVAILABLE),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), JobOutcome.STORE_UNAVAILABLE),
        (RuntimeError("I/O error: No space left on device (os error 28)"), JobOutcome.STORE_UNAVAILABLE),
        (caused(StoreAway("s3://bucket: away")), JobOutcome.STORE_UNAVAILABLE),
        (PermissionError("not yours"), JobOutcome.FAILED),
    ],
)
def test_the_kind_of_a_failure_is_read_from_the_exception(problem: Any, outcome: JobOutcome) -> None:
    failure = classify(problem)
    assert failure.outcome is outcome
    assert failure.exception is problem
    assert "\n" not in failure.reason
