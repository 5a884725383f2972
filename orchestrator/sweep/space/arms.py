"""The arms of a search space with all their axes: points resolved to trials, and records matched to points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orchestrator.spec.axes import Axis, Range
from orchestrator.spec.errors import SpecError, join, nearest
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.trial import TrialSpec, flatten
from orchestrator.spec.yaml_loader import assign
from orchestrator.sweep.space.resolve import SECTIONS, Resolver

_GUESSES = 256
"""Points tried at most to match a record of another search space."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial, and the arm and the point of its axes from which it was resolved."""

    arm_index: int
    """Position of the arm in the search space; labels may repeat."""
    arm: str
    """The arm's label."""
    point: Mapping[str, Any]
    spec: TrialSpec

    @cached_property
    def trial_id(self) -> str:
        return self.spec.trial_id


@dataclass(frozen=True)
class ExpandedArm:
    """An arm with the base and the shared axes merged in, and where each of its values was written."""

    index: int
    """Position in the search space."""
    label: str
    config: Mapping[str, Any]
    axes: Mapping[str, Axis]
    axis_sources: Mapping[str, str]
    resolver: Resolver = field(compare=False, repr=False)

    def trial(self, point: Mapping[str, Any]) -> PlannedTrial:
        """Return the trial at a point; raises :class:`SpecError` where there can be none."""
        config = dict(self.config)
        for name in sorted(point, key=lambda name: name.count(".")):
            config = assign(config, name.split("."), point[name])
        return PlannedTrial(self.index, self.label, dict(point), self.resolver.resolve(config, self._varied(point)))

    def origin(self, point: Mapping[str, Any], path: str) -> str:
        """Return where a path of the trial at a point was written: ``axes.model[1]`` for ``model``."""
        return self.resolver.origin(path, self._varied(point))

    def _varied(self, point: Mapping[str, Any]) -> dict[str, str]:
        """Where the value of each axis at a point was written."""
        sources: dict[str, str] = {}
        for name in sorted(point, key=lambda name: name.count(".")):
            axis = self.axes[name]
            position = f"[{axis.index(point[name])}]" if isinstance(axis, list) else ""
            sources[name] = self.axis_sources[name] + position
        return sources

    def contains(self, point: Mapping[str, Any]) -> bool:
        """Return whether the point has a value for each of the axes, and for no other."""
        return set(point) == set(self.axes) and all(contains(self.axes[name], value) for name, value in point.items())

    def count(self) -> int | None:
        """Return the number of points; None where a range is continuous."""
        per_axis = [values(axis) for axis in self.axes.values()]
        return None if any(v is None for v in per_axis) else math.prod(len(v) for v in per_axis if v is not None)

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield every point; none where a range is continuous."""
        for combination in itertools.product(*(values(axis) or [] for axis in self.axes.values())):
            yield dict(zip(self.axes, combination, strict=True))

    def candidates(self, result: TrialResult) -> Iterator[dict[str, Any]]:
        """Yield points that may be a record's: its own, then what its trial specifies, else what the axes offer."""
        if self.contains(result.point):
            yield dict(result.point)
        spec = result.spec
        written = flatten(spec.canonical())
        complete = flatten({**spec.model_dump(exclude={"method", "retrain"}), "retrain": _plain(spec.retrain)})
        choices: list[list[Any]] = []
        for name, axis in self.axes.items():
            sources = (source for source in (result.point, written, complete) if name in source)
            recorded = [source[name] for source in sources if contains(axis, source[name])]
            offered = axis if isinstance(axis, list) else []
            choices.append(recorded[:1] or list(offered))
        for combination in itertools.islice(itertools.product(*choices), _GUESSES):
            yield dict(zip(self.axes, combination, strict=True))


