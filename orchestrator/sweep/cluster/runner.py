"""A Ray cluster as the place where the jobs of a sweep run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.spec.search_space import Resources
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.cluster import latency_wave, node_checks, probes, tune_runner
from orchestrator.sweep.driver.allocation import Allocation, resources_of
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.driver.interrupts import interruptible
from orchestrator.sweep.driver.runner import Check
from orchestrator.sweep.planning import Plan


class RayRunner:
    """Runs jobs on a Ray cluster.

    Args:
        address: ``local`` for a cluster of this machine's own, ``auto`` or ``HOST:PORT`` for one that runs.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    @contextmanager
    def connected(self, planned: Plan, workspace: Workspace) -> Iterator[Check]:
        node_checks.check_address(self._address)
        with tune_runner.cluster(self._address, resources_of(planned.space, workspace.folder).cpus):
            if self._address != "local":
                specs = [trial.spec for trial in planned.trials]
                node_checks.check_nodes(self._address, workspace.store, specs, planned.space.metrics)
            with interruptible() as check:
                yield check

    def check_networks(
        self, planned: Plan, waiting: Collection[str], is_trained: Callable[[TrialSpec], bool], check: Check
    ) -> None:
        probes.check_networks(planned, waiting, is_trained, check)

    def allocation_of(self, planned: Plan, waiting: Collection[str], workspace: Workspace, check: Check) -> Allocation:
        return probes.allocation_of(planned, waiting, workspace, check)

    def slots(self, resources: Resources) -> int:
        return tune_runner.slots(resources)

    def run_jobs(self, dispatcher: Dispatcher, check: Check) -> None:
        tune_runner.run_jobs(dispatcher, check)

    def measure_all(
        self,
        store: Store,
        folders: Sequence[Path],
        resources: Resources,
        measured: Callable[[Path, str | None], None],
    ) -> None:
        latency_wave.measure_all(store, folders, resources, measured)
