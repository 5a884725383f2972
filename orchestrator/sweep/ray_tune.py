"""Jobs on Ray Tune: warm workers of one shape, fed by a queue, reporting every epoch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before Ray is imported: it reads these once. Tune's default loggers and its snapshots of the experiment cost more than
# a short trial and are of no use here, where records are the truth; the interrupt is ours to handle.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.search import Searcher

from orchestrator.spec.errors import out_of_space
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import Resources
from orchestrator.store.records import read_result, write_result
from orchestrator.sweep.adaptive import Suggestions
from orchestrator.sweep.jobs import LATENCY, Events, Job, JobQueue, jobs_of, measuring_job
from orchestrator.sweep.stoppers import Progress, Referee
from orchestrator.sweep.worker import verdict_path

_WAIT_SECONDS = 5.0
"""How long the driver waits for a suggestion when nothing else is left to do; Tune would look again after a second."""


class Interrupted(Exception):
    """A person or a scheduler asked the driver to stop."""


class StoreFull(Exception):
    """There is no space left to write to; nothing that was under way is recorded."""


@contextmanager
def cluster(address: str, cpus: float) -> Iterator[None]:
    """A Ray cluster: our own on this machine (``local``), or one that runs already (``auto``, ``host:port``).

    Only a cluster started here is stopped here.
    """
    environment = {"PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    ours = not ray.is_initialized()
    if ours and address == "local":
        os.environ["PYTHONPATH"] = environment["PYTHONPATH"]
        ray.init(
            address="local", include_dashboard=False, num_cpus=max(os.cpu_count() or 1, int(cpus + 0.999)), **common
        )
    elif ours:
        ray.init(address=address, runtime_env={"env_vars": environment}, **common)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def slots(resources: Resources) -> int:
    """How many trials the cluster holds at once."""
    total = ray.cluster_resources()
    by_cpu = int(total.get("CPU", 0) // resources.cpus)
    if resources.gpus == 0:
        return max(1, by_cpu)
    per_gpu = int(1 // resources.gpus) if resources.gpus <= 1 else 1 / resources.gpus
    return max(1, min(by_cpu, int(total.get("GPU", 0) * per_gpu)))


def run_jobs(
    jobs: Sequence[Job],
    workspace: Mapping[str, Any],
    resources: Resources,
    events: Events,
    check: Callable[[], None],
    *,
    suggestions: Suggestions | None = None,
    stage_is_there: Callable[[str, str], bool] = lambda name, key: False,
    referee: Referee | None = None,
) -> None:
    """Run every job, and the trials that a search suggests meanwhile; returns when all have ended.

    What `check` raises, between two events, stops it. `stage_is_there` says which shared stages of a suggested trial
    need no job. The `referee` hears the trials at its rungs and ends the weak ones.
    """
    feed = _Feed(jobs, workspace, events, suggestions, stage_is_there, referee)
    shape: dict[str, float] = {"cpu": resources.cpus}
    if resources.gpus:
        shape["gpu"] = resources.gpus
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(4 * slots(resources))
    scratch = tempfile.mkdtemp(prefix="prunesweep-tune-")
    tuner = tune.Tuner(
        tune.with_resources(_work, shape),
        tune_config=tune.TuneConfig(search_alg=feed, num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=scratch,
            name="jobs",
            verbose=0,
            callbacks=[_Listener(feed, check)],
            # A job whose worker died goes back to the queue: Tune itself retries only what it saw running, and gives
            # up on a job whose warm worker died between two.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yields a check that raises :class:`Interrupted` once SIGINT or SIGTERM has arrived; a second one stops at once.

    The handler itself raises nothing the first time: inside Ray's compiled code an exception would come out as another.
    """
    arrived = False

    def stop(number: int, frame: object) -> None:
        nonlocal arrived
        if arrived:
            raise KeyboardInterrupt
        arrived = True

    def check() -> None:
        if arrived:
            raise Interrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(config: dict[str, Any]) -> None:
    from orchestrator.sweep.worker import work

    device = "cuda" if ray.get_gpu_ids() else "cpu"
    work(json.loads(config["job"]), json.loads(config["workspace"]), tune.report, device)


class _Feed(Searcher):
    """The job queue as Tune's searcher: a suggestion is a job, None means wait."""

    def __init__(
        self,
        jobs: Sequence[Job],
        workspace: Mapping[str, Any],
        events: Events,
        suggestions: Suggestions | None,
        stage_is_there: Callable[[str, str], bool],
        referee: Referee | None,
    ) -> None:
        super().__init__()
        self.queue = JobQueue(jobs)
        self.events = events
        self.given: dict[str, Job] = {}
        self._workspace = dict(workspace)
        self._suggestions, self._stage_is_there, self._referee = suggestions, stage_is_there, referee
        self.full: str | None = None
        """What a worker or the driver met when it could no longer write. Tune would take an exception raised here for
        the trial's; the listener ends the run."""

    def suggest(self, trial_id: str) -> Any:
        if self.full is not None:
            return None
        try:
            return self._next(trial_id)
        except OSError as problem:
            self._fill(problem)
            return None

    def _next(self, trial_id: str) -> Any:
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
            "rungs": self._referee.rungs if self._referee is not None and job.kind == "trial" else (),
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
        assert self._referee is not None
        progress = Progress(job.key, told["rung"], told["curve"], told["sizes"])
        reason = self._referee.decide(progress)
        if reason is not None:
            path = verdict_path(self._folder(job), progress.rung)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".draft")
            draft.write_text(f"{self._referee.rule.name}: {reason}", encoding="utf-8")
            draft.replace(path)

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
        self.events.measured(job, reason)
        if self._suggestions is None:
            return
        result = read_result(self._folder(job) / "result.json")
        if not self._suggestions.ended(result):
            self._suggestions.lost(result.trial_id)

    def _recorded(self, job: Job) -> bool:
        return job.kind == "trial" and (self._folder(job) / "result.json").exists()

    def _folder(self, job: Job) -> Path:
        return Path(str(self._workspace["out"]), str(self._workspace["sweep"]), "trials", job.spec.trial_id)

    def _record(self, job: Job, reason: str | None) -> TrialResult:
        """The worker's own record; where it could write none, one that says why."""
        folder = self._folder(job)
        path = folder / "result.json"
        if not path.exists():
            status: Any = "diverged" if reason and "Diverged" in reason else "failed"
            lost = TrialResult(
                trial_id=job.key, spec=job.spec, arm=job.arm, point=dict(job.point), status=status,
                error=reason or "no record was written",
            )  # fmt: skip
            write_result(folder, lost)
        return read_result(path)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves itself for a restore that is never used here, because the records are the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""


class _Listener(tune.Callback):
    """Passes Tune's events on to the runner's."""

    def __init__(self, feed: _Feed, check: Callable[[], None]) -> None:
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
        if job is None or result.get("ended"):
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