def expand_arms(space: SearchSpace) -> tuple[ExpandedArm, ...]:
    """Return every arm of a search space; one, labelled ``base``, where it names none.

    Raises:
        SpecError: an axis of no section, or two arms that plan the same trials.
    """
    base_sources = {path: join("base", path) for path in _leaves(space.base)}
    arms: list[ExpandedArm] = []
    paths: dict[str, str] = {}
    """Where an arm was written, by what identifies it."""
    for index, arm in enumerate(space.arms or [None]):
        config = dict(space.base)
        sources = dict(base_sources)
        axes: dict[str, Axis] = dict(space.axes)
        axis_sources = {name: join("axes", name) for name in axes}
        label = "base"
        if arm is not None:
            path = join("arms", index)
            for key, value in arm.overrides.items():
                config = assign(config, [key], value)
                sources |= {leaf: join(path, leaf) for leaf in _leaves({key: value})}
            axes |= arm.axes
            axis_sources |= {name: join(path, "axes", name) for name in arm.axes}
            label = arm.label
            identity = _identity(config, axes)
            if identity in paths:
                raise SpecError(path, f"repeats {paths[identity]}: same method {label!r}, same axes")
            paths[identity] = path
        for name in axes:
            if name.split(".")[0] not in SECTIONS:
                raise SpecError(axis_sources[name], f"unknown name {name!r}{nearest(name.split('.')[0], SECTIONS)}")
        arms.append(ExpandedArm(index, label, config, axes, axis_sources, Resolver(sources)))
    return tuple(arms)


def match_record(arms: Sequence[ExpandedArm], result: TrialResult) -> PlannedTrial | None:
    """Return the planned trial whose record this is; None if it lies in no arm. The arm of its label is tried first."""
    for arm in sorted(arms, key=lambda arm: arm.label != result.arm):
        for point in arm.candidates(result):
            try:
                trial = arm.trial(point)
            except SpecError:
                continue
            if trial.trial_id == result.trial_id:
                return trial
    return None


def check_endpoints(arms: Sequence[ExpandedArm]) -> None:
    """Try every listed value and both ends of every range; raise the error of a value that no trial can have.

    A value is tried with the others at their first and at their last: an impossible combination is left for the search
    to meet, a misspelt name is not.
    """
    for arm in arms:
        first = {name: endpoints(axis)[0] for name, axis in arm.axes.items()}
        last = {name: endpoints(axis)[-1] for name, axis in arm.axes.items()}
        for name, value in [(n, v) for n, axis in arm.axes.items() for v in endpoints(axis)] or [("", None)]:
            problem: SpecError | None = None
            for others in (first, last):
                try:
                    arm.trial(others | ({name: value} if name else {}))
                except SpecError as error:
                    problem = problem or error
                else:
                    problem = None
                    break
            if problem is not None:
                raise problem


def values(axis: Axis) -> list[Any] | None:
    """Return every value of an axis, or None where it is continuous."""
    return axis if isinstance(axis, list) else axis.values()


def contains(axis: Axis, value: Any) -> bool:
    """Return whether the axis has this value."""
    if isinstance(axis, Range):
        return axis.contains(value)
    return any(type(value) is type(other) and value == other for other in axis)


def endpoints(axis: Axis) -> list[Any]:
    """Return every listed value, or the first and the last of a range."""
    return axis if isinstance(axis, list) else axis.endpoints()


def _plain(retrain: Any) -> dict[str, Any]:
    return {**retrain.model_dump(exclude={"params"}), **retrain.params}


def _identity(config: Mapping[str, Any], axes: Mapping[str, Axis]) -> str:
    """Return a text that two arms share exactly if they plan the same trials."""
    plain = {name: axis.model_dump() if isinstance(axis, Range) else axis for name, axis in sorted(axes.items())}
    return repr((sorted(config.items(), key=lambda item: item[0]), plain))


def _leaves(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    paths: list[str] = []
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        paths.append(path)
        if isinstance(value, Mapping):
            paths += _leaves(value, path)
    return paths
