"""Messages arrive as they were sent."""

import math

import pytest
from dispatch import CONTEXT, planned

from orchestrator.spec.failures import JobOutcome
from orchestrator.sweep.driver.jobs import remaining_jobs
from orchestrator.sweep.driver.messages import (
    EpochReport,
    JobEnded,
    JobRequest,
    Message,
    RungReport,
    decode_message,
    decode_request,
    encode_message,
    encode_request,
)


def test_a_request_arrives_whole_but_for_its_needs() -> None:
    for job in remaining_jobs(planned(), set(), lambda name, key: False):
        received = decode_request(encode_request(JobRequest(job, CONTEXT, (0.25, 0.5), attempt=2)))
        assert (received.context, received.rungs, received.attempt) == (CONTEXT, (0.25, 0.5), 2)
        assert (received.job.key, received.job.kind, received.job.arm) == (job.key, job.kind, job.arm)
        assert (received.job.spec, received.job.point) == (job.spec, job.point)
        assert received.job.spec.trial_id == job.spec.trial_id


@pytest.mark.parametrize(
    "message",
    [
        EpochReport("retrain", 3, 8, 0.5),
        RungReport(1, (0.1, 0.2), {"macs": 10.0}, EpochReport("retrain", 1, 8, 0.2)),
        RungReport(0, (), {"macs": 10.0}),
        *(JobEnded(outcome, None if outcome is JobOutcome.DONE else "why") for outcome in JobOutcome),
    ],
)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_an_accuracy_that_is_no_number_arrives() -> None:
    received = decode_message(encode_message(EpochReport("retrain", 0, 1, math.nan)))
    assert isinstance(received, EpochReport)
    assert math.isnan(received.val_accuracy)
