"""How jobs and messages look to Tune, and which waiting job a free worker gets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import JobOutcome
from orchestrator.sweep.cluster.tune_searcher import LifoScheduler, TuneEvents, TuneSearcher, tune_result
from orchestrator.sweep.driver.messages import EpochReport, JobEnded, WorkerDied


class Waiting(NamedTuple):
    """What is looked at of a Tune trial."""

    trial_id: str
    status: str


def chosen(given: list[str], states: dict[str, str]) -> str | None:
    """The job that is chosen, from the order in which jobs were given out and Tune's states of those that live."""
    live: Any = {Waiting(name, state) for name, state in states.items()}
    searcher: Any = SimpleNamespace(requests=dict.fromkeys(given))
    controller: Any = SimpleNamespace(get_live_trials=lambda: live)
    trial: Any = LifoScheduler(searcher).choose_trial_to_run(controller)
    return None if trial is None else str(trial.trial_id)


def test_the_job_given_out_last_goes_first_so_that_starting_workers_keep_theirs() -> None:
    waiting = {"a": Trial.RUNNING, "b": Trial.PENDING, "d": Trial.PENDING, "c": Trial.PENDING}
    assert chosen(["a", "b", "c", "d"], waiting) == "d"
    assert chosen(["a", "b", "c", "d"], waiting | {"d": Trial.RUNNING}) == "c"
    assert chosen(["a", "b"], {"a": Trial.RUNNING, "b": Trial.PENDING}) == "b"


def test_nothing_is_chosen_where_nothing_waits() -> None:
    assert chosen(["a"], {"a": Trial.RUNNING}) is None
    assert chosen([], {}) is None


class Recorder:
    """Stands for the dispatcher; keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.ends: list[Any] = []

    def on_report(self, request: Any, report: Any) -> None:
        self.reports.append(report)

    def on_ended(self, request: Any, end: Any) -> None:
        self.ends.append(end)


def searcher_with(trial_id: str) -> tuple[TuneSearcher, Recorder]:
    recorder: Any = Recorder()
    searcher = TuneSearcher(recorder)
    request: Any = SimpleNamespace(job=None)
    searcher.requests[trial_id] = request
    return searcher, recorder


def test_the_last_message_comes_once_with_the_end_of_the_tune_trial() -> None:
    searcher, recorder = searcher_with("a")
    report, end = EpochReport("retrain", 0, 2, 0.5), JobEnded(JobOutcome.FAILED, "no")
    searcher.on_report("a", tune_result(report))
    result = tune_result(end)
    assert result["done"]
    searcher.on_report("a", result)
    searcher.on_trial_complete("a", result)
    searcher.on_trial_complete("a", result)
    assert (recorder.reports, recorder.ends) == ([report], [end])


def test_a_worker_that_ends_without_a_last_message_has_died() -> None:
    searcher, recorder = searcher_with("a")
    searcher.on_trial_complete("a", error=True)
    assert recorder.ends == [WorkerDied()]


def test_a_worker_that_lost_its_device_says_so_and_then_ends_with_an_error() -> None:
    """Tune uses a worker again whose trial ended well."""
    searcher, recorder = searcher_with("a")
    end = JobEnded(JobOutcome.DEVICE_LOST, "CUDA error")
    assert "done" not in tune_result(end)
    searcher.on_report("a", tune_result(end))
    assert recorder.ends == [end]


def test_an_error_of_the_dispatcher_is_raised_between_two_events_and_finishes_nothing_before() -> None:
    error = SpecError("stopper.name", "cannot judge")
    dispatcher: Any = SimpleNamespace(
        error=error, store_problem=None, backing_off=False, exhausted=True, next_job=lambda: None
    )
    searcher = TuneSearcher(dispatcher)
    assert searcher.suggest("a") is None
    with pytest.raises(SpecError) as raised:
        TuneEvents(searcher, lambda: None).on_step_end(0, [])
    assert raised.value is error
    dispatcher.error = None
    assert searcher.suggest("a") == Searcher.FINISHED
