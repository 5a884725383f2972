"""The suggestions of an adaptive search, computed ahead in a thread beside the running sweep."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from orchestrator.records.records import DamagedRecord, read_latency, read_result, recorded_ids
from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import reason_of, store_unavailable
from orchestrator.spec.result import TrialResult
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep.planning import Plan, PlannedTrial, drawn_before
from orchestrator.sweep.search.base import Exhausted
from orchestrator.sweep.search.build import start_study
from orchestrator.sweep.search.drawn import forget_drawn, note_drawn
from orchestrator.sweep.search.observation import EvaluatedTrial, Observation, needs_latency, observe
from orchestrator.sweep.space.arms import match_record

_AHEAD = 1
"""Suggestions kept ready, and as many handed out before a worker is free, which need not wait then: more would be drawn
knowing less of the results."""
_SCAN_SHARE = 0.05
"""Share of the time spent on listing the sweep's folder, which takes long with thousands of records."""


class Suggestions:
    """The trials of an adaptive search, one after another, until as many are recorded as the search space says.

    Every method returns at once (`take` after `wait` seconds at most); a thread asks and tells the sampler.

    Args:
        planned: the sweep's plan, with the trials drawn before; the caller runs those of them that have no record.
        store: the store.
        folder: the sweep's folder in it.
        slots: trials that run at once; hardly more are drawn ahead of their results.
    """

    def __init__(self, planned: Plan, store: Store, folder: Path, slots: int) -> None:
        self._store = store
        self._planned, self._folder, self._slots = planned, folder, slots
        self._paths = SweepPaths(folder)
        self._space, self._arms = planned.space, planned.arms
        self._total = planned.total
        self._counted = {trial.trial_id for trial in planned.trials}
        """Ids of this sweep's trials: recorded, ready or running."""
        self._ready: deque[PlannedTrial] = deque()
        self._ended: deque[tuple[str, Observation]] = deque()
        self._foreign: deque[EvaluatedTrial] = deque()
        self._changed = threading.Condition()
        self._is_over = self._is_closing = False
        self._has_drawn = False
        """Whether the search has suggested a trial here; until then, whatever it raises is an error."""
        self._store_error: OSError | None = None
        """Why no drawn trial can be noted any more."""
        self.error: SpecError | None = None
        """Why no trial could be drawn at all."""
        self.notes: list[str] = []
        """Warnings for the user: suggestions that could not be tried, a space without new points."""
        recorded = self._scanned = recorded_ids(folder)
        self._next_scan = 0.0
        self.unmeasured = [trial for trial in planned.trials if self._lacks_latency(trial.trial_id)]
        """Finished trials whose latency the caller must measure first, because the search needs it."""
        unended = [trial for trial in planned.trials if trial.trial_id not in recorded] + self.unmeasured
        self._running = {trial.trial_id for trial in unended}
        self._thread = threading.Thread(target=self._run, args=(unended,), name="suggestions", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether no suggestion will come any more."""
        with self._changed:
            return self._enough() or (not self._ready and self._is_over)

    def take(self, wait: float = 0.0) -> PlannedTrial | None:
        """Return the next trial to run; None if there is none yet, or enough are running.

        Raises:
            OSError: the store cannot be written, so that no drawn trial can be noted.
        """
        if len(self._running) >= self._slots + _AHEAD:
            return None
        self._adopt_records()
        with self._changed:
            if self._enough():
                return None
            if wait and not self._ready:
                self._changed.wait_for(lambda: self._ready or not self._may_ask(), wait)
            if not self._ready:
                if self._store_error is not None:
                    raise self._store_error
                return None
            trial = self._ready.popleft()
            self._running.add(trial.trial_id)
            self._changed.notify_all()
        return trial

    def ended(self, result: TrialResult) -> bool:
        """Tell the search of an ended trial; return False, and tell nothing, if its latency must be measured first."""
        if self._lacks_latency(result.trial_id):
            return False
        observation = observe(self._space, result, read_latency(self._paths.trial(result.trial_id).folder))
        with self._changed:
            self._running.discard(result.trial_id)
            self._counted.add(result.trial_id)
            self._ended.append((result.trial_id, observation))
            self._changed.notify_all()
        return True

    def lost(self, trial_id: str) -> None:
        """Tell the search that a trial failed, because its latency cannot be measured."""
        with self._changed:
            self._running.discard(trial_id)
            self._ended.append((trial_id, Observation("failed")))
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; suggestions that are ready are withdrawn."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(60)

    def _lacks_latency(self, trial_id: str) -> bool:
        """Return whether the search needs the latency of a finished network that has none yet."""
        paths = self._paths.trial(trial_id)
        if not needs_latency(self._space) or not paths.cut.exists() or read_latency(paths.folder) is not None:
            return False
        return paths.result.exists() and read_result(paths.result).status == "done"

    def _adopt_records(self) -> None:
        """Look for records of trials that were not run here: workers of an earlier driver may still write them."""
        started = time.monotonic()
        if started < self._next_scan:
            return
        news = recorded_ids(self._folder) - self._counted - self._scanned
        now = time.monotonic()
        self._next_scan = now + (now - started) / _SCAN_SHARE
        for trial_id in news:
            self._scanned.add(trial_id)
            paths = self._paths.trial(trial_id)
            try:
                result = read_result(paths.result)
            except DamagedRecord:
                continue
            trial = match_record(self._arms, result)
            if trial is not None:
                with self._changed:
                    self._counted.add(trial_id)
                    self._foreign.append(
                        EvaluatedTrial(trial, observe(self._space, result, read_latency(paths.folder)))
                    )
                    self._changed.notify_all()

    def _enough(self) -> bool:
        """Return whether as many trials as wanted are recorded or running; one that is ready would be too many."""
        return len(self._counted) - len(self._ready) >= self._total

    def _may_ask(self) -> bool:
        return not (self._is_over or self._is_closing) and len(self._counted) < self._total

    def _run(self, unended: Sequence[PlannedTrial]) -> None:
        try:
            self._serve(unended)
        except (Exception, SystemExit) as problem:
            # Nobody may wait for a thread that has ended.
            if isinstance(problem, OSError) and store_unavailable(problem):
                self._store_error = problem
                self._end()
            elif self._has_drawn:
                self._end(f"the search ended early: {problem or type(problem).__name__}")
            else:
                reason = f"{self._space.search.name!r} cannot draw a trial: {reason_of(problem)}"
                self.error = problem if isinstance(problem, SpecError) else SpecError("search.name", reason)
                self._end()

    def _end(self, note: str | None = None) -> None:
        with self._changed:
            self._is_over = True
            self.notes += [note] if note else []
            self._changed.notify_all()

    def _serve(self, unended: Sequence[PlannedTrial]) -> None:
        known = self._known({trial.trial_id for trial in unended})
        # Optuna takes a second to import: in this thread, not in the driver's.
        proposer = start_study(self._space, self._arms, known, self._paths.journal)
        for trial in unended:
            proposer.register_running(trial)
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                news, arrivals = list(self._ended), list(self._foreign)
                self._ended.clear()
                self._foreign.clear()
                closing = self._is_closing
            for trial_id, observation in news:
                proposer.tell(trial_id, observation)
            for evaluated in arrivals:
                proposer.register_running(evaluated.trial)
                proposer.tell(evaluated.trial.trial_id, evaluated.observation)
            if closing:
                break
            if news or arrivals or not self._shall_ask():
                continue
            try:
                trial = proposer.ask()
            except Exhausted as reason:
                self._end(f"the search ended before {self._total} trials: {reason}")
            except SpecError as problem:
                self.error = problem
                self._end()
            else:
                note_drawn(self._store, self._folder, trial)
                self._has_drawn = True
                with self._changed:
                    self._counted.add(trial.trial_id)
                    self._ready.append(trial)
                    self._changed.notify_all()
        for trial in self._ready:
            proposer.cancel(trial.trial_id)
            forget_drawn(self._store, self._folder, trial)
        if proposer.impossible:
            self.notes.append(f"{proposer.impossible} suggestions could not be tried; the last: {proposer.problem}")

    def _shall_ask(self) -> bool:
        return self._may_ask() and len(self._ready) < _AHEAD

    def _has_work(self) -> bool:
        return bool(self._is_closing or self._ended or self._foreign or self._shall_ask())

    def _known(self, waiting: set[str]) -> list[EvaluatedTrial]:
        """Return the recorded trials of this sweep and of those it starts from; this sweep's records win."""
        known = list(self._planned.known)
        # Recorded since the sweep was planned: a worker of an earlier driver may have lived so long.
        known += drawn_before(
            self._space, self._arms, self._folder, {evaluated.trial.trial_id for evaluated in known} | waiting
        )
        for name in self._space.search.warm_start:
            known += drawn_before(self._space, self._arms, self._folder.parent / name)
        first: dict[str, EvaluatedTrial] = {}
        for evaluated in known:
            if evaluated.trial.trial_id not in waiting:
                first.setdefault(evaluated.trial.trial_id, evaluated)
        return list(first.values())
