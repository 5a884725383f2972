"""A search space: the YAML file as a value, with its axes and arms."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from orchestrator.spec.constraint import comparison
from orchestrator.spec.errors import SpecError, first_problem, join, shown
from orchestrator.spec.stopper import Stopper, stopper_from
from orchestrator.spec.trial import Value


class Range(Value):
    """Numbers from low to high. Grids need `step` or `grid` (a number of points); random searches draw from it."""

    low: float | int
    """The first value; a range of whole numbers has whole `low`, `high` and `step`."""
    high: float | int
    """The last value."""
    step: float | int | None = None
    """From one value to the next; None: every value between, for searches that draw."""
    log: bool = False
    """Values are spread evenly by their logarithm."""
    grid: int | None = Field(default=None, ge=2)
    """Points that a grid takes, both ends among them, in place of a step."""

    @model_validator(mode="after")
    def _consistent(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low} and {self.high}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, found {self.step}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low above 0, found {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range takes grid, not step")
        if self.step is not None and self.grid is not None:
            raise ValueError("give step or grid, not both")
        return self

    @property
    def whole(self) -> bool:
        """The range is one of whole numbers."""
        return all(isinstance(x, int) for x in (self.low, self.high, 1 if self.step is None else self.step))

    def points(self) -> list[float | int] | None:
        """The points of a grid, or None where neither `step` nor `grid` says which."""
        if self.step is not None:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            values: list[float] = [self.low + i * self.step for i in range(count)]
        elif self.grid is not None:
            steps = [i / (self.grid - 1) for i in range(self.grid)]
            if self.log:
                values = [self.low * (self.high / self.low) ** s for s in steps]
            else:
                values = [self.low + (self.high - self.low) * s for s in steps]
        else:
            return None
        if self.whole:
            return sorted({round(v) for v in values})
        return [rounded(v) for v in values]

    def values(self) -> list[float | int] | None:
        """Return every value that a search may draw, or None where the range is continuous."""
        if self.step is not None:
            return self.points()
        return list(range(int(self.low), int(self.high) + 1)) if self.whole and not self.log else None

    def endpoints(self) -> list[float | int]:
        """Return the first and the last value that a search may draw."""
        points = self.points() if self.step is not None else None
        return [points[0], points[-1]] if points else [self.low, self.high]

    def contains(self, value: Any) -> bool:
        """Return whether a search may draw this value."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.whole and value != int(value):
            return False
        steps = (value - self.low) / self.step if self.step is not None else 0.0
        return abs(steps - round(steps)) < 1e-8


def rounded(value: float) -> float:
    """Twelve digits: 0.1 + 2 x 0.1 is 0.3 to a user, and must hash as 0.3."""
    return float(f"{value:.12g}")


Axis = list[Any] | Range
"""The values a parameter takes, or the range it is drawn from."""


class Arm(Value):
    """A part of the search space: overrides of the base, and axes of its own."""

    name: str | None = None
    """What tables call it; None: its method's name."""
    axes: dict[str, Axis] = Field(default_factory=dict)
    """Axes of this arm alone, beside the shared ones; the same path takes a shared axis's place."""
    overrides: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        method = self.overrides.get("method", {})
        named = method.get("name", "") if isinstance(method, Mapping) else method
        return self.name or str(named) or "base"


class Search(Value):
    """How points are taken from the axes; `trials` where the search draws them."""

    name: str = "grid"
    """The search."""
    trials: int | None = Field(default=None, ge=1)
    """Points to draw, for searches that draw."""
    seed: int = 0
    """Of the draws; the trials' own seeds are an axis."""
    blocks: int | None = Field(default=None, ge=2)
    """Of a `sobol` design over k axes: blocks of 2 k + 2 points each, a power of 2."""
    trajectories: int | None = Field(default=None, ge=2)
    """Of a `morris` design over k axes: trajectories of k + 1 points each."""
    warm_start: list[str] = Field(default_factory=list)
    """Other sweeps of the store; those of their trials that lie in this space are known to an adaptive search."""


