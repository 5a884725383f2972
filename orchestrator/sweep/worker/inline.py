"""This process as the place where the jobs of a sweep run, one after another: for breakpoints, notebooks, quick tests.

Ray is never imported. A breakpoint in a method stops there; where a trial or stage fails, its traceback goes to
standard error, and the record says what it says anywhere else.
"""

from __future__ import annotations

import bdb
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.records.records import write_latency
from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import Failure, JobOutcome, classify
from orchestrator.spec.search_space import Resources
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.allocation import Allocation, allocate_without_gpus, shared
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.driver.interrupts import Interrupted, StoreUnavailable
from orchestrator.sweep.driver.messages import JobEnded, JobRequest, Message
from orchestrator.sweep.driver.runner import Check
from orchestrator.sweep.planning import Plan
from orchestrator.sweep.worker.latency import measure
from orchestrator.sweep.worker.network_check import raise_refused, refusals, untried_networks
from orchestrator.sweep.worker.work import DeviceLost, work


class InlineRunner:
    """Runs jobs in this process, one at a time."""

    @contextmanager
    def connected(self, planned: Plan, workspace: Workspace) -> Iterator[Check]:
        """Make modules beside the search space importable, as workers have them; SIGTERM stops as SIGINT does."""
        if planned.space.resources != "auto":
            _device(planned.space.resources)
        folder = os.getcwd()
        sys.path[:0] = [] if {folder, ""} & set(sys.path) else [folder]
        in_main_thread = threading.current_thread() is threading.main_thread()
        # Both raise KeyboardInterrupt at once: a job runs in this very thread, and nothing else could stop it.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main_thread else None
        try:
            yield lambda: None
        finally:
            if in_main_thread:
                signal.signal(signal.SIGTERM, before)

    def check_networks(
        self, planned: Plan, waiting: Collection[str], is_trained: Callable[[TrialSpec], bool], check: Check
    ) -> None:
        networks = untried_networks(planned, waiting, is_trained)
        raise_refused(networks, refusals([network.spec for network in networks]))

    def allocation_of(self, planned: Plan, waiting: Collection[str], workspace: Workspace, check: Check) -> Allocation:
        """As the search space says; ``auto`` is a whole GPU and every core, or one core where there is no GPU.

        One core, not all: as many threads as elsewhere give the same numbers.
        """
        if planned.space.resources != "auto":
            return Allocation(planned.space.resources)
        if not _has_gpu():
            return allocate_without_gpus()
        return shared(Resources(cpus=os.cpu_count() or 1, gpus=1), 1, "one job at a time in this process")

    def slots(self, resources: Resources) -> int:
        return 1

    def run_jobs(self, dispatcher: Dispatcher, check: Check) -> None:
        while not dispatcher.exhausted:
            request = dispatcher.next_job()
            if request is not None:
                _run_job(dispatcher, request)
            if dispatcher.error is not None:
                raise dispatcher.error
            if dispatcher.store_problem is not None:
                raise StoreUnavailable(dispatcher.store_problem)
            dispatcher.events.tick()
            check()

    def measure_all(
        self,
        store: Store,
        folders: Sequence[Path],
        resources: Resources,
        measured: Callable[[Path, str | None], None],
    ) -> None:
        device = _device(resources)
        for folder in folders:
            error: str | None = None
            try:
                store.download(folder)
                write_latency(store, folder, measure(folder, device, max(1, int(resources.cpus))))
            except Exception as problem:
                if classify(problem).outcome is JobOutcome.STORE_UNAVAILABLE:
                    raise StoreUnavailable(str(problem)) from problem
                error = str(problem)
            measured(folder, error)


def _run_job(dispatcher: Dispatcher, request: JobRequest) -> None:
    problems: list[Exception] = []

    def tell(message: Message) -> None:
        try:
            if isinstance(message, JobEnded):
                dispatcher.on_ended(request, message)
            else:
                dispatcher.on_report(request, message)
            if dispatcher.error is not None:
                raise dispatcher.error
        except Exception as problem:
            problems.append(problem)
            # The driver's problem, not the trial's: a worker records every other exception as the trial's failure.
            raise KeyboardInterrupt from problem

    dispatcher.on_started(request)
    try:
        work(request, tell, _device(dispatcher.allocation.resources), _print_traceback)
    except DeviceLost:
        raise Interrupted("this process has lost its GPU; another one may go on") from None
    except KeyboardInterrupt:
        if problems:
            raise problems[0] from problems[0].__cause__
        raise


def _print_traceback(failure: Failure) -> None:
    """Print the traceback of a failure; if a debugger was left, raise KeyboardInterrupt before anything is recorded."""
    if isinstance(failure.exception, bdb.BdbQuit):
        raise KeyboardInterrupt
    if failure.exception is not None and failure.outcome not in (JobOutcome.DIVERGED, JobOutcome.STORE_UNAVAILABLE):
        traceback.print_exception(failure.exception)


def _device(resources: Resources) -> str:
    """Return the device of a worker with these resources; raise SpecError where this process has none."""
    if not resources.gpus:
        return "cpu"
    if not _has_gpu():
        raise SpecError("resources.gpus", f"PyTorch sees no GPU in this process, found {resources.gpus:g}")
    return "cuda"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
