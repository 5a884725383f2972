"""Adaptive searches by Optuna: a study that is asked for trials and told their observations."""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import optuna
from optuna.samplers import BaseSampler
from optuna.storages.journal import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.plugins import Count
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.search.adaptive.journal import Journal
from orchestrator.sweep.search.adaptive.parameters import SEED, Parameters
from orchestrator.sweep.search.adaptive.verbosity import errors_only
from orchestrator.sweep.search.base import AdaptiveSearch, Exhausted, Study
from orchestrator.sweep.search.observation import EvaluatedTrial, Observation
from orchestrator.sweep.space.arms import ExpandedArm, PlannedTrial, values

_STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
_PATIENCE = 30
"""Suggestions in a row without a new trial, before an unseen point of a finite space is taken instead."""
_HOPELESS = 200
"""The same, before the search gives up."""
_COUNTABLE = 100_000
"""Points of a finite space that are listed at most."""


@dataclass(frozen=True)
class OptunaSearch(AdaptiveSearch):
    """Base of an adaptive search by a sampler of Optuna."""

    trials: Count
    seed: int = 0

    joint: ClassVar[bool] = True
    """The sampler takes no conditional parameters: those of all arms are drawn together."""

    def sampler(self, n_objectives: int, seed: int) -> BaseSampler:
        """Return the sampler."""
        raise NotImplementedError

    def system_attrs(self, n_complete: int) -> dict[str, Any]:
        """Return what the sampler keeps with a recorded trial before which so many were complete."""
        return {}

    def start(
        self,
        space: SearchSpace,
        arms: Sequence[ExpandedArm],
        evaluated: Sequence[EvaluatedTrial] = (),
        journal: Path | None = None,
    ) -> Study:
        return AskTell(self, space, arms, evaluated, journal)


