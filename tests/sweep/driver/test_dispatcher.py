"""What the dispatcher decides when jobs end, fail, run out of memory or report late and twice."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dispatch import Bench, planned, record_of

from orchestrator.spec.failures import JobOutcome
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import Resources
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.allocation import shared
from orchestrator.sweep.driver.messages import EpochReport, JobEnded, JobRequest, RungReport, WorkerDied
from orchestrator.sweep.driver.record_store import SweepRecordStore
from orchestrator.sweep.space.arms import PlannedTrial
from orchestrator.sweep.stopping.policy import StoppingPolicy

FOUR_A_GPU = shared(Resources(cpus=4, gpus=1), 4, "as the test says")


def test_every_trial_of_a_plan_ends_with_one_record() -> None:
    bench = Bench()
    keys = bench.drain()
    assert len(keys) == len(set(keys)) == 2 + 4
    assert len(bench.store.records) == len(bench.log.named("trial_ended")) == 4
    assert bench.dispatcher.next_job() is None


def test_late_and_doubled_messages_change_nothing() -> None:
    bench = Bench()
    for kind in ("baseline", "baseline"):
        bench.finish(bench.start(kind))
    trial = bench.start("trial")
    bench.finish(trial)
    events = list(bench.log.events)
    bench.dispatcher.on_ended(trial, JobEnded(JobOutcome.DONE))
    bench.dispatcher.on_ended(trial, JobEnded(JobOutcome.FAILED, "late"))
    bench.dispatcher.on_ended(trial, WorkerDied())
    bench.dispatcher.on_report(trial, EpochReport("retrain", 0, 4, 0.5))
    bench.dispatcher.on_started(trial)
    assert bench.log.events == events
    assert trial.job.key not in bench.drain()


def test_messages_of_an_earlier_attempt_do_not_end_the_present_one() -> None:
    bench = Bench()
    first = bench.start("baseline")
    bench.dispatcher.on_ended(first, WorkerDied())
    second = bench.start("baseline")
    assert (second.job, second.attempt) == (first.job, 1)
    bench.dispatcher.on_ended(first, WorkerDied())
    bench.dispatcher.on_ended(first, JobEnded(JobOutcome.FAILED, "late"))
    assert bench.dispatcher.n_running == 1
    bench.finish(second)
    assert bench.log.named("stage_ended") == [(first.job.key, None)]


@pytest.mark.parametrize("end", [WorkerDied(), JobEnded(JobOutcome.DEVICE_LOST, "AcceleratorError: CUDA error")])
def test_a_worker_that_dies_three_times_over_a_trial_fails_it(end: Any) -> None:
    bench = Bench()
    for _ in range(2):
        bench.finish(bench.start("baseline"))
    first = bench.start("trial")
    bench.dispatcher.on_ended(first, end)
    for _ in range(2):
        again = bench.start("trial")
        assert again.job == first.job
        bench.dispatcher.on_ended(again, end)
    assert bench.log.named("trial_ended") == [(first.job.key, "failed", end.reason)]
    assert len(bench.drain()) == 3


def test_a_worker_that_dies_after_the_record_was_written_is_done() -> None:
    bench = Bench()
    for _ in range(2):
        bench.finish(bench.start("baseline"))
    trial = bench.start("trial")
    bench.store.write_record(record_of(trial.job))
    bench.dispatcher.on_ended(trial, WorkerDied())
    assert bench.log.named("trial_ended") == [(trial.job.key, "done", None)]
    assert trial.job.key not in bench.drain()


def test_a_trial_that_somebody_else_recorded_is_not_run() -> None:
    """A worker of an earlier driver may still write records: before a job is handed out, or before it begins."""
    this = planned()
    bench = Bench(this)
    for _ in range(2):
        bench.finish(bench.start("baseline"))
    first, waiting = bench.start("trial"), this.trials[-1]
    (job,) = (job for job in bench.dispatcher._queue._waiting.values() if job.key == waiting.trial_id)
    bench.store.write_record(record_of(job))
    bench.store.write_record(record_of(first.job))
    bench.dispatcher.on_ended(first, JobEnded(JobOutcome.ALREADY_RECORDED))
    assert waiting.trial_id not in bench.drain()
    assert bench.log.named("already_recorded") == [(first.job.key,), (waiting.trial_id,)]
    assert len(bench.log.named("trial_ended")) == 2


@pytest.mark.parametrize(("outcome", "status"), [(JobOutcome.FAILED, "failed"), (JobOutcome.DIVERGED, "diverged")])
def test_trials_of_a_failed_stage_get_its_kind_of_failure(outcome: JobOutcome, status: str) -> None:
    """The kind is a value: a reason that speaks of divergence says nothing."""
    bench = Bench()
    baseline = bench.start("baseline")
    bench.finish(baseline, outcome, "ValueError: not Diverged at all")
    reason = "baseline failed: ValueError: not Diverged at all"
    assert {event[1:] for event in bench.log.named("trial_ended")} == {(status, reason)}
    lost = {record.spec.seed for record in bench.store.records.values()}
    assert (lost, len(bench.store.records)) == ({baseline.job.spec.seed}, 2)
    assert len(bench.drain()) == 1 + 2


def test_a_worker_that_wrote_no_record_has_failed_its_trial() -> None:
    bench = Bench()
    for _ in range(2):
        bench.finish(bench.start("baseline"))
    trial = bench.start("trial")
    bench.dispatcher.on_ended(trial, JobEnded(JobOutcome.DONE))
    assert bench.log.named("trial_ended") == [(trial.job.key, "failed", "no record was written")]


def test_out_of_memory_halves_the_allocation_and_loses_no_job() -> None:
    bench = Bench(allocation=FOUR_A_GPU)
    first, second = bench.start("baseline"), bench.start("baseline")
    marker = first.context.backoff_marker
    assert marker is not None
    bench.finish(first, JobOutcome.OUT_OF_MEMORY, "OutOfMemory: 2 GiB")
    assert bench.dispatcher.backing_off
    assert bench.store.backoff_markers == {marker}
    assert bench.dispatcher.next_job() is None
    assert not bench.dispatcher.exhausted
    bench.finish(second, JobOutcome.REQUEUED)
    assert bench.dispatcher.resume_with_fewer().per_gpu == 2
    assert bench.store.backoff_markers == set()
    again = bench.start("baseline")
    assert again.context.cpus == 2
    assert again.context.backoff_marker not in (None, marker)
    bench.finish(again)
    assert len(bench.drain()) == 1 + 4
    assert bench.log.named("reallocated") == [(2,)]
    assert {key for key, error in bench.log.named("stage_ended") if error is None} == {first.job.key, second.job.key}


def test_out_of_memory_alone_on_the_gpu_is_a_failure() -> None:
    bench = Bench(allocation=FOUR_A_GPU.halved().halved())
    baseline = bench.start("baseline")
    assert baseline.context.backoff_marker is None
    bench.finish(baseline, JobOutcome.OUT_OF_MEMORY, "OutOfMemory: 2 GiB; a smaller model needs less")
    assert not bench.dispatcher.backing_off
    assert bench.log.named("trial_ended")[0][1:] == (
        "failed",
        "baseline failed: OutOfMemory: 2 GiB; a smaller model needs less",
    )


def test_a_store_that_a_worker_cannot_write_stops_everything() -> None:
    bench = Bench()
    first, second = bench.start(), bench.start()
    bench.finish(first, JobOutcome.STORE_UNAVAILABLE, "OSError: No space left on device")
    bench.finish(second)
    assert bench.dispatcher.store_problem == "OSError: No space left on device"
    assert bench.dispatcher.next_job() is None
    assert bench.log.named("stage_ended") == []


def test_a_store_that_the_driver_cannot_write_stops_everything_and_other_errors_are_raised() -> None:
    bench = Bench()
    baseline = bench.start("baseline")
    bench.store.problem = OSError(errno.ENOSPC, "No space left on device")
    bench.finish(baseline, JobOutcome.FAILED, "ValueError: no")
    assert bench.dispatcher.store_problem is not None
    assert bench.store.records == {}
    bench = Bench()
    baseline = bench.start("baseline")
    bench.store.problem = PermissionError("not yours")
    with pytest.raises(PermissionError):
        bench.finish(baseline, JobOutcome.FAILED, "ValueError: no")


def test_a_verdict_is_written_once_for_the_attempt_that_waits_for_it() -> None:
    this = planned(stopper={"name": "asha", "rungs": 1, "keep": 0.5})
    bench = Bench(this, policy=StoppingPolicy(this.space))
    for _ in range(2):
        bench.finish(bench.start("baseline"))
    strong, weak = bench.start("trial"), bench.start("trial")
    assert strong.rungs == (0.5,)

    def at_rung(request: JobRequest, accuracy: float) -> None:
        report = RungReport(0, (0.1, accuracy), {"macs": 10.0}, EpochReport("retrain", 1, 4, accuracy))
        bench.dispatcher.on_report(request, report)

    at_rung(strong, 0.9)
    assert bench.store.verdicts == {}
    at_rung(weak, 0.2)
    assert bench.store.verdicts.pop((weak.job.key, 0)).startswith("asha: 1 of 2 trials are ahead")
    at_rung(weak, 0.2)
    assert bench.store.verdicts == {}
    bench.finish(weak)
    at_rung(weak, 0.2)
    assert bench.store.verdicts == {}
    assert [event for event in bench.log.named("epoch") if event[0] == weak.job.key] == [(weak.job.key, 1)] * 2


def test_a_stopper_that_raises_stops_everything_and_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    this = planned(stopper={"name": "asha", "rungs": 1})
    policy = StoppingPolicy(this.space)
    monkeypatch.setattr(policy, "decide", lambda progress: 1 / 0)
    bench = Bench(this, policy=policy)
    for _ in range(2):
        bench.finish(bench.start("baseline"))
    trial = bench.start("trial")
    bench.dispatcher.on_report(trial, RungReport(0, (0.1, 0.5), {}, None))
    reason = f"stopper.name: 'asha' cannot judge trial {trial.job.key} at rung 0: ZeroDivisionError: division by zero"
    assert str(bench.dispatcher.error) == reason
    bench.finish(trial, JobOutcome.FAILED, "no")
    assert bench.dispatcher.next_job() is None
    assert not bench.store.records


class OneSuggestion:
    """A search that suggests one trial, whose latency it must be told."""

    def __init__(self, trial: PlannedTrial) -> None:
        self.trial: PlannedTrial | None = trial
        self.measured = False
        self.observed: list[str] = []
        self.failed: list[str] = []

    @property
    def finished(self) -> bool:
        return self.trial is None

    def take(self, wait: float = 0.0) -> PlannedTrial | None:
        trial, self.trial = self.trial, None
        return trial

    def ended(self, result: TrialResult) -> bool:
        if self.measured:
            self.observed.append(result.trial_id)
        return self.measured

    def lost(self, trial_id: str) -> None:
        self.failed.append(trial_id)


@pytest.mark.parametrize("measures", [True, False])
def test_a_search_that_wants_latencies_is_told_after_they_are_measured(measures: bool) -> None:
    this = planned()
    trial = this.trials[0]
    suggestions = OneSuggestion(trial)
    bench = Bench(replace(this, trials=()), suggestions=suggestions)
    bench.finish(bench.start("baseline"))
    bench.finish(bench.start("trial"))
    assert suggestions.observed == []
    suggestions.measured = measures
    latency = bench.start("latency")
    bench.finish(latency, *(() if measures else (JobOutcome.FAILED, "no device")))
    assert (suggestions.observed, suggestions.failed) == (
        ([trial.trial_id], []) if measures else ([], [trial.trial_id])
    )
    assert bench.log.named("measured") == [(latency.job.key, None if measures else "no device")]
    assert bench.dispatcher.exhausted


class Unreachable:
    """A bucket of which every request would block the driver."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"request to the bucket: {name}")


def test_handing_out_a_job_sends_no_request_to_the_bucket(tmp_path: Path) -> None:
    bucket: Any = Unreachable()
    records = SweepRecordStore(Workspace(Store(tmp_path, bucket), "small"), frozenset())
    assert not records.has_local_record("0123456789ab")
    with pytest.raises(AssertionError, match="request to the bucket"):
        records.has_record("0123456789ab")
