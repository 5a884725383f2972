"""What Ray Tune asks and tells: the job queue as its searcher, its events as the runner's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from orchestrator.records.records import read_result, write_result
from orchestrator.spec.errors import PrunesweepError, out_of_space
from orchestrator.spec.result import TrialResult
from orchestrator.storage.bucket import PATIENCE
from orchestrator.storage.store import Store
from orchestrator.storage.uri import store_folder
from orchestrator.sweep.driver.jobs import LATENCY, Events, Job, JobQueue, jobs_of, measuring_job
from orchestrator.sweep.driver.suggestions import Suggestions
from orchestrator.sweep.stopping.policy import Progress, StoppingPolicy
from orchestrator.sweep.worker.work import verdict_path

_WAIT_SECONDS = 5.0
"""How long the driver waits for a suggestion when nothing else is left to do; Tune would look again after a second."""


class StoreFull(PrunesweepError):
    """There is no space left to write to; nothing that was under way is recorded."""


def sweep_folder(workspace: Mapping[str, Any]) -> Path:
    """The sweep's folder on this machine, from what workers are told of their place."""
    return store_folder(str(workspace["out"])) / str(workspace["sweep"])


class Feed(Searcher):
    """The job queue as Tune's searcher: a suggestion is a job, None means wait."""

    def __init__(
        self,
        queue: JobQueue,
        workspace: Mapping[str, Any],
        events: Events,
        suggestions: Suggestions | None,
        stage_is_there: Callable[[str, str], bool],
        policy: StoppingPolicy | None,
    ) -> None:
        super().__init__()
        self.queue = queue
        self.events = events
        self.given: dict[str, Job] = {}
        self._workspace = dict(workspace)
        self._store = Store.open(str(workspace["out"]), patience=PATIENCE)
        self._suggestions, self._stage_is_there, self._policy = suggestions, stage_is_there, policy
        self.full: str | None = None
        """What a worker or the driver met when it could no longer write. Tune would take an exception raised here for
        the trial's; the listener ends the run."""
        self.crowded = False
        """A job ran out of memory that it would have had with fewer beside it: no other is given out."""

    def suggest(self, trial_id: str) -> Any:
        if self.full is not None:
            return None
        try:
            return self._next(trial_id)
        except OSError as problem:
            self._fill(problem)
            return None

    def _next(self, trial_id: str) -> Any:
        if self.crowded:
            return Searcher.FINISHED
        job = self.queue.take()
        if job is None and self._suggestions is not None:
            job = self._suggested(self._suggestions)
        if job is None:
            over = self._suggestions is None or self._suggestions.finished
            return Searcher.FINISHED if self.queue.exhausted and over else None
        self.given[trial_id] = job
        described = {
            "kind": job.kind,
            "arm": job.arm,
            "point": dict(job.point),
            "spec": job.spec.model_dump(mode="json"),
            "rungs": self._policy.rungs if self._policy is not None and job.kind == "trial" else (),
        }
        # As text: Tune flattens and compares every value of a configuration at every report.
        return {"job": json.dumps(described), "workspace": json.dumps(self._workspace)}

    def _suggested(self, suggestions: Suggestions) -> Job | None:
        while (trial := suggestions.take(_WAIT_SECONDS if self.queue.exhausted else 0.0)) is not None:
            for lost, reason in self.queue.add(jobs_of(trial, self._stage_is_there)):
                self._ended(lost, reason)
            job = self.queue.take()
            if job is not None:
                return job
        return None

    def judge(self, job: Job, told: Mapping[str, Any]) -> None:
        """A trial waits at a rung: it finds the verdict, if it is to end, when this has returned."""
        assert self._policy is not None
        progress = Progress(job.key, told["rung"], told["curve"], told["sizes"])
        reason = self._policy.decide(progress)
        if reason is not None:
            self._store.write_marker(verdict_path(self._folder(job), progress.rung), f"{self._policy.name}: {reason}")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self.given.pop(trial_id, None)
        if job is None or self.full is not None:
            return
        if result is not None and result.get("full"):
            self.full = str(result["error"])
            return
        try:
            self._completed(job, result, error)
        except OSError as problem:
            self._fill(problem)

    def _fill(self, problem: OSError) -> None:
        if not out_of_space(problem):
            raise problem
        self.full = str(problem)

    def _completed(self, job: Job, result: dict[str, Any] | None, error: bool) -> None:
        if result is not None and result.get("back"):
            self.crowded = True
            # What was given out and has not begun comes back at once.
            self._store.write_marker(store_folder(str(self._workspace["retreat"])), "")
            self.queue.back(job)
            self.events.returned(job)
            return
        if error and not self._recorded(job) and self.queue.again(job):
            return
        reason = "the worker died" if error else (result or {}).get("error")
        if job.kind == "trial":
            self.queue.finished(job.key)
            self._ended(job, reason)
            return
        if job.kind == LATENCY:
            self.queue.finished(job.key)
            self._measured(job, reason)
            return
        self.events.stage_ended(job, reason)
        if reason is None:
            self.queue.finished(job.key)
            return
        told = f"{job.kind} failed: {reason}"
        for lost in self.queue.failed(job.key, told):
            self._ended(lost, told)

    def _ended(self, job: Job, reason: str | None) -> None:
        result = self._record(job, reason)
        self.events.trial_ended(job, result)
        if self._suggestions is not None and not self._suggestions.ended(result):
            self.queue.add([measuring_job(job)])

    def _measured(self, job: Job, reason: str | None) -> None:
        self._here(job, "latency.json")
        self.events.measured(job, reason)
        if self._suggestions is None:
            return
        result = read_result(self._folder(job) / "result.json")
        if not self._suggestions.ended(result):
            self._suggestions.lost(result.trial_id)

    def _recorded(self, job: Job) -> bool:
        return job.kind == "trial" and self._here(job, "result.json").exists()

    def _here(self, job: Job, name: str) -> Path:
        """A file of a trial, which a worker on another machine may have written."""
        path = self._folder(job) / name
        if not path.exists():
            self._store.refresh(path.parent)
        return path

    def _folder(self, job: Job) -> Path:
        return sweep_folder(self._workspace) / "trials" / job.spec.trial_id

    def _record(self, job: Job, reason: str | None) -> TrialResult:
        """The worker's own record; where it could write none, one that says why."""
        path = self._here(job, "result.json")
        if not path.exists():
            status: Any = "diverged" if reason and "Diverged" in reason else "failed"
            lost = TrialResult(
                trial_id=job.key, spec=job.spec, arm=job.arm, point=dict(job.point), status=status,
                error=reason or "no record was written",
            )  # fmt: skip
            write_result(self._store, path.parent, lost)
        return read_result(path)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves itself for a restore that is never used here, because the records are the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""


class LifoScheduler(FIFOScheduler):
    """Gives a worker that is free the job that was given out last.

    Tune asks for a worker for each job that waits, and throws that worker away, started or starting, when the job goes
    to one that is free sooner. The first jobs in line are those whose workers start, which takes seconds: were they
    taken, short jobs would all run one after another on the worker that came first.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._feed = feed

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        live = tune_controller.get_live_trials()
        waiting = {trial.trial_id: trial for trial in live if trial.status == Trial.PENDING}
        return next((waiting[trial_id] for trial_id in reversed(self._feed.given) if trial_id in waiting), None)


class Listener(tune.Callback):
    """Passes Tune's events on to the runner's."""

    def __init__(self, feed: Feed, check: Callable[[], None]) -> None:
        self._feed, self._check = feed, check

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the feed."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = self._feed.given.get(trial.trial_id)
        if job is not None:
            self._feed.events.started(job)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        job = self._feed.given.get(trial.trial_id)
        if job is None or result.get("done"):
            return
        if "rung" in result:
            self._feed.judge(job, result)
        if "stage" in result:
            self._feed.events.epoch(job, result)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._feed.full is not None:
            raise StoreFull(self._feed.full)
        self._feed.events.tick()
        self._check()
