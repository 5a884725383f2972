"""An adaptive search beside a running sweep: suggestions are computed ahead in a thread, results told as they come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from orchestrator.records.records import RESULT, DamagedRecord, read_latency, read_result, recorded_ids
from orchestrator.spec.errors import SpecError
from orchestrator.spec.failures import store_unavailable
from orchestrator.spec.result import TrialResult
from orchestrator.storage.store import Store
from orchestrator.sweep.planning import Plan, PlannedTrial, drawn_before
from orchestrator.sweep.search.base import Exhausted
from orchestrator.sweep.search.build import start_study
from orchestrator.sweep.search.drawn import forget_drawn, note_drawn
from orchestrator.sweep.search.observation import EvaluatedTrial, Observation, needs_latency, observe
from orchestrator.sweep.space.arms import match_record

JOURNAL = "optuna.journal"
"""In the sweep's folder: the search as Optuna's dashboard shows it, a view of the records."""
_AHEAD = 1
"""Suggestions kept ready, beside as many that are given out before a worker is free, which then need not wait for Tune
to come round: more would know less of what runs meanwhile."""
_LOOKING = 0.05
"""Share of the time for which the folder is looked through; with thousands of records it takes long."""


class Suggestions:
    """The trials of an adaptive search, one after another, until as many are recorded as were asked for.

    Every method returns at once (`take` waits where it is told to); a thread asks and tells the sampler.

    Args:
        planned: the sweep's plan, with what is drawn already; the caller runs what of it has no record.
        store: the store.
        folder: the sweep's folder in it.
        slots: trials that run at once; many more would be drawn without knowing what these give.
    """

    def __init__(self, planned: Plan, store: Store, folder: Path, slots: int) -> None:
        self._store = store
        self._planned, self._folder, self._slots = planned, folder, slots
        self._space, self._arms = planned.space, planned.arms
        self._wanted = planned.total
        self._counted = {trial.trial_id for trial in planned.trials}
        """Trials of this sweep: recorded, ready or under way."""
        self._ready: deque[PlannedTrial] = deque()
        self._news: deque[tuple[str, Observation]] = deque()
        self._arrivals: deque[EvaluatedTrial] = deque()
        self._changed = threading.Condition()
        self._over = self._closing = False
        self._full: OSError | None = None
        """What was met when there was no more space to note what is drawn."""
        self.error: SpecError | None = None
        """Why nothing could be tried at all."""
        self.notes: list[str] = []
        """What a reader of the sweep should know: suggestions in vain, a space without new points."""
        recorded = self._looked_at = recorded_ids(folder)
        self._next_look = 0.0
        self.unmeasured = [trial for trial in planned.trials if self._lacks_latency(trial.trial_id)]
        """Finished trials whose latency the caller must measure before the search can be told."""
        unended = [trial for trial in planned.trials if trial.trial_id not in recorded] + self.unmeasured
        self._under_way = {trial.trial_id for trial in unended}
        self._thread = threading.Thread(target=self._run, args=(unended,), name="suggestions", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Nothing more will come."""
        with self._changed:
            return self._enough() or (not self._ready and self._over)

    def take(self, wait: float = 0.0) -> PlannedTrial | None:
        """The next trial to run; None if there is none yet, or enough are under way.

        Raises:
            OSError: there is no space left to note what is drawn.
        """
        if len(self._under_way) >= self._slots + _AHEAD:
            return None
        self._adopt()
        with self._changed:
            if self._enough():
                return None
            if wait and not self._ready:
                self._changed.wait_for(lambda: self._ready or not self._may_ask(), wait)
            if not self._ready:
                if self._full is not None:
                    raise self._full
                return None
            trial = self._ready.popleft()
            self._under_way.add(trial.trial_id)
            self._changed.notify_all()
        return trial

    def ended(self, result: TrialResult) -> bool:
        """A trial has ended; False if its latency must be measured before the search can be told."""
        if self._lacks_latency(result.trial_id):
            return False
        observation = observe(self._space, result, read_latency(self._folder / "trials" / result.trial_id))
        with self._changed:
            self._under_way.discard(result.trial_id)
            self._counted.add(result.trial_id)
            self._news.append((result.trial_id, observation))
            self._changed.notify_all()
        return True

    def lost(self, trial_id: str) -> None:
        """A trial has ended and its latency cannot be measured: the search is told that it failed."""
        with self._changed:
            self._under_way.discard(trial_id)
            self._news.append((trial_id, Observation("failed")))
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; what was ready is given up."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(60)

    def _lacks_latency(self, trial_id: str) -> bool:
        """The search asks for the latency of a finished network that nobody has measured yet."""
        folder = self._folder / "trials" / trial_id
        if not needs_latency(self._space) or not (folder / "cut.json").exists() or read_latency(folder) is not None:
            return False
        return (folder / RESULT).exists() and read_result(folder / RESULT).status == "done"

    def _adopt(self) -> None:
        """A record that nobody here ran: a worker of an earlier driver has still written it."""
        started = time.monotonic()
        if started < self._next_look:
            return
        news = recorded_ids(self._folder) - self._counted - self._looked_at
        now = time.monotonic()
        self._next_look = now + (now - started) / _LOOKING
        for trial_id in news:
            self._looked_at.add(trial_id)
            folder = self._folder / "trials" / trial_id
            try:
                result = read_result(folder / RESULT)
            except DamagedRecord:
                continue
            trial = match_record(self._arms, result)
            if trial is not None:
                with self._changed:
                    self._counted.add(trial_id)
                    self._arrivals.append(EvaluatedTrial(trial, observe(self._space, result, read_latency(folder))))
                    self._changed.notify_all()

    def _enough(self) -> bool:
        """As many as were asked for are recorded or under way; a suggestion that is ready still is one too many."""
        return len(self._counted) - len(self._ready) >= self._wanted

    def _may_ask(self) -> bool:
        return not (self._over or self._closing) and len(self._counted) < self._wanted

    def _run(self, unended: Sequence[PlannedTrial]) -> None:
        try:
            self._serve(unended)
        except Exception as problem:
            if isinstance(problem, OSError) and store_unavailable(problem):
                self._full = problem
                self._end()
                return
            # Whatever ends the search must be heard of, not waited for.
            self._end(f"the search ended early: {problem or type(problem).__name__}")

    def _end(self, note: str | None = None) -> None:
        with self._changed:
            self._over = True
            self.notes += [note] if note else []
            self._changed.notify_all()

    def _serve(self, unended: Sequence[PlannedTrial]) -> None:
        known = self._known({trial.trial_id for trial in unended})
        # Optuna takes a second to import: in this thread, not in the driver's.
        proposer = start_study(self._space, self._arms, known, self._folder / JOURNAL)
        for trial in unended:
            proposer.register_running(trial)
        while True:
            with self._changed:
                self._changed.wait_for(self._something_to_do)
                news, arrivals = list(self._news), list(self._arrivals)
                self._news.clear()
                self._arrivals.clear()
                closing = self._closing
            for trial_id, observation in news:
                proposer.tell(trial_id, observation)
            for evaluated in arrivals:
                proposer.register_running(evaluated.trial)
                proposer.tell(evaluated.trial.trial_id, evaluated.observation)
            if closing:
                break
            if news or arrivals or not self._asks():
                continue
            try:
                trial = proposer.ask()
            except Exhausted as reason:
                self._end(f"the search ended before {self._wanted} trials: {reason}")
            except SpecError as problem:
                self.error = problem
                self._end()
            else:
                note_drawn(self._store, self._folder, trial)
                with self._changed:
                    self._counted.add(trial.trial_id)
                    self._ready.append(trial)
                    self._changed.notify_all()
        for trial in self._ready:
            proposer.cancel(trial.trial_id)
            forget_drawn(self._store, self._folder, trial)
        if proposer.impossible:
            self.notes.append(f"{proposer.impossible} suggestions could not be tried; the last: {proposer.problem}")

    def _asks(self) -> bool:
        return self._may_ask() and len(self._ready) < _AHEAD

    def _something_to_do(self) -> bool:
        return bool(self._closing or self._news or self._arrivals or self._asks())

    def _known(self, waiting: set[str]) -> list[EvaluatedTrial]:
        """What is recorded, of this sweep and of those it starts from; this sweep's word goes first."""
        known = list(self._planned.known)
        # What has been recorded since the sweep was planned: a worker of an earlier driver may have lived so long.
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
