"""What a sweep needs of the place where its jobs run: a Ray cluster, or this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from orchestrator.spec.search_space import Resources
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.allocation import Allocation
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.planning import Plan

INLINE = "inline"
"""The address of this process."""

Check = Callable[[], None]
"""Raises `Interrupted` where a person asked the driver to stop."""


class Runner(Protocol):
    """Where the jobs of a sweep run."""

    def connected(self, planned: Plan, workspace: Workspace) -> AbstractContextManager[Check]:
        """Hold the workers' place for the block; raise SpecError where no trial can run.

        Args:
            planned: the plan.
            workspace: the store and the sweep.
        """

    def check_networks(
        self, planned: Plan, waiting: Collection[str], is_trained: Callable[[TrialSpec], bool], check: Check
    ) -> None:
        """Raise SpecError for networks that cannot take their data's images.

        Args:
            planned: the plan.
            waiting: ids of its trials that have still to run.
            is_trained: whether the network of a trial has been trained on its data, and needs no check.
            check: called while the answer is waited for.
        """

    def allocation_of(self, planned: Plan, waiting: Collection[str], workspace: Workspace, check: Check) -> Allocation:
        """Return what one trial holds: as the search space fixes it, or as ``auto`` comes to."""

    def slots(self, resources: Resources) -> int:
        """Return how many trials run at once."""

    def run_jobs(self, dispatcher: Dispatcher, check: Check) -> None:
        """Run the jobs of a dispatcher until all have ended.

        Raises StoreUnavailable, the `error` of the dispatcher or what `check` raises.
        """

    def measure_all(
        self,
        store: Store,
        folders: Sequence[Path],
        resources: Resources,
        measured: Callable[[Path, str | None], None],
    ) -> None:
        """Measure and record the latency of finished trials, one at a time; report each, with its error if any."""
