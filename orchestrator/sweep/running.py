"""One sweep from plan to views: what is recorded stays, what is missing runs, then the networks are measured alone."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import Range, SearchSpace
from orchestrator.spec.workspace import Workspace, store_folder
from orchestrator.store.records import DamagedRecord, forget, read_latency, read_result, recorded_ids
from orchestrator.sweep.adaptive import Suggestions
from orchestrator.sweep.jobs import Events, Job, measuring_job, remaining_jobs
from orchestrator.sweep.planning import ADAPTIVE, Plan, plan
from orchestrator.sweep.progress import State, outcome_line, view_of
from orchestrator.sweep.stoppers import Referee


class SweepBusy(RuntimeError):
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
        SpecError: the search space cannot be used; nothing was written.
        SweepBusy: another driver is at it.
    """
    console = console or Console(stderr=True)
    folder = store_folder(out).resolve() / space.name
    planned = plan(space, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _keep(folder / "searchspace.yaml", as_yaml(space))
        if retry_failed:
            for trial in planned.trials:
                _forget_failure(folder / "trials" / trial.trial_id)
        return _Driver(planned, folder, address, console).run()


class _Driver(Events):
    """Hears of the jobs and keeps the outcome, the display and the views."""

    def __init__(self, planned: Plan, folder: Path, address: str, console: Console) -> None:
        self._folder = folder
        self._address = address
        self._console = console
        self._workspace = Workspace(folder.parent, folder.name)
        self.outcome = Outcome(planned, folder)
        recorded = recorded_ids(folder)
        done_before = sum(trial.trial_id in recorded for trial in planned.trials)
        self._jobs = remaining_jobs(planned, recorded, self._stage_is_there)
        self._state = State(planned.space.name, planned.total, done_before)
        self._view = view_of(self._state, console)

    def run(self) -> Outcome:
        from orchestrator.store.view_writer import ViewWriter

        space = self.outcome.plan.space
        with ViewWriter(
            self._folder.parent, space.name, question=space.question or "", searchspace=as_yaml(space)
        ) as self._views:
            if self._jobs or self.outcome.plan.to_draw or self._unmeasured():
                self._on_the_cluster(self.outcome.plan)
            if self.outcome.interrupted:
                # A worker may have finished after the driver stopped listening.
                for trial_id in recorded_ids(self._folder):
                    self._views.put(trial_id)
            self._collect_failures()
            self.outcome.warnings += self._views.close("KILLED" if self.outcome.interrupted else "FINISHED")
        return self.outcome

    def _on_the_cluster(self, planned: Plan) -> None:
        # Ray takes a second to import; a sweep with nothing left to do never needs it.
        from orchestrator.sweep import measuring, preflight, ray_tune

        resources = planned.space.resources
        data_cache = os.environ.get("PRUNESWEEP_DATA_CACHE")
        place = {
            "out": str(self._folder.parent),
            "sweep": self._folder.name,
            "cpus": resources.cpus,
            "data_cache": data_cache,
        }
        preflight.check_address(self._address)
        with ray_tune.cluster(self._address, resources.cpus):
            if self._address != "local":
                preflight.check_nodes(self._address, self._folder.parent, [trial.spec for trial in planned.trials])
            self._state.slots = ray_tune.slots(resources)
            try:
                with ray_tune.interruptible() as check:
                    if self._jobs or planned.to_draw:
                        with self._timed("trials"), self._view:
                            self._run_jobs(ray_tune.run_jobs, place, check)
                    with self._timed("measuring"):
                        self._measure(measuring.measure_all, check)
            except (ray_tune.Interrupted, KeyboardInterrupt):
                self.outcome.interrupted = True
            except ray_tune.StoreFull as full:
                self.outcome.interrupted = True
                self.outcome.warnings.append(f"{self._folder.parent} is full: {full}")

    def _run_jobs(self, run_jobs: Callable[..., None], place: Mapping[str, Any], check: Callable[[], None]) -> None:
        planned = self.outcome.plan
        jobs, suggestions = self._jobs, None
        if planned.space.search.name in ADAPTIVE:
            suggestions = Suggestions(planned, self._folder, self._state.slots)
            jobs = [*jobs, *map(measuring_job, suggestions.unmeasured)]
        try:
            run_jobs(
                jobs,
                place,
                planned.space.resources,
                self,
                check,
                suggestions=suggestions,
                stage_is_there=self._stage_is_there,
                referee=self._referee(),
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

    def _referee(self) -> Referee | None:
        """The stopper, with all that trials of this sweep told it before."""
        planned = self.outcome.plan
        if planned.space.stopper is None:
            return None
        referee = Referee(planned.space)
        for trial in planned.trials:
            with suppress(FileNotFoundError, DamagedRecord):
                referee.recall([read_result(self._folder / "trials" / trial.trial_id / "result.json")])
        return referee

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

        measure_all(folders, self.outcome.plan.space.resources, measured)

    def _unmeasured(self) -> list[Path]:
        folders = (self._folder / "trials" / trial.trial_id for trial in self.outcome.plan.trials)
        return [f for f in folders if (f / "cut.json").exists() and _is_done(f) and read_latency(f) is None]

    def _collect_failures(self) -> None:
        for trial in self.outcome.plan.trials:
            path = self._folder / "trials" / trial.trial_id / "result.json"
            if path.exists():
                result = read_result(path)
                if result.status in ("failed", "diverged"):
                    self.outcome.failures.append(result)

    def _stage_is_there(self, name: str, key: str) -> bool:
        return (self._workspace.stage_folder(name, key) / "stage.json").exists()

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.outcome.seconds[what] = time.monotonic() - started

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

    def tick(self) -> None:
        self._view.update()


def as_yaml(space: SearchSpace) -> str:
    """The search space as it runs, settings applied; loading it gives the same plan."""

    def plain(axes: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v.model_dump(exclude_defaults=True) if isinstance(v, Range) else v for k, v in axes.items()}

    raw = space.model_dump(exclude_defaults=True, exclude={"axes", "arms"})
    if space.axes:
        raw["axes"] = plain(space.axes)
    if space.arms:
        raw["arms"] = [
            {
                **({"name": arm.name} if arm.name else {}),
                **arm.overrides,
                **({"axes": plain(arm.axes)} if arm.axes else {}),
            }
            for arm in space.arms
        ]
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def _keep(path: Path, text: str) -> None:
    """Write the search space as run; an earlier, different one stays beside it under a number."""
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        number = 1
        while (earlier := path.with_name(f"searchspace.{number}.yaml")).exists():
            number += 1
        os.replace(path, earlier)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _is_done(folder: Path) -> bool:
    path = folder / "result.json"
    return path.exists() and json.loads(path.read_text())["status"] == "done"


def _forget_failure(folder: Path) -> None:
    path = folder / "result.json"
    if path.exists() and read_result(path).status in ("failed", "diverged"):
        forget(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One driver a sweep; the lock falls with the process that holds it."""
    with open(folder / ".driver", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise SweepBusy(f"{folder}: another driver runs this sweep ({lock.read().strip()})") from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"host {platform.node()}, pid {os.getpid()}")
        lock.flush()
        yield
