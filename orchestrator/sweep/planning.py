"""From a search space to the trials and shared stages it stands for; imports no torch and trains nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from orchestrator.methods import METHODS
from orchestrator.spec.errors import SpecError, join, nearest
from orchestrator.spec.result import LATENCY_METRICS, METRICS
from orchestrator.spec.search_space import Axis, Range, SearchSpace, assign
from orchestrator.spec.trial import TrialSpec, flat
from orchestrator.sweep.resolving import SECTIONS, resolve

StageName = Literal["baseline", "importance", "sparse_training", "step"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
SEARCHES = {
    "grid": "every combination of the axes' values",
    "random": "independent draws from the axes, as many as `trials` says",
}


@dataclass(frozen=True)
class PlannedTrial:
    """One trial and the point of the axes it comes from."""

    arm: str
    point: Mapping[str, Any]
    spec: TrialSpec

    @cached_property
    def trial_id(self) -> str:
        return self.spec.trial_id


@dataclass(frozen=True)
class Stage:
    """Work whose output several trials may share; any of those trials describes it."""

    name: StageName
    key: str
    spec: TrialSpec
    needs: tuple[str, ...] = ()
    """Keys of stages that must be there first."""


@dataclass(frozen=True)
class Plan:
    """All a sweep will do: trials, and before them the distinct stages they share."""

    space: SearchSpace
    trials: tuple[PlannedTrial, ...]
    repeated: int
    """Points that resolved to a trial planned before (they run once)."""

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        found: dict[str, Stage] = {}
        for trial in self.trials:
            for stage in stages_of(trial.spec):
                found.setdefault(stage.key, stage)
        return tuple(found.values())

    def count(self, name: StageName) -> int:
        return sum(stage.name == name for stage in self.stages)

    @property
    def varied(self) -> list[str]:
        """Dotted paths of all that the axes set, in the order of the file; a value that is a mapping sets several."""
        return list(dict.fromkeys(path for trial in self.trials for path in flat(trial.point)))


def plan(space: SearchSpace) -> Plan:
    """Resolve every point of a search space.

    Raises:
        SpecError: an unknown name, a wrong type, an impossible combination, data that cannot be read.
    """
    if space.search.name not in SEARCHES:
        raise SpecError("search.name", f"unknown search {space.search.name!r}{nearest(space.search.name, SEARCHES)}")
    _check_metrics(space)
    trials: dict[str, PlannedTrial] = {}
    repeated = 0
    for draft in _drafts(space):
        spec = resolve(draft.config, draft.sources)
        trial = PlannedTrial(draft.arm, draft.point, spec)
        if trial.trial_id in trials:
            repeated += 1
        else:
            trials[trial.trial_id] = trial
    return Plan(space, tuple(trials.values()), repeated)


def stages_of(spec: TrialSpec) -> list[Stage]:
    """The shared stages of one trial, in order."""
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


@dataclass(frozen=True)
class _Draft:
    arm: str
    point: dict[str, Any]
    config: dict[str, Any]
    sources: dict[str, str]


def _drafts(space: SearchSpace) -> Iterator[_Draft]:
    base_sources = {path: join("base", path) for path in _leaves(space.base)}
    arms: list[tuple[str, dict[str, Any], dict[str, str], dict[str, Axis], dict[str, str]]] = []
    seen: dict[str, str] = {}
    for i, arm in enumerate(space.arms) if space.arms else [(None, None)]:
        config = dict(space.base)
        sources = dict(base_sources)
        axes: dict[str, Axis] = dict(space.axes)
        axis_sources = {name: join("axes", name) for name in axes}
        label = "base"
        if arm is not None and i is not None:
            here = join("arms", i)
            for key, value in arm.overrides.items():
                config = assign(config, [key], value)
                sources |= {path: join(here, path) for path in _leaves({key: value})}
            axes |= arm.axes
            axis_sources |= {name: join(here, "axes", name) for name in arm.axes}
            label = arm.label
            same = shown_key(config, axes)
            if same in seen:
                raise SpecError(here, f"repeats {seen[same]}: same method {label!r}, same axes")
            seen[same] = here
        for name in axes:
            if name.split(".")[0] not in SECTIONS:
                raise SpecError(axis_sources[name], f"unknown name {name!r}{nearest(name.split('.')[0], SECTIONS)}")
        arms.append((label, config, sources, axes, axis_sources))
    if space.search.name == "random":
        from orchestrator.sweep.optuna_search import random_points

        points = random_points([axes for _, _, _, axes, _ in arms], space.search)
    else:
        points = _grid(space, [(axes, axis_sources) for _, _, _, axes, axis_sources in arms])
    for index, point in points:
        label, config, sources, axes, axis_sources = arms[index]
        config, sources = dict(config), dict(sources)
        for name in sorted(point, key=lambda name: name.count(".")):
            config = assign(config, name.split("."), point[name])
            axis = axes[name]
            place = f"[{axis.index(point[name])}]" if isinstance(axis, list) else ""
            sources[name] = axis_sources[name] + place
        yield _Draft(label, point, config, sources)


def shown_key(config: Mapping[str, Any], axes: Mapping[str, Axis]) -> str:
    """Text that two arms have in common exactly if they plan the same trials."""
    plain = {name: axis.model_dump() if isinstance(axis, Range) else axis for name, axis in sorted(axes.items())}
    return repr((sorted(config.items(), key=lambda item: item[0]), plain))


def _grid(
    space: SearchSpace, arms: list[tuple[dict[str, Axis], dict[str, str]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, (axes, axis_sources) in enumerate(arms):
        values: list[list[Any]] = []
        for name, axis in axes.items():
            points = axis.points() if isinstance(axis, Range) else axis
            if points is None:
                raise SpecError(axis_sources[name], "a grid needs `step` or `grid` (a number of points) for a range")
            values.append(points)
        for combination in itertools.product(*values):
            yield index, dict(zip(axes, combination, strict=True))


def _leaves(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        found.append(path)
        if isinstance(value, Mapping):
            found += _leaves(value, path)
    return found


def _check_metrics(space: SearchSpace) -> None:
    known = (*METRICS, *LATENCY_METRICS)
    for section, names in (("objectives", space.objectives), ("constraints", space.constraints)):
        for name in names:
            if name not in known:
                raise SpecError(join(section, name), f"unknown metric {name!r}{nearest(name, known)}")