class Resources(Value):
    """What one trial holds while it runs."""

    cpus: float = Field(default=1, gt=0)
    """CPU cores, and as many arithmetic threads."""
    gpus: float = Field(default=0, ge=0)
    """GPUs; a fraction lets several trials share one."""


AUTO: Literal["auto"] = "auto"
"""Resources that are measured before the first trial."""


class SearchSpace(Value):
    """One question, the trials that may answer it, and how to look."""

    name: str
    """The sweep's name, and its folder's: letters, digits, `.`, `_` and `-`."""
    question: str | None = None
    """What the sweep is to answer; tables and the report repeat it."""
    base: dict[str, Any] = Field(default_factory=dict)
    """What all trials have in common: the sections below."""
    axes: dict[str, Axis] = Field(default_factory=dict)
    """What varies in every arm: dotted paths (`target.sparsity`), each with a list of values or a range."""
    arms: list[Arm] = Field(default_factory=list)
    """Parts of the space with overrides of the base and axes of their own, usually one a method."""
    search: Search = Search()
    """How points are taken from the axes: a bare name, or a mapping."""
    objectives: dict[str, Literal["max", "min"]] = Field(default={"accuracy": "max"})
    """Metrics and the direction in which they are better; the first one ranks."""
    constraints: dict[str, str] = Field(default_factory=dict)
    """Metrics and what they must keep to, such as `"<= 12"`."""
    metrics: list[str] = Field(default_factory=list)
    """Metrics of your own beside those of every trial: installed names, or `module:Class`."""
    stopper: SerializeAsAny[Stopper] | None = None
    """What ends weak trials early: a bare name, or a mapping."""
    resources: Resources | Literal["auto"] = Resources()
    """What one trial holds while it runs; `auto`: as many trials a GPU as measured memory and busyness allow."""

    @field_validator("name")
    @classmethod
    def _a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"must be a folder name of letters, digits, '.', '_' and '-', found {shown(name)}")
        if name in {"cache", "mlartifacts"}:
            raise ValueError(f"{shown(name)} is the name of a folder that sweeps share; choose another")
        return name

    @field_validator("constraints")
    @classmethod
    def _comparisons(cls, constraints: dict[str, str]) -> dict[str, str]:
        for text in constraints.values():
            comparison(text)
        return constraints

    @classmethod
    def parse(cls, raw: Any) -> SearchSpace:
        """A search space from plain YAML data; raises :class:`SpecError` with path and value."""
        if not isinstance(raw, Mapping):
            raise SpecError("", f"a search space is a mapping with name, base, axes and arms, found {shown(raw)}")
        raw = dict(raw)
        if isinstance(raw.get("search"), str):
            raw["search"] = {"name": raw["search"]}
        if raw.get("stopper") is not None:
            raw["stopper"] = stopper_from(raw["stopper"])
        if raw.get("resources", AUTO) != AUTO:
            raw["resources"] = _resources(raw["resources"])
        if isinstance(raw.get("arms"), list):
            raw["arms"] = [_arm(arm, join("arms", i)) for i, arm in enumerate(raw["arms"])]
        _check_axes(raw.get("axes", {}), "axes")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            location, message = first_problem(error, cls)
            # The path of a union of axis kinds ends in the kind; the user wrote no such word.
            raise SpecError(join(*(p for p in location if p not in _KINDS)), message) from None

    @classmethod
    def load(cls, path: str | Path, settings: Mapping[str, Any] | None = None) -> SearchSpace:
        """Read a YAML file; `settings` (dotted path -> value) override it.

        Raises:
            SpecError: the file cannot be read, or says something that cannot be used.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
        raw = parse_yaml(text, str(path))
        for dotted, value in (settings or {}).items():
            raw = with_setting(raw, dotted, value)
        return cls.parse(raw)


_KINDS = frozenset({"Range", "list[any]"})
_SECTIONS = frozenset({"model", "data", "baseline", "method", "target", "retrain", "seed"})


def parse_yaml(text: str, path: str) -> Any:
    """Plain data from YAML: safe, every key once, and 1e-4 a number (YAML 1.1 would read it as text)."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else path
        raise SpecError(where, f"is not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SpecError(path, f"is not valid YAML: {error}") from None


def with_setting(raw: Any, dotted: str, value: Any) -> Any:
    """A copy of the raw search space with one value set.

    A path that begins with a section of a trial (``data.path``, ``retrain.epochs``) is set in the base, or in the
    shared axes where it stands there; every other path is taken from the top (``axes.seed``, ``resources.cpus``).
    """
    if not isinstance(raw, Mapping):
        return raw
    axes = raw.get("axes") or {}
    parts = dotted.split(".")
    if dotted in axes:
        return {**raw, "axes": {**axes, dotted: value if isinstance(value, list | Mapping) else [value]}}
    if parts[0] == "axes" and len(parts) > 1:
        return {**raw, "axes": {**axes, ".".join(parts[1:]): value}}
    if parts[0] in _SECTIONS:
        parts = ["base", *parts]
    if parts[0] == "resources" and (isinstance(raw.get("resources"), str) or isinstance(value, str)):
        # `auto` is no name that parameters could be given to.
        raw = {key: held for key, held in raw.items() if key != "resources"}
    return assign(raw, parts, value)


def assign(config: Mapping[str, Any], parts: list[str], value: Any) -> dict[str, Any]:
    """A copy of nested mappings with one place set; a bare name on the way becomes ``{name: ...}``.

    A bare name set on a mapping names it and keeps its parameters (``retrain: {epochs: 10}`` with ``retrain: clr``).
    """
    head, *rest = parts
    current = config.get(head)
    if rest:
        if isinstance(current, str):
            current = {"name": current}
        inner = current if isinstance(current, Mapping) else {}
        return {**config, head: assign(inner, rest, value)}
    if isinstance(current, Mapping) and isinstance(value, str):
        return {**config, head: {**current, "name": value}}
    if isinstance(current, str | Mapping) and isinstance(value, Mapping):
        named = {"name": current} if isinstance(current, str) else current
        return {**config, head: {**named, **value}}
    return {**config, head: value}


def _resources(raw: Any) -> Resources:
    """Of a union pydantic would tell what is wrong with each of its kinds."""
    if not isinstance(raw, Mapping):
        raise SpecError("resources", f"must be {AUTO!r} or a mapping with cpus and gpus, found {shown(raw)}")
    try:
        return Resources.model_validate(dict(raw))
    except ValidationError as error:
        location, message = first_problem(error, Resources)
        raise SpecError(join("resources", *location), message) from None


def _arm(raw: Any, path: str) -> dict[str, Any]:
    if isinstance(raw, str):
        raw = {"method": raw}
    if not isinstance(raw, Mapping):
        raise SpecError(path, f"an arm is a mapping with a method and axes, found {shown(raw)}")
    _check_axes(raw.get("axes", {}), join(path, "axes"))
    arm = {key: raw[key] for key in ("name", "axes") if key in raw}
    return {**arm, "overrides": {key: value for key, value in raw.items() if key not in arm}}


def _check_axes(axes: Any, path: str) -> None:
    """What pydantic would say of a union of kinds is hard to read: say it here."""
    if not isinstance(axes, Mapping):
        raise SpecError(path, f"must be a mapping of dotted paths to values, found {shown(axes)}")
    for name, axis in axes.items():
        where = join(path, str(name))
        if isinstance(axis, list):
            if not axis:
                raise SpecError(where, "an axis needs at least one value, found []")
            seen: list[Any] = []
            for i, value in enumerate(axis):
                if value in seen and not isinstance(value, bool):
                    raise SpecError(join(where, i), f"repeats the value {shown(value)}")
                seen.append(value)
        elif isinstance(axis, Mapping):
            try:
                Range.model_validate(dict(axis))
            except ValidationError as error:
                location, message = first_problem(error, Range)
                kinds = {"float", "int"}
                raise SpecError(join(where, *(p for p in location if p not in kinds)), message) from None
        else:
            raise SpecError(where, f"an axis is a list of values or a range with low and high, found {shown(axis)}")


class _Loader(yaml.SafeLoader):
    """YAML without surprises."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)

__all__ = ["AUTO", "Arm", "Axis", "Range", "Resources", "Search", "SearchSpace", "assign", "with_setting"]
