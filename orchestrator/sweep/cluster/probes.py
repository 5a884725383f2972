"""Checks on the cluster before the first trial: networks take their images; measurements for `resources: auto`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
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
from orchestrator.sweep.driver.messages import WorkerContext
from orchestrator.sweep.driver.runner import Check
from orchestrator.sweep.driver.training_kinds import representative_trials, training_kinds
from orchestrator.sweep.planning import Plan
from orchestrator.sweep.worker.network_check import raise_refused, refusals, untried_networks

_POLL_SECONDS = 0.5
"""How often `check` is called while a task is waited for."""


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


def allocation_of(planned: Plan, waiting: Collection[str], workspace: Workspace, check: Check) -> Allocation:
    """Return what one trial holds: as the search space fixes it, or as is measured now on a GPU of the cluster.

    Measurements are saved in the sweep's folder, with the number of trials a GPU that it may have fallen back to.
    """
    if planned.space.resources != "auto":
        return Allocation(planned.space.resources)
    nodes = nodes_with("GPU")
    if not nodes:
        return allocate_without_gpus()
    gpus, smallest_node = _survey(nodes, check)
    cpus = min(gpu.cpus for gpu in gpus)
    trainings = training_kinds(trial.spec for trial in representative_trials(planned, waiting))
    context = WorkerContext(
        store=workspace.store.address,
        sweep=workspace.sweep,
        data_cache=None if workspace.data_cache is None else str(workspace.data_cache),
        cpus=cpus,
    )
    task: Any = ray.remote(num_cpus=min(1.0, cpus), num_gpus=1, max_retries=0, max_calls=1)(_loads)
    answer = task.options(scheduling_strategy=on_node(smallest_node)).remote(
        [(training.label, _plain(training.spec), training.sparse) for training in trainings], asdict(context)
    )
    loads: list[Load] = []
    problem = "no training could be tried"
    try:
        loads = [Load(**load) for load in _answer(answer, check)]
    except ray.exceptions.RayError as error:
        problem = str(error).strip().splitlines()[-1]
    if loads:
        allocation = allocate(loads, gpus, limit_of(workspace.folder))
    else:
        allocation = shared(Resources(cpus=cpus, gpus=1), 1, f"nothing was measured: {problem}")
    save(workspace.store, workspace.folder, allocation, loads, gpus)
    return allocation


def _survey(nodes: Sequence[dict[str, Any]], check: Check) -> tuple[list[Gpu], str]:
    """Return the GPUs of the cluster, and the id of the node with the smallest of them."""
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_gpus)
    answers = [task.options(scheduling_strategy=on_node(node["NodeID"])).remote() for node in nodes]
    gpus: list[tuple[Gpu, str]] = []
    for node, answer in zip(nodes, answers, strict=True):
        resources = node["Resources"]
        cpus = resources.get("CPU", 0) / resources["GPU"]
        if cpus > 0:
            gpus += [(Gpu(name, memory, cpus), node["NodeID"]) for name, memory in _answer(answer, check)]
    if not gpus:
        raise SpecError("resources", "'auto' finds GPUs that Ray offers and PyTorch does not see, or without any CPU")
    _, smallest_node = min(gpus, key=lambda gpu_and_node: gpu_and_node[0].memory)
    return [gpu for gpu, _ in gpus], smallest_node


def _answer(task: Any, check: Check) -> Any:
    """Wait for the result of a Ray task; `check` may end the waiting."""
    while True:
        done, _ = ray.wait([task], timeout=_POLL_SECONDS)
        check()
        if done:
            return ray.get(task)


def _plain(spec: TrialSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def _refusals(specs: list[dict[str, Any]]) -> list[str | None]:
    """Return why networks cannot take their images, or None for each that can; runs on a node."""
    return refusals([TrialSpec.model_validate(spec) for spec in specs])


def _gpus() -> list[tuple[str, int]]:
    """Return name and bytes of memory of the GPUs; runs on a node."""
    from orchestrator.trial.gpu_probe import gpus

    return gpus()


def _loads(trainings: list[tuple[str, dict[str, Any], bool]], context: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each training needs of a GPU; runs with a whole GPU. One that fails will say so as a trial."""
    from orchestrator.sweep.worker.work import workspace_of
    from orchestrator.trial.gpu_probe import measure_load

    workspace = workspace_of(WorkerContext(**context), "cuda")
    loads = []
    for label, spec, sparse in trainings:
        try:
            load = measure_load(TrialSpec.model_validate(spec), workspace, sparse=sparse)
        except Exception:
            continue
        if load is not None:
            loads.append({"what": label, "memory": load[0], "busy": load[1]})
    return loads
