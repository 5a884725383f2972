"""One sweep from plan to views: what is recorded stays, what is missing runs, then the networks are measured alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rich.console import Console

from orchestrator.records.bucket_sync import refresh_with_warm_starts
from orchestrator.records.records import DamagedRecord, forget, read_result, recorded_ids
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.result import FAILED_STATUSES
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.yaml_text import as_yaml
from orchestrator.storage.bucket import PATIENCE
from orchestrator.storage.driver_lock import SweepLocked, hold_driver_lock
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import TrialPaths
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.allocation import Allocation, load, resources_of, save_fall_back
from orchestrator.sweep.driver.dispatcher import Dispatcher
from orchestrator.sweep.driver.display import State, view_of
from orchestrator.sweep.driver.events import SweepEvents
from orchestrator.sweep.driver.interrupts import Interrupted, StoreUnavailable
from orchestrator.sweep.driver.jobs import latency_job, remaining_jobs
from orchestrator.sweep.driver.messages import WorkerContext
from orchestrator.sweep.driver.outcome import SweepOutcome
from orchestrator.sweep.driver.record_store import SweepRecordStore
from orchestrator.sweep.driver.runner import INLINE, Check, Runner
from orchestrator.sweep.driver.suggestions import Suggestions
from orchestrator.sweep.planning import plan
from orchestrator.sweep.search.build import is_adaptive
from orchestrator.sweep.stopping.policy import StoppingPolicy, without_defaults


class SweepBusy(PrunesweepError, RuntimeError):
    """Another driver runs this sweep."""


def run(
    space: SearchSpace,
    *,
    out: str | Path = "runs",
    address: str = "local",
    retry_failed: bool = False,
    console: Console | None = None,
) -> SweepOutcome:
    """Run or resume a sweep.

    Args:
        space: the search space, as loaded.
        out: the store; the sweep is a folder in it, named after the search space.
        address: ``local`` for this machine, ``auto`` or ``HOST:PORT`` for a Ray cluster, ``inline`` for this process,
            one job after another.
        retry_failed: run trials again that failed or diverged before.
        console: where progress is printed; by default standard error.

    Raises:
        SpecError: the search space cannot be used; nothing was trained.
        SweepBusy: another driver runs the sweep.
    """
    console = console or Console(stderr=True)
    space = without_defaults(space)
    named_cache = os.environ.get("PRUNESWEEP_DATA_CACHE")
    store = Store.open(out, patience=PATIENCE).resolve()
    workspace = Workspace(store, space.name, data_cache=Path(named_cache) if named_cache else None)
    folder = workspace.folder
    if store.bucket is not None:
        store.bucket.check(folder)
    refresh_with_warm_starts(store, folder, space.search.warm_start)
    planned = plan(space, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _driver_lock(workspace) as is_lost:
        if store.bucket is not None:
            # Records that the last workers of an earlier driver wrote until its lease ran out.
            store.refresh(folder)
            planned = plan(space, folder)
        _save_search_space(workspace, as_yaml(space))
        if retry_failed:
            for trial in planned.trials:
                _forget_failure(store, workspace.paths.trial(trial.trial_id))
        return _Driver(SweepOutcome(planned, folder), workspace, address, console, is_lost).run()


def runner_for(address: str) -> Runner:
    """Return the runner at an address."""
    if address == INLINE:
        from orchestrator.sweep.worker.inline import InlineRunner

        return InlineRunner()
    # Ray takes a second to import; a sweep with nothing left to do, or in this process, never needs it.
    from orchestrator.sweep.cluster.environment import configure_ray_environment

    configure_ray_environment()
    from orchestrator.sweep.cluster.runner import RayRunner

    return RayRunner(address)


class _Driver:
    """One run of a sweep, while its lock is held."""

    def __init__(
        self,
        outcome: SweepOutcome,
        workspace: Workspace,
        address: str,
        console: Console,
        is_lost: Callable[[], bool],
    ) -> None:
        self._outcome, self._workspace, self._address = outcome, workspace, address
        self._console, self._is_lost = console, is_lost
        self._folder = workspace.folder
        self._records = SweepRecordStore.open(workspace)
        planned = outcome.plan
        recorded = recorded_ids(self._folder)
        done_before = sum(trial.trial_id in recorded for trial in planned.trials)
        self._jobs = remaining_jobs(planned, recorded, self._records.has_stage)
        self._allocation = Allocation(resources_of(planned.space, self._folder))
        self._state = State(planned.space.name, planned.total, done_before)
        # A table that redraws itself would write over a debugger's prompt.
        self._view = view_of(self._state, console, live=address != INLINE)

    def run(self) -> SweepOutcome:
        from orchestrator.records.views import ViewWriter

        outcome, space = self._outcome, self._outcome.plan.space
        with ViewWriter(
            self._workspace.store, space.name, question=space.question or "", searchspace=as_yaml(space)
        ) as views:
            self._events = SweepEvents(outcome, self._state, self._view, views, self._is_lost, self._reallocate)
            if self._jobs or outcome.plan.to_draw or self._unmeasured():
                self._run_remaining(runner_for(self._address))
            if outcome.interrupted:
                # A worker may have finished after the driver stopped listening.
                self._workspace.store.refresh(self._folder)
                for trial_id in recorded_ids(self._folder):
                    views.put(trial_id)
            outcome.warnings += views.close("KILLED" if outcome.interrupted else "FINISHED")
        self._collect_failures()
        return outcome

    def _run_remaining(self, runner: Runner) -> None:
        """Check, run and measure what has no record yet."""
        outcome, self._runner = self._outcome, runner
        with runner.connected(outcome.plan, self._workspace) as check:
            try:
                self._check_and_allocate(check)
                if self._jobs or outcome.plan.to_draw:
                    with self._timed("trials"), self._view:
                        self._run_jobs(check)
                with self._timed("measuring"):
                    self._measure(check)
            except (Interrupted, KeyboardInterrupt) as interrupt:
                outcome.interrupted = True
                outcome.warnings += [str(interrupt)] if str(interrupt) else []
            except StoreUnavailable as problem:
                outcome.interrupted = True
                outcome.warnings.append(f"{self._workspace.store.address} takes no more: {problem}")

    def _check_and_allocate(self, check: Check) -> None:
        planned = self._outcome.plan
        waiting = {job.key for job in self._jobs if job.kind == "trial"}
        if waiting or planned.to_draw or load(self._folder) is None:
            with self._timed("checks"):
                has_stage = self._records.has_stage
                self._runner.check_networks(
                    planned, waiting, lambda spec: has_stage("baseline", spec.baseline_key), check
                )
                self._allocation = self._runner.allocation_of(planned, waiting, self._workspace, check)
        self._report_allocation()

    def _run_jobs(self, check: Check) -> None:
        outcome, planned = self._outcome, self._outcome.plan
        jobs, suggestions = self._jobs, None
        data_cache = self._workspace.data_cache
        context = WorkerContext(
            store=self._workspace.store.address,
            sweep=self._workspace.sweep,
            data_cache=None if data_cache is None else str(data_cache),
            metrics=tuple(planned.space.metrics),
        )
        if is_adaptive(planned.space.search):
            suggestions = Suggestions(planned, self._workspace.store, self._folder, self._state.slots)
            jobs = [*jobs, *map(latency_job, suggestions.unmeasured)]
        try:
            dispatcher = Dispatcher(
                jobs,
                context,
                self._allocation,
                self._records,
                self._events,
                suggestions=suggestions,
                policy=self._policy(),
            )
            try:
                self._runner.run_jobs(dispatcher, check)
            finally:
                dispatcher.close()
        finally:
            if suggestions is not None:
                suggestions.close()
                outcome.warnings += suggestions.notes
        if suggestions is not None:
            if suggestions.error is not None:
                raise suggestions.error
            # Among the trials that are measured and summed up are now those that were drawn.
            outcome.plan = plan(planned.space, self._folder)

    def _policy(self) -> StoppingPolicy | None:
        """Return the stopper, with all that recorded trials of this sweep reported to it."""
        planned = self._outcome.plan
        if planned.space.stopper is None:
            return None
        policy = StoppingPolicy(planned.space)
        for trial in planned.trials:
            with suppress(FileNotFoundError, DamagedRecord):
                policy.replay([read_result(self._workspace.paths.trial(trial.trial_id).result)])
        return policy

    def _measure(self, check: Check) -> None:
        folders = self._unmeasured()
        if not folders:
            return
        self._print(f"measuring the latency of {len(folders)} networks, one at a time")

        def measured(folder: Path, error: str | None) -> None:
            check()
            self._events.latency_measured(folder.name, error)

        self._runner.measure_all(self._workspace.store, folders, self._allocation.resources, measured)

    def _unmeasured(self) -> list[Path]:
        """Return the folders of finished trials that have a network and no latency."""
        trials = (self._workspace.paths.trial(trial.trial_id) for trial in self._outcome.plan.trials)
        # In this order: nearly all of a large sweep have a latency, and a record takes long to read.
        return [t.folder for t in trials if not t.latency.exists() and t.cut.exists() and _is_done(t)]

    def _collect_failures(self) -> None:
        from orchestrator.records.parquet import load_table

        try:
            # The view, just written, tells which they are without ten thousand records being opened.
            table = load_table(self._folder).select(["trial_id", "status"]).to_pylist()
            failed = {row["trial_id"] for row in table if row["status"] in FAILED_STATUSES}
        except DamagedRecord:
            failed = recorded_ids(self._folder)
        for trial in self._outcome.plan.trials:
            if trial.trial_id in failed:
                result = read_result(self._workspace.paths.trial(trial.trial_id).result)
                if result.failed:
                    self._outcome.failures.append(result)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._outcome.seconds[what] = time.monotonic() - started

    def _reallocate(self, allocation: Allocation) -> None:
        save_fall_back(self._workspace.store, self._folder, allocation)
        self._allocation = allocation
        self._report_allocation()

    def _report_allocation(self) -> None:
        """Set the number of slots; print how it came about where it was measured."""
        allocation = self._allocation
        self._state.slots = self._runner.slots(allocation.resources)
        if allocation.whole is not None:
            cpus = f"{allocation.resources.cpus:g} CPU{'' if allocation.resources.cpus == 1 else 's'}"
            share = f"{allocation.per_gpu} trials a GPU, {cpus} each" if allocation.whole.gpus else f"{cpus} a trial"
            self._print(f"resources auto: {share} ({allocation.why})")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _save_search_space(workspace: Workspace, text: str) -> None:
    """Write the search space as run; an earlier, different one stays beside it under a number."""
    path = workspace.paths.searchspace
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        number = 1
        while (earlier := path.with_name(f"searchspace.{number}.yaml")).exists():
            number += 1
        os.replace(path, earlier)
        workspace.store.upload([earlier])
    workspace.store.write_marker(path, text)


def _is_done(trial: TrialPaths) -> bool:
    return trial.result.exists() and json.loads(trial.result.read_text())["status"] == "done"


def _forget_failure(store: Store, trial: TrialPaths) -> None:
    if trial.result.exists() and read_result(trial.result).failed:
        forget(store, trial.folder)


@contextmanager
def _driver_lock(workspace: Workspace) -> Iterator[Callable[[], bool]]:
    """Be the one driver of a sweep; yield a function that returns whether that was lost meanwhile."""
    with ExitStack() as stack:
        try:
            is_lost = stack.enter_context(hold_driver_lock(workspace.store, workspace.folder))
        except SweepLocked as locked:
            raise SweepBusy(str(locked)) from None
        yield is_lost
