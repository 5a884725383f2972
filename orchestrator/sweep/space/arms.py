"""Arms of a search space with all their axes: from a point to its trial, and from a record back to its point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orchestrator.spec.errors import SpecError, join, nearest
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import Axis, Range, SearchSpace, assign
from orchestrator.spec.trial import TrialSpec, flat
from orchestrator.sweep.space.resolve import SECTIONS, origin_of, resolve

_GUESSES = 256
"""Points tried at most to find the one that a foreign record stands for."""


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
class ExpandedArm:
    """An arm with the base and the shared axes joined in, and where each of its values was written."""

    label: str
    config: Mapping[str, Any]
    sources: Mapping[str, str]
    axes: Mapping[str, Axis]
    axis_sources: Mapping[str, str]
    _seen: dict[tuple[str, ...], Any] = field(default_factory=dict, compare=False, repr=False)
    """Sections that trials of this arm have had so far, resolved."""

    def trial(self, point: Mapping[str, Any]) -> PlannedTrial:
        """The trial at a point; raises :class:`SpecError` where it cannot be."""
        config = dict(self.config)
        for name in sorted(point, key=lambda name: name.count(".")):
            config = assign(config, name.split("."), point[name])
        return PlannedTrial(self.label, dict(point), resolve(config, self._sources(point), self._seen))

    def written(self, point: Mapping[str, Any], path: str) -> str:
        """Where the file says what a path of the trial at a point is: ``axes.model[1]`` for ``model``."""
        return origin_of(path, self._sources(point))

    def _sources(self, point: Mapping[str, Any]) -> dict[str, str]:
        sources = dict(self.sources)
        for name in sorted(point, key=lambda name: name.count(".")):
            axis = self.axes[name]
            place = f"[{axis.index(point[name])}]" if isinstance(axis, list) else ""
            sources[name] = self.axis_sources[name] + place
        return sources

    def holds(self, point: Mapping[str, Any]) -> bool:
        """The point has a value for each of the axes, and for no other."""
        return set(point) == set(self.axes) and all(holds(self.axes[name], value) for name, value in point.items())

    def count(self) -> int | None:
        """How many points there are; None where a range has no end of them."""
        values = [every(axis) for axis in self.axes.values()]
        return None if any(v is None for v in values) else math.prod(len(v) for v in values if v is not None)

    def points(self) -> Iterator[dict[str, Any]]:
        """Every point of an arm that has a count."""
        for combination in itertools.product(*(every(axis) or [] for axis in self.axes.values())):
            yield dict(zip(self.axes, combination, strict=True))

    def candidates(self, result: TrialResult) -> Iterator[dict[str, Any]]:
        """Points that a record may stand for: its own, then what it was told, else what the axes offer."""
        if self.holds(result.point):
            yield dict(result.point)
        told = flat(result.spec.canonical())
        given = flat({**result.spec.model_dump(exclude={"method", "retrain"}), "retrain": _plain(result.spec.retrain)})
        choices: list[list[Any]] = []
        for name, axis in self.axes.items():
            sources = (source for source in (result.point, told, given) if name in source)
            found = [source[name] for source in sources if holds(axis, source[name])]
            offered = axis if isinstance(axis, list) else []
            choices.append(found[:1] or list(offered))
        for values in itertools.islice(itertools.product(*choices), _GUESSES):
            yield dict(zip(self.axes, values, strict=True))


def expand_arms(space: SearchSpace) -> list[ExpandedArm]:
    """Every arm of a search space; one where it names none.

    Raises:
        SpecError: an axis of no section, or two arms that plan the same trials.
    """
    base_sources = {path: join("base", path) for path in _leaves(space.base)}
    arms: list[ExpandedArm] = []
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
            same = _shown_key(config, axes)
            if same in seen:
                raise SpecError(here, f"repeats {seen[same]}: same method {label!r}, same axes")
            seen[same] = here
        for name in axes:
            if name.split(".")[0] not in SECTIONS:
                raise SpecError(axis_sources[name], f"unknown name {name!r}{nearest(name.split('.')[0], SECTIONS)}")
        arms.append(ExpandedArm(label, config, sources, axes, axis_sources))
    return arms


def match_record(arms: Sequence[ExpandedArm], result: TrialResult) -> tuple[int, PlannedTrial] | None:
    """Index of the arm and the point of the axes at which a recorded trial lies; None if it is not of this space."""
    for index in sorted(range(len(arms)), key=lambda i: arms[i].label != result.arm):
        for point in arms[index].candidates(result):
            try:
                trial = arms[index].trial(point)
            except SpecError:
                continue
            if trial.trial_id == result.trial_id:
                return index, trial
    return None


def check_endpoints(arms: Sequence[ExpandedArm]) -> None:
    """Try every listed value and both ends of every range; raise what is wrong with one that no trial can have.

    A value is tried with the others at their first and at their last, so that a combination that cannot be is left for
    the search to meet, and a misspelt name is not.
    """
    for arm in arms:
        first = {name: ends(axis)[0] for name, axis in arm.axes.items()}
        last = {name: ends(axis)[-1] for name, axis in arm.axes.items()}
        for name, value in [(n, v) for n, axis in arm.axes.items() for v in ends(axis)] or [("", None)]:
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


def every(axis: Axis) -> list[Any] | None:
    """Every value of an axis, or None where there is no end of them."""
    return axis if isinstance(axis, list) else axis.every()


def holds(axis: Axis, value: Any) -> bool:
    """The value is one of the axis."""
    if isinstance(axis, Range):
        return axis.holds(value)
    return any(type(value) is type(other) and value == other for other in axis)


def ends(axis: Axis) -> list[Any]:
    """Every listed value, or the first and the last of a range."""
    if isinstance(axis, list):
        return axis
    points = axis.points() if axis.step is not None else None
    return [points[0], points[-1]] if points else [axis.low, axis.high]


def _plain(retrain: Any) -> dict[str, Any]:
    return {**retrain.model_dump(exclude={"params"}), **retrain.params}


def _shown_key(config: Mapping[str, Any], axes: Mapping[str, Axis]) -> str:
    """Text that two arms have in common exactly if they plan the same trials."""
    plain = {name: axis.model_dump() if isinstance(axis, Range) else axis for name, axis in sorted(axes.items())}
    return repr((sorted(config.items(), key=lambda item: item[0]), plain))


def _leaves(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        found.append(path)
        if isinstance(value, Mapping):
            found += _leaves(value, path)
    return found
