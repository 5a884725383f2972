"""Points drawn by Optuna: random ones beforehand, and adaptive searches that are asked and told (`AskTell`)."""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import BaseJournalBackend, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.spec.axes import Axis, Range
from orchestrator.spec.errors import PrunesweepError, SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.search.adaptive.parameters import SEED, Parameters
from orchestrator.sweep.search.observation import EvaluatedTrial, Observation
from orchestrator.sweep.space.arms import ExpandedArm, PlannedTrial, values

# A warning in the middle of the live table would tear it; what a user must know is said by the sweep itself.
optuna.logging.set_verbosity(optuna.logging.ERROR)

_STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
_PATIENCE = 30
"""Suggestions in a row without a new trial, before an unseen point of a finite space is taken instead."""
_HOPELESS = 200
"""The same, before the search gives up."""
_COUNTABLE = 100_000
"""Points of a finite space that are listed at most."""


class Exhausted(PrunesweepError):
    """The search finds no new trial; the message says why."""


def random_points(arms: Sequence[Mapping[str, Axis]], trials: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Independent draws: index of an arm, and a value for each of its axes."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        index = trial.suggest_int("arm", 0, len(arms) - 1) if len(arms) > 1 else 0
        yield index, {name: _suggest(trial, f"{index}/{name}", axis) for name, axis in arms[index].items()}


def _suggest(trial: optuna.Trial, name: str, axis: Axis) -> Any:
    if isinstance(axis, list):
        return axis[trial.suggest_int(name, 0, len(axis) - 1)]
    if axis.whole:
        step = int(axis.step or 1)
        high = int(axis.high) - (int(axis.high) - int(axis.low)) % step
        return trial.suggest_int(name, int(axis.low), high, step=step, log=axis.log)
    return _float(trial, name, axis)


def _float(trial: optuna.Trial, name: str, axis: Range) -> float:
    points = axis.points() if axis.step is not None else None
    high = axis.high if points is None else points[-1]
    return trial.suggest_float(name, float(axis.low), float(high), step=axis.step, log=axis.log)


class AskTell:
    """One adaptive search: it says what to try next, and is told what came of it.

    To be used from one thread at a time. The study lies in a journal that Optuna's dashboard opens; what it holds
    follows from the records.

    Args:
        space: the search space; ``search.name`` is one of ``tpe``, ``nsga2``, ``gp``.
        arms: its arms, joined.
        known: what is recorded already, in order.
        journal: the file of the study; None keeps it in memory.
    """

    def __init__(
        self,
        space: SearchSpace,
        arms: Sequence[ExpandedArm],
        known: Sequence[EvaluatedTrial] = (),
        journal: Path | None = None,
    ) -> None:
        self._space, self._arms = space, arms
        self._parameters = Parameters([arm.label for arm in arms], [arm.axes for arm in arms])
        self._flat = space.search.name != "tpe"
        self._ended = {evaluated.trial.trial_id: evaluated.observation for evaluated in known}
        self._asked: dict[str, list[optuna.Trial]] = {}
        self._running: dict[str, PlannedTrial] = {}
        self._seen = {_key(evaluated.trial.arm_index, evaluated.trial.point) for evaluated in known}
        self._unseen = _shuffled(arms, space.search.seed)
        self.impossible = 0
        """Suggestions that resolve to no trial; they are told as failed."""
        self.problem: SpecError | None = None
        """What was wrong with the last of them."""
        self.repeated = 0
        """Suggestions that were answered from a record, or wait for a trial that runs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = self._open(known, journal)

    def ask(self) -> PlannedTrial:
        """A trial that nobody has run or runs.

        Raises:
            Exhausted: there is none, or none was found.
            SpecError: nothing that was suggested could be tried, and no trial has ever ended.
        """
        for vain in range(_HOPELESS):
            asked = self._study.ask() if vain < _PATIENCE else self._ask_unseen()
            index, point = self._drawn(asked)
            self._seen.add(_key(index, point))
            try:
                trial = self._arms[index].trial(point)
            except SpecError as error:
                asked.set_user_attr("error", str(error))
                self._study.tell(asked, state=TrialState.FAIL)
                self.impossible += 1
                self.problem = error
                continue
            asked.set_user_attr("trial_id", trial.trial_id)
            asked.set_user_attr("point", json.dumps(dict(trial.point)))
            if trial.trial_id in self._ended:
                self._tell(asked, self._ended[trial.trial_id])
            elif trial.trial_id in self._asked:
                self._asked[trial.trial_id].append(asked)
            else:
                self._asked[trial.trial_id] = [asked]
                return trial
            self.repeated += 1
        if self.problem is not None and not self._ended and not self._asked:
            raise self.problem
        reason = f"; of those that could not be tried, the last: {self.problem}" if self.problem is not None else ""
        raise Exhausted(f"{_HOPELESS} suggestions in a row led to no new trial{reason}")

    def register_running(self, trial: PlannedTrial) -> None:
        """Register a trial that an earlier driver drew, so that its observation can be told."""
        self._asked.setdefault(trial.trial_id, [])
        self._running[trial.trial_id] = trial

    def tell(self, trial_id: str, observation: Observation) -> None:
        """A trial has ended."""
        self._ended[trial_id] = observation
        for asked in self._asked.pop(trial_id, []):
            self._tell(asked, observation)
        trial = self._running.pop(trial_id, None)
        if trial is not None:
            self._study.add_trials(self._frozen_trials([EvaluatedTrial(trial, observation)]))

    def cancel(self, trial_id: str) -> None:
        """A proposed trial will not run now."""
        for asked in self._asked.pop(trial_id, []):
            self._study.tell(asked, state=TrialState.FAIL)

    def _tell(self, asked: optuna.Trial, observation: Observation) -> None:
        for name, violation in observation.violations.items():
            asked.set_constraint(name, violation)
        if observation.state == "stopped" and observation.values:
            asked.report(observation.values[0], _step(observation))
        values = list(observation.values) if observation.state == "complete" else None
        self._study.tell(asked, values, state=_STATES[observation.state])

    def _ask_unseen(self) -> optuna.Trial:
        """A point of a finite space that was never suggested, as the sampler's own suggestion."""
        if self._unseen is None:
            return self._study.ask()
        while self._unseen:
            index, point = self._unseen.pop()
            if _key(index, point) not in self._seen:
                params = self._parameters.of(index, point, random.Random(str(point)) if self._flat else None)
                self._study.enqueue_trial(params, user_attrs={"seed": point.get(SEED)})
                return self._study.ask()
        raise Exhausted("every point of the search space has been tried")

    def _drawn(self, asked: optuna.Trial) -> tuple[int, dict[str, Any]]:
        """Index of the arm and a point of its axes; the seed, which is noise, is not the sampler's to choose."""
        index, point = self._parameters.draw(asked, flat=self._flat)
        axis = self._arms[index].axes.get(SEED)
        if axis is None:
            return index, point
        seed = asked.user_attrs.get("seed")
        if seed is None:
            seed = random.Random(f"{self._space.search.seed}/{asked.number}").choice(values(axis) or [0])
        point[SEED] = seed
        return index, {name: point[name] for name in self._arms[index].axes}

    def _open(self, known: Sequence[EvaluatedTrial], journal: Path | None) -> optuna.Study:
        mark = hashlib.sha256(
            json.dumps(
                [self._parameters.described(), self._flat, self._space.objectives, self._space.constraints], default=str
            ).encode()
        ).hexdigest()
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [ways[way] for way in self._space.objectives.values()]

        def study(storage: Any) -> optuna.Study:
            return optuna.create_study(
                storage=storage,
                study_name=self._space.name,
                directions=directions,
                sampler=_sampler(self._space, len(known)),
                load_if_exists=True,
            )

        def filled(storage: Any) -> optuna.Study:
            made = study(storage)
            made.set_user_attr("space", mark)
            made.set_metric_names(list(self._space.objectives))
            made.add_trials(self._frozen_trials(known))
            return made

        if journal is None:
            return filled(None)
        try:
            found = study(JournalStorage(_Journal(journal)))
            if found.user_attrs.get("space") == mark and _agrees(found, known):
                return found
        except Exception:
            # A journal cut off by a kill, or of another Optuna: whatever is wrong with a view, it is made anew.
            pass
        journal.unlink(missing_ok=True)
        return filled(JournalStorage(_Journal(journal)))

    def _frozen_trials(self, known: Sequence[EvaluatedTrial]) -> list[FrozenTrial]:
        population = _population(self._space)
        told: list[FrozenTrial] = []
        complete = 0
        for trial, observation in ((evaluated.trial, evaluated.observation) for evaluated in known):
            fill = random.Random(trial.trial_id) if self._flat else None
            params = self._parameters.of(trial.arm_index, trial.point, fill)
            system: dict[str, Any] = {}
            if self._space.search.name == "nsga2" and observation.state == "complete":
                # What was recorded counts as the generations before, so that evolution goes on from it.
                key = optuna.samplers.NSGAIISampler._get_generation_key()
                system = {key: complete // population}
                complete += 1
            stopped = observation.state == "stopped" and bool(observation.values)
            told.append(
                optuna.trial.create_trial(
                    state=_STATES[observation.state],
                    values=list(observation.values) if observation.values else None,
                    params=params,
                    distributions={name: self._parameters.distributions[name] for name in params},
                    user_attrs={"trial_id": trial.trial_id, "point": json.dumps(dict(trial.point))},
                    system_attrs=system,
                    intermediate_values={_step(observation): observation.values[0]} if stopped else None,
                    constraints=dict(observation.violations),
                )
            )
        return told


class _Journal(BaseJournalBackend):
    """A journal in the words of Optuna's `JournalFileBackend`, which its dashboard reads, for one process that writes.

    That one locks its file, reads it and waits for the disk at every word, ten times a trial. This is a view of the
    records: where its file was cut off, it is made anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not text.endswith("\n") and text:
            raise ValueError(f"{path}: the last line was cut off")
        self._lines = text.splitlines()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._lines += lines
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines[log_number_from:])


def _sampler(space: SearchSpace, known: int) -> optuna.samplers.BaseSampler:
    # Not the same numbers again after a resume: they would lead to what is recorded.
    seed = int.from_bytes(hashlib.sha256(f"{space.search.seed}/{known}".encode()).digest()[:4], "big")
    if space.search.name == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=_population(space), seed=seed)
    if space.search.name == "gp":
        return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    # Groups let one estimator cover arms with axes of their own. With several objectives Optuna's own choice,
    # one parameter at a time, needs no groups.
    return optuna.samplers.TPESampler(seed=seed, group=len(space.objectives) == 1)


def _population(space: SearchSpace) -> int:
    """A quarter of the trials, from 10 to 50, so that there are at least four generations."""
    return max(10, min(50, (space.search.trials or 0) // 4))


def _step(observation: Observation) -> int:
    return round(100 * observation.share)


def _agrees(study: optuna.Study, known: Sequence[EvaluatedTrial]) -> bool:
    """The study says of every trial what its record says, and tells of no other that was drawn."""
    told: dict[str, tuple[TrialState, list[float]]] = {}
    failed = {known_trial.trial.trial_id for known_trial in known if known_trial.observation.state == "failed"}
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            return False
        if trial.state == TrialState.FAIL and trial.user_attrs.get("trial_id") not in {None, *failed}:
            return False  # given up before it began
        if trial.state != TrialState.FAIL:
            told[trial.user_attrs["trial_id"]] = (trial.state, list(trial.values or []))
    wanted = {
        evaluated.trial.trial_id: (_STATES[evaluated.observation.state], list(evaluated.observation.values))
        for evaluated in known
        if evaluated.observation.state != "failed"
    }
    return told == wanted


def _key(index: int, point: Mapping[str, Any]) -> str:
    return json.dumps([index, sorted(point.items())], default=str)


def _shuffled(arms: Sequence[ExpandedArm], seed: int) -> list[tuple[int, dict[str, Any]]] | None:
    """Every point of a finite space in a random order; None where there is no end of them, or too many."""
    counts = [arm.count() for arm in arms]
    if any(count is None for count in counts) or sum(count or 0 for count in counts) > _COUNTABLE:
        return None
    points = [(index, point) for index, arm in enumerate(arms) for point in arm.points()]
    random.Random(seed).shuffle(points)
    return points
