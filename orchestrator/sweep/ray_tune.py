"""Jobs on Ray Tune: warm workers of one shape, fed by a queue, reporting every epoch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
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

from orchestrator.spec.result import EpochRow, TrialResult
from orchestrator.spec.search_space import Resources
from orchestrator.spec.trial import TrialSpec
from orchestrator.store.records import read_result, write_result
from orchestrator.sweep.jobs import Events, Job, JobQueue

_REPORT_SECONDS = 0.25
"""Epochs shorter than this are reported now and then, not each: a report costs a trip to the driver."""


class Interrupted(Exception):
    """A person or a scheduler asked the driver to stop."""


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
) -> None:
    """Run every job; returns when all have ended. What `check` raises, between two events, stops it."""
    feed = _Feed(jobs, workspace, events)
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
    """One job in a warm worker. A trial's record is written here, so that a killed driver loses nothing."""
    from orchestrator.spec.workspace import Workspace
    from orchestrator.trial.run import reason, run_stage, run_trial

    job = json.loads(config["job"])
    place = json.loads(config["workspace"])
    workspace = Workspace(
        out=Path(place["out"]),
        sweep=place["sweep"],
        device="cuda" if ray.get_gpu_ids() else "cpu",
        threads=max(1, int(place["cpus"])),
        data_cache=Path(place["data_cache"]) if place["data_cache"] else None,
    )
    spec = TrialSpec.model_validate(job["spec"])
    last = 0.0

    def report(row: EpochRow, epochs: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REPORT_SECONDS:
            last = now
            tune.report({"stage": row.stage, "epoch": row.epoch, "epochs": epochs, "val_accuracy": row.val_accuracy})

    if job["kind"] == "trial":
        result = run_trial(spec, workspace, report, arm=job["arm"], point=job["point"])
        write_result(workspace.trial_folder(spec.trial_id), result)
        tune.report({"ended": True, "error": result.error})
        return
    error: str | None = None
    try:
        run_stage(job["kind"], spec, workspace, report)
    except Exception as problem:
        error = reason(problem)
    tune.report({"ended": True, "error": error})


class _Feed(Searcher):
    """The job queue as Tune's searcher: a suggestion is a job, None means wait."""

    def __init__(self, jobs: Sequence[Job], workspace: Mapping[str, Any], events: Events) -> None:
        super().__init__()
        self.queue = JobQueue(jobs)
        self.events = events
        self.given: dict[str, Job] = {}
        self._workspace = dict(workspace)

    def suggest(self, trial_id: str) -> Any:
        if self.queue.exhausted:
            return Searcher.FINISHED
        job = self.queue.take()
        if job is None:
            return None
        self.given[trial_id] = job
        described = {
            "kind": job.kind,
            "arm": job.arm,
            "point": dict(job.point),
            "spec": job.spec.model_dump(mode="json"),
        }
        # As text: Tune flattens and compares every value of a configuration at every report.
        return {"job": json.dumps(described), "workspace": json.dumps(self._workspace)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self.given.pop(trial_id, None)
        if job is None:
            return
        if error and not self._recorded(job) and self.queue.again(job):
            return
        reason = "the worker died" if error else (result or {}).get("error")
        if job.kind == "trial":
            self.queue.finished(job.key)
            self.events.trial_ended(job, self._record(job, reason))
            return
        self.events.stage_ended(job, reason)
        if reason is None:
            self.queue.finished(job.key)
            return
        for lost in self.queue.failed(job.key):
            self.events.trial_ended(lost, self._record(lost, f"{job.kind} failed: {reason}"))

    def _recorded(self, job: Job) -> bool:
        return job.kind == "trial" and (self._folder(job) / "result.json").exists()

    def _folder(self, job: Job) -> Path:
        return Path(str(self._workspace["out"]), str(self._workspace["sweep"]), "trials", job.key)

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
        if job is not None and "stage" in result and not result.get("ended"):
            self._feed.events.epoch(job, result)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._feed.events.tick()
        self._check()
