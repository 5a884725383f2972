"""Jobs on Ray Tune: warm workers of one shape, fed by a queue, reporting every epoch."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.search_space import Resources
from orchestrator.storage.bucket import PATIENCE
from orchestrator.storage.store import Store
from orchestrator.sweep.cluster.tune_searcher import Feed, LifoScheduler, Listener, StoreFull, sweep_folder
from orchestrator.sweep.driver.allocation import Allocation
from orchestrator.sweep.driver.jobs import Events, Job, JobQueue
from orchestrator.sweep.driver.suggestions import Suggestions
from orchestrator.sweep.stopping.policy import StoppingPolicy

_ASKED = 32
"""Workers asked for at least, where there is work for them: a cluster that starts machines on demand sees no more."""


class Interrupted(PrunesweepError):
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
    # 1 // 0.1 is 9 to a computer.
    by_cpu = int(total.get("CPU", 0) / resources.cpus + 1e-9)
    if resources.gpus == 0:
        return max(1, by_cpu)
    per_gpu = int(1 / resources.gpus + 1e-9) if resources.gpus <= 1 else 1 / resources.gpus
    return max(1, min(by_cpu, int(total.get("GPU", 0) * per_gpu)))


def run_jobs(
    jobs: Sequence[Job],
    workspace: Mapping[str, Any],
    allocation: Allocation,
    events: Events,
    check: Callable[[], None],
    *,
    suggestions: Suggestions | None = None,
    stage_is_there: Callable[[str, str], bool] = lambda name, key: False,
    policy: StoppingPolicy | None = None,
) -> None:
    """Run every job, and the trials that a search suggests meanwhile; returns when all have ended.

    What `check` raises, between two events, stops it. `stage_is_there` says which shared stages of a suggested trial
    need no job. The `policy` hears the trials at its rungs and ends the weak ones. Where trials that share a GPU by
    our own choice run out of its memory, what runs is let end, and the rest goes on with half as many at once.
    """
    queue = JobQueue(jobs)
    store = Store.open(str(workspace["out"]), patience=PATIENCE)
    for left in sweep_folder(workspace).glob(".retreat-*"):  # by a driver that was killed
        store.delete_marker(left)
    while True:
        retreat = sweep_folder(workspace) / f".retreat-{secrets.token_hex(4)}" if allocation.may_halve else None
        place = {
            **workspace,
            "cpus": allocation.resources.cpus,
            "advice": allocation.advice,
            "retreat": None if retreat is None else store.address_of(retreat),
        }
        feed = Feed(queue, place, events, suggestions, stage_is_there, policy)
        try:
            _run_wave(feed, allocation.resources, check)
        finally:
            if retreat is not None:
                store.delete_marker(retreat)
        if not feed.crowded:
            return
        allocation = allocation.halved()
        events.reallocated(allocation)


def _run_wave(feed: Feed, resources: Resources, check: Callable[[], None]) -> None:
    """Jobs on workers of one shape, until the feed ends."""
    shape: dict[str, float] = {"cpu": resources.cpus}
    if resources.gpus:
        shape["gpu"] = resources.gpus
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(4 * slots(resources), _ASKED))
    scratch = tempfile.mkdtemp(prefix="prunesweep-tune-")
    tuner = tune.Tuner(
        tune.with_resources(_work, shape),
        tune_config=tune.TuneConfig(search_alg=feed, scheduler=LifoScheduler(feed), num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=scratch,
            name="jobs",
            verbose=0,
            callbacks=[Listener(feed, check)],
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
    from orchestrator.sweep.worker.work import work

    device = "cuda" if ray.get_gpu_ids() else "cpu"
    work(json.loads(config["job"]), json.loads(config["workspace"]), tune.report, device)


__all__ = ["Interrupted", "StoreFull", "cluster", "interruptible", "run_jobs", "slots"]
