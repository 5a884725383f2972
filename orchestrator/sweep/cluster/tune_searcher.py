"""The dispatcher behind Ray Tune's interfaces: a searcher that suggests jobs, a callback that passes events on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from orchestrator.spec.failures import JobOutcome
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.driver.interrupts import StoreUnavailable
from orchestrator.sweep.driver.messages import (
    JobEnded,
    JobRequest,
    Message,
    WorkerDied,
    decode_message,
    encode_message,
    encode_request,
)

_REQUEST, _MESSAGE = "request", "message"


def tune_config(request: JobRequest) -> dict[str, str]:
    """Return a request as the configuration of a Tune trial."""
    return {_REQUEST: encode_request(request)}


def tune_result(message: Message) -> dict[str, Any]:
    """Return a worker's message as a result of its Tune trial; the last one ends the trial."""
    result: dict[str, Any] = {_MESSAGE: encode_message(message)}
    # A worker that lost its device has to end with an error, so that Tune does not use it again.
    if isinstance(message, JobEnded) and message.outcome is not JobOutcome.DEVICE_LOST:
        result["done"] = True
    return result


class TuneSearcher(Searcher):
    """The dispatcher as Tune's searcher: a suggestion is a job, None means wait."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self.dispatcher = dispatcher
        self.requests: dict[str, JobRequest] = {}
        """Jobs that are handed out, by Tune's id of the trial."""

    def suggest(self, trial_id: str) -> Any:
        request = self.dispatcher.next_job()
        if request is not None:
            self.requests[trial_id] = request
            return tune_config(request)
        over = self.dispatcher.backing_off or self.dispatcher.exhausted
        # Tune would take an exception raised here for the trial's: where the dispatcher has stopped, the callback ends
        # the run.
        stopped = self.dispatcher.store_problem is not None or self.dispatcher.error is not None
        return Searcher.FINISHED if over and not stopped else None

    def on_report(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on a message of a worker; the last one comes with the end of the Tune trial."""
        request = self.requests.get(trial_id)
        if request is None or _MESSAGE not in result or result.get("done"):
            return
        message = decode_message(result[_MESSAGE])
        if isinstance(message, JobEnded):
            self.dispatcher.on_ended(request, message)
        else:
            self.dispatcher.on_report(request, message)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        request = self.requests.pop(trial_id, None)
        if request is None:
            return
        message = decode_message(result[_MESSAGE]) if result is not None and _MESSAGE in result else None
        self.dispatcher.on_ended(request, message if isinstance(message, JobEnded) and not error else WorkerDied())

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune saves its searcher for a restore that is never done, as the records are the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the records are the state."""


class LifoScheduler(FIFOScheduler):
    """Gives a free worker the job that was handed out last.

    Tune asks for a worker for each job that waits, and throws that worker away, started or starting, when the job goes
    to one that is free sooner. The first jobs in line are those whose workers start, which takes seconds: were they
    taken, short jobs would all run one after another on the worker that came first.
    """

    def __init__(self, searcher: TuneSearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        live = tune_controller.get_live_trials()
        waiting = {trial.trial_id: trial for trial in live if trial.status == Trial.PENDING}
        return next((waiting[trial_id] for trial_id in reversed(self._searcher.requests) if trial_id in waiting), None)


class TuneEvents(tune.Callback):
    """Passes Tune's events on to the dispatcher; stops Tune where the sweep cannot go on."""

    def __init__(self, searcher: TuneSearcher, check: Callable[[], None]) -> None:
        self._searcher, self._check = searcher, check

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, as for the searcher."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        request = self._searcher.requests.get(trial.trial_id)
        if request is not None:
            self._searcher.dispatcher.on_started(request)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._searcher.on_report(trial.trial_id, result)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        dispatcher = self._searcher.dispatcher
        if dispatcher.error is not None:
            raise dispatcher.error
        if dispatcher.store_problem is not None:
            raise StoreUnavailable(dispatcher.store_problem)
        dispatcher.events.tick()
        self._check()
