"""One sweep from plan to views: what is recorded stays, what is missing runs, then the networks are measured alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.records.bucket_sync import refresh_with_warm_starts
from orchestrator.records.records import LATENCY, DamagedRecord, forget, read_result, recorded_ids
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.result import FAILED_STATUSES, TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.trial import TrialSpec
from orchestrator.spec.yaml_text import as_yaml
from orchestrator.storage.bucket import PATIENCE
from orchestrator.storage.driver_lock import SweepLocked, hold_driver_lock
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.allocation import Allocation, kept, resources_of, save_fall_back
from orchestrator.sweep.driver.display import State, outcome_line, view_of
from orchestrator.sweep.driver.jobs import Events, Job, measuring_job, remaining_jobs
from orchestrator.sweep.driver.suggestions import Suggestions
from orchestrator.sweep.planning import Plan, plan
from orchestrator.sweep.search.build import is_adaptive
from orchestrator.sweep.stopping.policy import StoppingPolicy


class SweepBusy(PrunesweepError, RuntimeError):
    """Another driver runs this sweep."""


@dataclass
class Outcome:
    """What one run of a sweep did."""

    plan: Plan
    folder: Path
    executed: int = 0
    """Trials run now."""
    trained: dict[str, int] = field(default_factory=dict)
    """Shared stages computed now, by name."""
    measured: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of the trials and of the measuring wave."""
    failures: list[TrialResult] = field(default_factory=list)
    """Planned trials that failed or diverged, now or before."""
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)