class AskTell:
    """A study of Optuna over the arms of a search space.

    Args:
        search: chooses the sampler.
        space: the search space, with objectives and constraints.
        arms: its arms, expanded.
        evaluated: what is recorded already, in order.
        journal: the file of the study, which Optuna's dashboard opens; a view of the records. None: in memory.
    """

    def __init__(
        self,
        search: OptunaSearch,
        space: SearchSpace,
        arms: Sequence[ExpandedArm],
        evaluated: Sequence[EvaluatedTrial] = (),
        journal: Path | None = None,
    ) -> None:
        errors_only()
        self._search, self._space, self._arms = search, space, arms
        self._parameters = Parameters([arm.label for arm in arms], [arm.axes for arm in arms])
        self._observations = {known.trial.trial_id: known.observation for known in evaluated}
        """Of ended trials."""
        self._pending: dict[str, list[optuna.Trial]] = {}
        """Optuna's trials that wait for the observation of one of ours."""
        self._running: dict[str, PlannedTrial] = {}
        """Trials that an earlier driver drew."""
        self._suggested = {_point_key(known.trial.arm_index, known.trial.point) for known in evaluated}
        self._unsuggested = _shuffled(arms, search.seed)
        self.impossible = 0
        """Suggestions that resolve to no trial; Optuna is told that they failed."""
        self.problem: SpecError | None = None
        """Why the last of them does not."""
        self.repeated = 0
        """Suggestions that were answered from a record, or wait for a trial that runs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = self._open(evaluated, journal)

    def ask(self) -> PlannedTrial:
        """Return a trial that is neither recorded nor running.

        Raises:
            Exhausted: there is none, or none was found.
            SpecError: nothing that was suggested could be tried, and no trial has ever ended.
        """
        for attempt in range(_HOPELESS):
            suggestion = self._study.ask() if attempt < _PATIENCE else self._ask_unsuggested()
            index, point = self._point_of(suggestion)
            self._suggested.add(_point_key(index, point))
            try:
                trial = self._arms[index].trial(point)
            except SpecError as error:
                suggestion.set_user_attr("error", str(error))
                self._study.tell(suggestion, state=TrialState.FAIL)
                self.impossible += 1
                self.problem = error
                continue
            suggestion.set_user_attr("trial_id", trial.trial_id)
            suggestion.set_user_attr("point", json.dumps(dict(trial.point)))
            if trial.trial_id in self._observations:
                self._tell(suggestion, self._observations[trial.trial_id])
            elif trial.trial_id in self._pending:
                self._pending[trial.trial_id].append(suggestion)
            else:
                self._pending[trial.trial_id] = [suggestion]
                return trial
            self.repeated += 1
        if self.problem is not None and not self._observations and not self._pending:
            raise self.problem
        reason = f"; of those that could not be tried, the last: {self.problem}" if self.problem is not None else ""
        raise Exhausted(f"{_HOPELESS} suggestions in a row led to no new trial{reason}")

    def register_running(self, trial: PlannedTrial) -> None:
        """Register a trial that an earlier driver drew, so that its observation can be told."""
        self._pending.setdefault(trial.trial_id, [])
        self._running[trial.trial_id] = trial

    def tell(self, trial_id: str, observation: Observation) -> None:
        """Tell Optuna the observation of an ended trial."""
        self._observations[trial_id] = observation
        for suggestion in self._pending.pop(trial_id, []):
            self._tell(suggestion, observation)
        trial = self._running.pop(trial_id, None)
        if trial is not None:
            self._study.add_trials(self._frozen_trials([EvaluatedTrial(trial, observation)]))

    def cancel(self, trial_id: str) -> None:
        """Tell Optuna that a trial will not run now."""
        for suggestion in self._pending.pop(trial_id, []):
            self._study.tell(suggestion, state=TrialState.FAIL)

    def _tell(self, suggestion: optuna.Trial, observation: Observation) -> None:
        for name, violation in observation.violations.items():
            suggestion.set_constraint(name, violation)
        if observation.state == "stopped" and observation.values:
            suggestion.report(observation.values[0], _step(observation))
        values = list(observation.values) if observation.state == "complete" else None
        self._study.tell(suggestion, values, state=_STATES[observation.state])

    def _ask_unsuggested(self) -> optuna.Trial:
        """Enqueue a point of a finite space that was never suggested, and ask for it."""
        if self._unsuggested is None:
            return self._study.ask()
        while self._unsuggested:
            index, point = self._unsuggested.pop()
            if _point_key(index, point) not in self._suggested:
                params = self._parameters.of(index, point, random.Random(str(point)) if self._search.joint else None)
                self._study.enqueue_trial(params, user_attrs={"seed": point.get(SEED)})
                return self._study.ask()
        raise Exhausted("every point of the search space has been tried")

    def _point_of(self, suggestion: optuna.Trial) -> tuple[int, dict[str, Any]]:
        """Index of the arm and a point of its axes; the seed, which is noise, is not drawn by the sampler."""
        index, point = self._parameters.draw(suggestion, joint=self._search.joint)
        axis = self._arms[index].axes.get(SEED)
        if axis is None:
            return index, point
        seed = suggestion.user_attrs.get("seed")
        if seed is None:
            seed = random.Random(f"{self._search.seed}/{suggestion.number}").choice(values(axis) or [0])
        point[SEED] = seed
        return index, {name: point[name] for name in self._arms[index].axes}

    def _open(self, evaluated: Sequence[EvaluatedTrial], journal: Path | None) -> optuna.Study:
        digest = hashlib.sha256(
            json.dumps(
                [self._parameters.described(), self._search.joint, self._space.objectives, self._space.constraints],
                default=str,
            ).encode()
        ).hexdigest()
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [ways[way] for way in self._space.objectives.values()]

        def study(storage: Any) -> optuna.Study:
            return optuna.create_study(
                storage=storage,
                study_name=self._space.name,
                directions=directions,
                sampler=self._search.sampler(len(directions), self._sampler_seed(len(evaluated))),
                load_if_exists=True,
            )

        def filled(storage: Any) -> optuna.Study:
            new = study(storage)
            new.set_user_attr("space", digest)
            new.set_metric_names(list(self._space.objectives))
            new.add_trials(self._frozen_trials(evaluated))
            return new

        if journal is None:
            return filled(None)
        try:
            kept = study(JournalStorage(Journal(journal)))
            if kept.user_attrs.get("space") == digest and _agrees(kept, evaluated):
                return kept
        except Exception:
            # A journal that a kill cut off, or of another Optuna: a view is made anew whatever is wrong with it.
            pass
        journal.unlink(missing_ok=True)
        return filled(JournalStorage(Journal(journal)))

    def _sampler_seed(self, n_recorded: int) -> int:
        # Not the same numbers again after a resume: they would lead to what is recorded.
        return int.from_bytes(hashlib.sha256(f"{self._search.seed}/{n_recorded}".encode()).digest()[:4], "big")

    def _frozen_trials(self, evaluated: Sequence[EvaluatedTrial]) -> list[FrozenTrial]:
        """Recorded trials as Optuna's."""
        frozen: list[FrozenTrial] = []
        n_complete = 0
        for trial, observation in ((known.trial, known.observation) for known in evaluated):
            fill = random.Random(trial.trial_id) if self._search.joint else None
            params = self._parameters.of(trial.arm_index, trial.point, fill)
            system_attrs: dict[str, Any] = {}
            if observation.state == "complete":
                system_attrs = self._search.system_attrs(n_complete)
                n_complete += 1
            stopped = observation.state == "stopped" and bool(observation.values)
            frozen.append(
                optuna.trial.create_trial(
                    state=_STATES[observation.state],
                    values=list(observation.values) if observation.values else None,
                    params=params,
                    distributions={name: self._parameters.distributions[name] for name in params},
                    user_attrs={"trial_id": trial.trial_id, "point": json.dumps(dict(trial.point))},
                    system_attrs=system_attrs,
                    intermediate_values={_step(observation): observation.values[0]} if stopped else None,
                    constraints=dict(observation.violations),
                )
            )
        return frozen


def _step(observation: Observation) -> int:
    return round(100 * observation.share)


def _agrees(study: optuna.Study, evaluated: Sequence[EvaluatedTrial]) -> bool:
    """Return whether the study holds every recorded trial with its values, and no other that was drawn."""
    observations = {known.trial.trial_id: known.observation for known in evaluated}
    held: dict[str, tuple[TrialState, list[float]]] = {}
    failed = {trial_id for trial_id, observation in observations.items() if observation.state == "failed"}
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            return False
        if trial.state == TrialState.FAIL and trial.user_attrs.get("trial_id") not in {None, *failed}:
            return False  # cancelled before it began
        if trial.state != TrialState.FAIL:
            held[trial.user_attrs["trial_id"]] = (trial.state, list(trial.values or []))
    return held == {
        trial_id: (_STATES[observation.state], list(observation.values))
        for trial_id, observation in observations.items()
        if observation.state != "failed"
    }


def _point_key(index: int, point: Mapping[str, Any]) -> str:
    return json.dumps([index, sorted(point.items())], default=str)


def _shuffled(arms: Sequence[ExpandedArm], seed: int) -> list[tuple[int, dict[str, Any]]] | None:
    """Every point of a finite space in a random order; None where an axis is continuous, or there are too many."""
    counts = [arm.count() for arm in arms]
    if any(count is None for count in counts) or sum(count or 0 for count in counts) > _COUNTABLE:
        return None
    points = [(index, point) for index, arm in enumerate(arms) for point in arm.points()]
    random.Random(seed).shuffle(points)
    return points
