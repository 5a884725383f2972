"""Before the first trial: every network takes its data's images, and what `resources: auto` comes to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import ray

from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import Resources
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.cluster.node_checks import nodes_with, on_node
from orchestrator.sweep.driver.allocation import (
    Allocation,
    Gpu,
    Load,
    allocate,
    allocate_without_gpus,
    limit_of,
    save,
    shared,
)
from orchestrator.sweep.driver.runner import Check
from orchestrator.sweep.driver.training_kinds import representative_trials, training_kinds
from orchestrator.sweep.planning import Plan
from orchestrator.sweep.worker.network_check import raise_refused, refusals, untried_networks

_LOOK_SECONDS = 0.5
"""How often an interrupt is looked for while a task is waited for."""


def check_networks(
    planned: Plan, waiting: Collection[str], is_trained: Callable[[TrialSpec], bool], check: Check
) -> None:
    """Raise :class:`UnfitModel` for networks of trials to come; takes as long as a worker takes to import PyTorch.

    Args:
        planned: the plan.
        waiting: ids of its trials that have still to run.
        is_trained: whether the network of a trial has been trained on its data, and needs no check.
        check: called while the answer is waited for.
    """
    networks = untried_networks(planned, waiting, is_trained)
    if not networks:
        return
    nodes = nodes_with("CPU")
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_refusals)
    if nodes:
        task = task.options(scheduling_strategy=on_node(nodes[0]["NodeID"]))
    try:
        reasons = _answer(task.remote([_plain(network.spec) for network in networks]), check)
    except ray.exceptions.RayError:
        # Nobody could tell: the trials will, each for itself.
        return
    raise_refused(networks, reasons)


def allocation_of(
    planned: Plan, waiting: Collection[str], folder: Path, data_cache: Path | None, check: Check
) -> Allocation:
    """What one trial holds: as the search space fixes it, or as is measured now on a GPU of the cluster.

    What was measured is kept in the sweep's folder, with the number of trials at once that it may have fallen back to.
    """
    if planned.space.resources != "auto":
        return Allocation(planned.space.resources)
    gpus = nodes_with("GPU")
    if not gpus:
        return allocate_without_gpus()
    found, smallest = _survey(gpus, check)
    cpus = min(gpu.cpus for gpu in found)
    wanted = training_kinds(trial.spec for trial in representative_trials(planned, waiting))
    workspace = {"out": str(folder.parent), "sweep": folder.name, "threads": max(1, int(cpus))}
    workspace |= {"data_cache": None if data_cache is None else str(data_cache)}
    task: Any = ray.remote(num_cpus=min(1.0, cpus), num_gpus=1, max_retries=0, max_calls=1)(_loads)
    answer = task.options(scheduling_strategy=on_node(smallest)).remote(
        [(training.label, _plain(training.spec), training.sparse) for training in wanted], workspace
    )
    try:
        loads = [Load(**load) for load in _answer(answer, check)]
    except ray.exceptions.RayError as error:
        loads, problem = [], str(error).strip().splitlines()[-1]
    else:
        problem = "no training could be tried"
    if loads:
        allocation = allocate(loads, found, limit_of(folder))
    else:
        allocation = shared(Resources(cpus=cpus, gpus=1), 1, f"nothing was measured: {problem}")
    save(folder, allocation, loads, found)
    return allocation


def _survey(nodes: Sequence[dict[str, Any]], check: Check) -> tuple[list[Gpu], str]:
    """The GPUs of the cluster, and the machine with the smallest of them."""
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_gpus)
    asked = [task.options(scheduling_strategy=on_node(node["NodeID"])).remote() for node in nodes]
    found: list[tuple[Gpu, str]] = []
    for node, answer in zip(nodes, asked, strict=True):
        told = node["Resources"]
        cpus = told.get("CPU", 0) / told["GPU"]
        if cpus > 0:
            found += [(Gpu(name, memory, cpus), node["NodeID"]) for name, memory in _answer(answer, check)]
    if not found:
        raise SpecError("resources", "'auto' finds GPUs that Ray offers and PyTorch does not see, or without any CPU")
    _, smallest = min(found, key=lambda one: one[0].memory)
    return [gpu for gpu, _ in found], smallest


def _answer(task: Any, check: Check) -> Any:
    while True:
        done, _ = ray.wait([task], timeout=_LOOK_SECONDS)
        check()
        if done:
            return ray.get(task)


def _plain(spec: TrialSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def _refusals(specs: list[dict[str, Any]]) -> list[str | None]:
    """Run on a node: why networks cannot take their images."""
    return refusals([TrialSpec.model_validate(spec) for spec in specs])


def _gpus() -> list[tuple[str, int]]:
    """Run on a node: its GPUs."""
    from orchestrator.trial.gpu_probe import gpus

    return gpus()


def _loads(wanted: list[tuple[str, dict[str, Any], bool]], place: dict[str, Any]) -> list[dict[str, Any]]:
    """Run with a whole GPU: what each training asks of it; those that fail say so as trials."""
    from orchestrator.trial.gpu_probe import measure_load

    cache = place.pop("data_cache")
    workspace = Workspace(Path(place.pop("out")), **place, device="cuda", data_cache=Path(cache) if cache else None)
    loads = []
    for what, spec, sparse in wanted:
        try:
            found = measure_load(TrialSpec.model_validate(spec), workspace, sparse=sparse)
        except Exception:
            continue
        if found is not None:
            loads.append({"what": what, "memory": found[0], "busy": found[1]})
    return loads