def run(
    space: SearchSpace,
    *,
    out: str | Path = "runs",
    address: str = "local",
    retry_failed: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Run or resume a sweep.

    Args:
        space: the search space, as loaded.
        out: the store; the sweep is a folder in it, named after the search space.
        address: ``local`` for this machine, ``auto`` or ``HOST:PORT`` for a Ray cluster.
        retry_failed: run trials again that failed or diverged before.
        console: where progress goes; by default standard error.

    Raises:
        SpecError: the search space cannot be used; nothing was trained.
        SweepBusy: another driver is at it.
    """
    console = console or Console(stderr=True)
    store = Store.open(out, patience=PATIENCE).resolve()
    folder = store.folder / space.name
    if store.bucket is not None:
        store.bucket.check(folder)
    refresh_with_warm_starts(store, folder, space.search.warm_start)
    planned = plan(space, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(store, folder) as lost:
        if store.bucket is not None:
            # What an earlier driver's last workers wrote while it was found out that they are gone.
            store.refresh(folder)
            planned = plan(space, folder)
        _keep(store, folder / "searchspace.yaml", as_yaml(space))
        if retry_failed:
            for trial in planned.trials:
                _forget_failure(store, folder / "trials" / trial.trial_id)
        return _Driver(planned, store, address, console, lost).run()


class _Driver(Events):
    """Hears of the jobs and keeps the outcome, the display and the views."""

    def __init__(self, planned: Plan, store: Store, address: str, console: Console, lost: Callable[[], bool]) -> None:
        self._store = store
        self._folder = folder = store.folder / planned.space.name
        self._lost = lost
        self._cached = store.cached_stages()
        self._address = address
        self._console = console
        self._workspace = Workspace(store, folder.name)
        self.outcome = Outcome(planned, folder)
        recorded = recorded_ids(folder)
        done_before = sum(trial.trial_id in recorded for trial in planned.trials)
        self._jobs = remaining_jobs(planned, recorded, self._stage_is_there)
        self._allocation = Allocation(resources_of(planned.space, folder))
        self._state = State(planned.space.name, planned.total, done_before)
        self._view = view_of(self._state, console)

    def run(self) -> Outcome:
        from orchestrator.records.views import ViewWriter

        space = self.outcome.plan.space
        with ViewWriter(
            self._store, space.name, question=space.question or "", searchspace=as_yaml(space)
        ) as self._views:
            if self._jobs or self.outcome.plan.to_draw or self._unmeasured():
                self._on_the_cluster(self.outcome.plan)
            if self.outcome.interrupted:
                # A worker may have finished after the driver stopped listening.
                self._store.refresh(self._folder)
                for trial_id in recorded_ids(self._folder):
                    self._views.put(trial_id)
            self.outcome.warnings += self._views.close("KILLED" if self.outcome.interrupted else "FINISHED")
        self._collect_failures()
        return self.outcome

    def _on_the_cluster(self, planned: Plan) -> None:
        # Ray takes a second to import; a sweep with nothing left to do never needs it.
        from orchestrator.sweep.cluster import latency_wave as measuring
        from orchestrator.sweep.cluster import node_checks as preflight
        from orchestrator.sweep.cluster import probes as rehearsing
        from orchestrator.sweep.cluster import tune_runner as ray_tune

        data_cache = os.environ.get("PRUNESWEEP_DATA_CACHE")
        place = {
            "out": self._store.address,
            "sweep": self._folder.name,
            "data_cache": data_cache,
        }
        preflight.check_address(self._address)
        with ray_tune.cluster(self._address, resources_of(planned.space, self._folder).cpus):
            if self._address != "local":
                preflight.check_nodes(self._address, self._store, [trial.spec for trial in planned.trials])
            try:
                with ray_tune.interruptible() as check:
                    waiting = {job.key for job in self._jobs if job.kind == "trial"}
                    if waiting or planned.to_draw or kept(self._folder) is None:
                        with self._timed("checks"):
                            rehearsing.check_networks(planned, waiting, self._has_trained, check)
                            cache = Path(data_cache) if data_cache else None
                            self._allocation = rehearsing.allocation_of(planned, waiting, self._workspace, cache, check)
                    self._report_allocation()
                    if self._jobs or planned.to_draw:
                        with self._timed("trials"), self._view:
                            self._run_jobs(ray_tune.run_jobs, place, check)
                    with self._timed("measuring"):
                        self._measure(measuring.measure_all, check)
            except (ray_tune.Interrupted, KeyboardInterrupt):
                self.outcome.interrupted = True
            except ray_tune.StoreFull as full:
                self.outcome.interrupted = True
                self.outcome.warnings.append(f"{self._store.address} takes no more: {full}")

    def _run_jobs(self, run_jobs: Callable[..., None], place: Mapping[str, Any], check: Callable[[], None]) -> None:
        planned = self.outcome.plan
        jobs, suggestions = self._jobs, None
        if is_adaptive(planned.space.search):
            suggestions = Suggestions(planned, self._store, self._folder, self._state.slots)
            jobs = [*jobs, *map(measuring_job, suggestions.unmeasured)]
        try:
            run_jobs(
                jobs,
                place,
                self._allocation,
                self,
                check,
                suggestions=suggestions,
                stage_is_there=self._stage_is_there,
                policy=self._policy(),
            )
        finally:
            if suggestions is not None:
                suggestions.close()
                self.outcome.warnings += suggestions.notes
        if suggestions is not None:
            if suggestions.error is not None:
                raise suggestions.error
            # Among the trials that are measured and summed up are now those that were drawn.
            self.outcome.plan = plan(planned.space, self._folder)

    def _policy(self) -> StoppingPolicy | None:
        """The stopper, with all that trials of this sweep told it before."""
        planned = self.outcome.plan
        if planned.space.stopper is None:
            return None
        policy = StoppingPolicy(planned.space)
        for trial in planned.trials:
            with suppress(FileNotFoundError, DamagedRecord):
                policy.replay([read_result(self._folder / "trials" / trial.trial_id / "result.json")])
        return policy

    def _measure(self, measure_all: Callable[..., None], check: Callable[[], None]) -> None:
        folders = self._unmeasured()
        if not folders:
            return
        self._say(f"measuring the latency of {len(folders)} networks, one at a time")

        def measured(folder: Path, error: str | None) -> None:
            check()
            if error is None:
                self.outcome.measured += 1
                self._views.put(folder.name)
            else:
                self.outcome.warnings.append(f"no latency for {folder.name}: {error}")

        measure_all(self._store, folders, self._allocation.resources, measured)

    def _unmeasured(self) -> list[Path]:
        folders = (self._folder / "trials" / trial.trial_id for trial in self.outcome.plan.trials)
        # In this order: nearly all of a large sweep have a latency, and a record takes long to read.
        return [f for f in folders if not (f / LATENCY).exists() and (f / "cut.json").exists() and _is_done(f)]

    def _collect_failures(self) -> None:
        from orchestrator.records.parquet import load_table

        try:
            # The view, just written, tells which they are without ten thousand records being opened.
            table = load_table(self._folder).select(["trial_id", "status"]).to_pylist()
            failed = {row["trial_id"] for row in table if row["status"] in FAILED_STATUSES}
        except DamagedRecord:
            failed = recorded_ids(self._folder)
        for trial in self.outcome.plan.trials:
            if trial.trial_id in failed:
                result = read_result(self._folder / "trials" / trial.trial_id / "result.json")
                if result.failed:
                    self.outcome.failures.append(result)

    def _stage_is_there(self, name: str, key: str) -> bool:
        if self._cached is not None:
            return (name, key) in self._cached
        return (self._workspace.stage_folder(name, key) / "stage.json").exists()

    def _has_trained(self, spec: TrialSpec) -> bool:
        """The network of this trial has been trained on its data."""
        return self._stage_is_there("baseline", spec.baseline_key)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.outcome.seconds[what] = time.monotonic() - started

    def _report_allocation(self) -> None:
        """Slots follow from what a trial holds; where that was measured, a line says what came of it."""
        from orchestrator.sweep.cluster.tune_runner import slots

        allocation = self._allocation
        self._state.slots = slots(allocation.resources)
        if allocation.whole is not None:
            cpus = f"{allocation.resources.cpus:g} CPU{'' if allocation.resources.cpus == 1 else 's'}"
            told = f"{allocation.per_gpu} trials a GPU, {cpus} each" if allocation.whole.gpus else f"{cpus} a trial"
            self._say(f"resources auto: {told} ({allocation.why})")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    # What the jobs tell.

    def started(self, job: Job) -> None:
        self._state.start(job)

    def epoch(self, job: Job, event: Mapping[str, Any]) -> None:
        self._state.epoch(job.key, event)

    def stage_ended(self, job: Job, error: str | None) -> None:
        self._state.stage_ended(job.key)
        if error is None:
            if self._cached is not None:
                self._cached.add((job.kind, job.key))
            self.outcome.trained[job.kind] = self.outcome.trained.get(job.kind, 0) + 1
        what = f"{job.owner} {job.kind} ({job.spec.model.name}, seed {job.spec.seed})"
        self._view.update(f"{what}: {'computed' if error is None else error}")

    def trial_ended(self, job: Job, result: TrialResult) -> None:
        self.outcome.executed += 1
        self._state.trial_ended(job.key, result)
        self._views.put(result.trial_id)
        self._view.update(outcome_line(result))

    def measured(self, job: Job, error: str | None) -> None:
        self._state.stage_ended(job.key)
        trial_id = job.spec.trial_id
        if error is None:
            self.outcome.measured += 1
            self._views.put(trial_id)
        else:
            self.outcome.warnings.append(f"no latency for {trial_id}: {error}")

    def returned(self, job: Job) -> None:
        self._state.running.pop(job.key, None)

    def reallocated(self, allocation: Allocation) -> None:
        save_fall_back(self._store, self._folder, allocation)
        self._allocation = allocation
        self._report_allocation()

    def tick(self) -> None:
        if self._lost():
            from orchestrator.sweep.cluster.tune_runner import Interrupted

            self.outcome.warnings.append("another driver has taken this sweep over: the bucket was away for too long")
            raise Interrupted
        self._view.update()


def _keep(store: Store, path: Path, text: str) -> None:
    """Write the search space as run; an earlier, different one stays beside it under a number."""
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        number = 1
        while (earlier := path.with_name(f"searchspace.{number}.yaml")).exists():
            number += 1
        os.replace(path, earlier)
        store.upload([earlier])
    store.write_marker(path, text)


def _is_done(folder: Path) -> bool:
    path = folder / "result.json"
    return path.exists() and json.loads(path.read_text())["status"] == "done"


def _forget_failure(store: Store, folder: Path) -> None:
    path = folder / "result.json"
    if path.exists() and read_result(path).failed:
        forget(store, folder)


@contextmanager
def _alone(store: Store, folder: Path) -> Iterator[Callable[[], bool]]:
    """One driver a sweep; yields whether that was lost meanwhile."""
    with ExitStack() as stack:
        try:
            lost = stack.enter_context(hold_driver_lock(store, folder))
        except SweepLocked as busy:
            raise SweepBusy(str(busy)) from None
        yield lost
