"""Latencies measured after the trials, one at a time, on a device that nothing else uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from orchestrator.records.records import Latency, write_latency
from orchestrator.spec.search_space import Resources
from orchestrator.storage.store import Store
from orchestrator.sweep.worker.latency import measure


def measure_all(
    store: Store, folders: Sequence[Path], resources: Resources, measured: Callable[[Path, str | None], None]
) -> None:
    """Measure the latency of every finished trial in turn and record it.

    One worker holds all CPUs of a node (and a whole GPU where trials have GPUs), so nothing runs beside it.
    `measured` is called after each with the error, if there was one.
    """
    needs = {"num_cpus": _cpus_of_a_node(resources), "num_gpus": 1 if resources.gpus else 0}
    worker: Any = ray.remote(_LatencyWorker).options(**needs).remote(max(1, int(resources.cpus)))
    for folder in folders:
        error: str | None = None
        try:
            latency = ray.get(worker.measure.remote(store.address_of(folder)))
            write_latency(store, folder, Latency.model_validate(latency))
        except ray.exceptions.RayTaskError as problem:
            error = str(problem.cause)
        measured(folder, error)
    ray.kill(worker)


def _cpus_of_a_node(resources: Resources) -> float:
    """Return the CPUs of the smallest node on which the actor may run."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = [node for node in nodes if not resources.gpus or node.get("GPU", 0) > 0]
    return float(min((node.get("CPU", 1) for node in fitting), default=1))


class _LatencyWorker:
    """A Ray actor that measures latencies."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"

    def measure(self, folder: str) -> dict[str, Any]:
        store = Store.open(folder)
        store.download(store.folder)
        return measure(store.folder, self._device, self._threads).model_dump()
