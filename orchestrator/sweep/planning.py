"""Plan a search space: resolve its trials and the stages they share; imports no torch and trains nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestrator.methods import METHODS
from orchestrator.metrics.table import metric_rows
from orchestrator.records.records import DamagedRecord, read_latency, read_result, recorded_ids
from orchestrator.spec.errors import SpecError, join, nearest
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.stages import StageName
from orchestrator.spec.trial import TrialSpec, flatten
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep.search.build import check_search, fixed_search, is_adaptive
from orchestrator.sweep.search.drawn import drawn_and_not_ended
from orchestrator.sweep.search.observation import EvaluatedTrial, check_decidable, observe
from orchestrator.sweep.space.arms import ExpandedArm, PlannedTrial, check_endpoints, expand_arms, match_record
from orchestrator.sweep.space.choices import own_code
from orchestrator.sweep.stopping.policy import rule_of


@dataclass(frozen=True)
class Stage:
    """A step of a trial whose output other trials may share."""

    name: StageName
    key: str
    spec: TrialSpec
    """Of any of those trials."""
    needs: tuple[str, ...] = ()
    """Keys of the stages that must be computed first."""


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, and the distinct stages that they share."""

    space: SearchSpace
    arms: tuple[ExpandedArm, ...]
    trials: tuple[PlannedTrial, ...]
    """Of an adaptive search, those drawn already."""
    repeated: int
    """Number of points that resolve to a trial of an earlier point; a trial runs once."""
    to_draw: int = 0
    """Number of trials that an adaptive search has still to draw."""
    known: tuple[EvaluatedTrial, ...] = ()
    """Recorded trials, as an adaptive search is told of them."""

    @property
    def total(self) -> int:
        """Number of trials, drawn or not."""
        return len(self.trials) + self.to_draw

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The distinct shared stages of all trials, each after those that it needs."""
        stages: dict[str, Stage] = {}
        for trial in self.trials:
            for stage in stages_of(trial.spec):
                stages.setdefault(stage.key, stage)
        return tuple(stages.values())

    def count(self, name: StageName) -> int:
        """Return the number of distinct stages of a name."""
        return sum(stage.name == name for stage in self.stages)

    @property
    def varied(self) -> list[str]:
        """Dotted paths that the axes set, in the order of the file; a value that is a mapping sets several."""
        return list(dict.fromkeys(path for trial in self.trials for path in flatten(trial.point)))


def plan(space: SearchSpace, folder: Path | None = None) -> Plan:
    """Plan a search space: resolve every point of its axes.

    Args:
        space: the search space, as loaded.
        folder: the sweep's folder, from which the trials that an adaptive search has drawn are read; None: no folder.

    Raises:
        SpecError: an unknown name, a wrong type, an impossible combination, data that cannot be read.
    """
    check_search(space.search)
    _check_metrics(space)
    if space.stopper is not None:
        rule_of(space)
    arms = expand_arms(space)
    if is_adaptive(space.search):
        return _adaptive(space, arms, folder)
    trials: dict[str, PlannedTrial] = {}
    repeated = 0
    for trial in _fixed_trials(space, arms):
        if trial.trial_id in trials:
            repeated += 1
        else:
            trials[trial.trial_id] = trial
    return Plan(space, arms, tuple(trials.values()), repeated)


def drawn_before(
    space: SearchSpace, arms: Sequence[ExpandedArm], folder: Path, but: Collection[str] = frozenset()
) -> list[EvaluatedTrial]:
    """Return the recorded trials that lie in a space with their observations, in the order in which they ended.

    Args:
        space: the search space.
        arms: its arms, expanded.
        folder: the sweep whose records are read.
        but: ids of trials whose records are not read.

    Raises:
        SpecError: a record cannot be read; the message names the file.
    """
    ended: list[tuple[str, str, EvaluatedTrial]] = []
    try:
        # No result is kept: ten thousand of them would be a gigabyte.
        for trial_id in sorted(recorded_ids(folder).difference(but)):
            paths = SweepPaths(folder).trial(trial_id)
            result = read_result(paths.result)
            trial = match_record(arms, result)
            if trial is not None:
                observation = observe(space, result, read_latency(paths.folder))
                ended.append((result.ended, result.trial_id, EvaluatedTrial(trial, observation)))
    except DamagedRecord as error:
        raise SpecError("", str(error)) from None
    return [evaluated for _, _, evaluated in sorted(ended, key=lambda entry: entry[:2])]


def stages_of(spec: TrialSpec) -> list[Stage]:
    """Return the shared stages of one trial, in order."""
    attributes = METHODS.describe(spec.method.name).attributes
    stages = [Stage("baseline", spec.baseline_key, spec)]
    if spec.target.steps:
        before = spec.before_last_step
        earlier = stages_of(before)
        return [*earlier, Stage("step", before.step_key, before, needs=(earlier[-1].key,))]
    if attributes.get("trains"):
        key = spec.sparse_training_key(for_target=bool(attributes.get("trains_for_target")))
        stages.append(Stage("sparse_training", key, spec, needs=(spec.baseline_key,)))
    elif attributes.get("reads_data"):
        stages.append(Stage("importance", spec.importance_key, spec, needs=(spec.baseline_key,)))
    return stages


def _fixed_trials(space: SearchSpace, arms: tuple[ExpandedArm, ...]) -> Iterator[PlannedTrial]:
    """Yield the trial at each point of a fixed search; raises :class:`SpecError`."""
    name, search = space.search.name, fixed_search(space.search)
    with own_code("search.name", f"{name!r} cannot give its points"):
        for index, point in search.points(arms):
            if not 0 <= index < len(arms):
                raise SpecError("search.name", f"{name!r} gives a point of arm {index}; there are {len(arms)} arms")
            axes = arms[index].axes
            for axis in point:
                if axis not in axes:
                    raise SpecError(
                        "search.name", f"{name!r} gives a point of unknown axis {axis!r}{nearest(axis, axes)}"
                    )
            yield arms[index].trial(point)


def _adaptive(space: SearchSpace, arms: tuple[ExpandedArm, ...], folder: Path | None) -> Plan:
    n_trials = space.search.trials or 0
    check_decidable(space, metric_rows(space.metrics))
    check_endpoints(arms)
    for i, name in enumerate(space.search.warm_start):
        if name == space.name:
            raise SpecError(join("search.warm_start", i), f"is this sweep itself: {name!r}; it goes on by itself")
        if folder is not None and not recorded_ids(folder.parent / name):
            others = [path.parent.name for path in folder.parent.glob("*/trials")]
            raise SpecError(join("search.warm_start", i), f"no records of a sweep {name!r}{nearest(name, others)}")
    counts = [arm.count() for arm in arms]
    if None not in counts:
        n_trials = min(n_trials, sum(count or 0 for count in counts))
    known: list[EvaluatedTrial] = []
    drawn: list[PlannedTrial] = []
    if folder is not None:
        known = drawn_before(space, arms, folder)
        drawn = [evaluated.trial for evaluated in known]
        drawn += drawn_and_not_ended(arms, folder)[: max(0, n_trials - len(drawn))]
    return Plan(space, arms, tuple(drawn), 0, max(0, n_trials - len(drawn)), tuple(known))


def _check_metrics(space: SearchSpace) -> None:
    """Refuse unknown metrics among the objectives and constraints; raises :class:`SpecError`."""
    known = metric_rows(space.metrics)
    for section, names in (("objectives", space.objectives), ("constraints", space.constraints)):
        for name in names:
            if name not in known:
                raise SpecError(join(section, name), f"unknown metric {name!r}{nearest(name, known)}")


__all__ = [
    "Plan",
    "PlannedTrial",
    "Stage",
    "drawn_before",
    "plan",
    "stages_of",
]
