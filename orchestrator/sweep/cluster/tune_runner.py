"""The jobs of a dispatcher on Ray Tune: warm workers of one shape, reporting every epoch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune

from orchestrator.spec.search_space import Resources
from orchestrator.sweep.cluster.environment import configure_ray_environment
from orchestrator.sweep.cluster.tune_searcher import LifoScheduler, TuneEvents, TuneSearcher, tune_result
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.driver.messages import decode_request

_MIN_PENDING = 32
"""Workers asked for at least, where there is work for them: a cluster that starts machines on demand sees no more."""


@contextmanager
def cluster(address: str, cpus: float) -> Iterator[None]:
    """Connect to a Ray cluster: one of our own on this machine (``local``), or one that runs (``auto``, ``host:port``).

    Only a cluster started here is stopped here.
    """
    configure_ray_environment()
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
    """Return how many trials the cluster holds at once."""
    total = ray.cluster_resources()
    # 1 // 0.1 is 9 to a computer.
    by_cpu = int(total.get("CPU", 0) / resources.cpus + 1e-9)
    if resources.gpus == 0:
        return max(1, by_cpu)
    per_gpu = int(1 / resources.gpus + 1e-9) if resources.gpus <= 1 else 1 / resources.gpus
    return max(1, min(by_cpu, int(total.get("GPU", 0) * per_gpu)))


def run_jobs(dispatcher: Dispatcher, check: Callable[[], None]) -> None:
    """Run the jobs of a dispatcher until all have ended.

    Where trials that share a GPU by our own choice run out of its memory, what runs is let end, and the rest goes on
    with half as many at once.

    Raises:
        StoreUnavailable: the store cannot be written any more.
        SpecError: the stopper raised an exception.
        Exception: whatever `check` raises, which is called between two events.
    """
    while True:
        _run_wave(dispatcher, check)
        if not dispatcher.backing_off:
            return
        dispatcher.resume_with_fewer()


def _run_wave(dispatcher: Dispatcher, check: Callable[[], None]) -> None:
    """Run jobs on workers of one shape until the dispatcher is exhausted or backs off."""
    searcher, resources = TuneSearcher(dispatcher), dispatcher.allocation.resources
    shape: dict[str, float] = {"cpu": resources.cpus}
    if resources.gpus:
        shape["gpu"] = resources.gpus
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(4 * slots(resources), _MIN_PENDING))
    scratch = tempfile.mkdtemp(prefix="prunesweep-tune-")
    tuner = tune.Tuner(
        tune.with_resources(_work, shape),
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=LifoScheduler(searcher), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=scratch,
            name="jobs",
            verbose=0,
            callbacks=[TuneEvents(searcher, check)],
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


def _work(config: dict[str, Any]) -> None:
    """Do one job; runs in a worker."""
    from orchestrator.sweep.worker.work import work

    device = "cuda" if ray.get_gpu_ids() else "cpu"
    work(decode_request(config["request"]), lambda message: tune.report(tune_result(message)), device)
