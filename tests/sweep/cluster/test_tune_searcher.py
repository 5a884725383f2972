"""Which waiting job a free worker gets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

from ray.tune.experiment import Trial

from orchestrator.sweep.cluster.tune_searcher import LifoScheduler


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
