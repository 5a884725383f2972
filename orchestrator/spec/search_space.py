"""A search space: the YAML file as a frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from orchestrator.spec.axes import Axis, check_axes
from orchestrator.spec.constraint import comparison
from orchestrator.spec.errors import SpecError, first_problem, join, shown
from orchestrator.spec.trial import Choice, Value
from orchestrator.spec.yaml_loader import parse_yaml, with_setting


class Arm(Value):
    """A part of the search space: overrides of the base, and axes of its own."""

    name: str | None = None
    """Label in tables; None: its method's name."""
    axes: dict[str, Axis] = Field(default_factory=dict)
    """Axes of this arm alone, beside the shared ones; the same path takes a shared axis's place."""
    overrides: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The arm's name, else its method's, else ``base``."""
        method = self.overrides.get("method", {})
        named = method.get("name", "") if isinstance(method, Mapping) else method
        return self.name or str(named) or "base"


class Search(Value):
    """The search, which takes points from the axes, and its parameters."""

    name: str = "grid"
    """Name of the search."""
    trials: int | None = Field(default=None, ge=1)
    """Number of trials, for searches that draw them."""
    seed: int = 0
    """Seed of the draws; the trials' own seeds are an axis."""
    blocks: int | None = Field(default=None, ge=2)
    """Number of blocks of a `sobol` design, a power of 2; each has 2 k + 2 points over k axes."""
    trajectories: int | None = Field(default=None, ge=2)
    """Number of trajectories of a `morris` design; each has k + 1 points over k axes."""
    warm_start: list[str] = Field(default_factory=list)
    """Other sweeps of the store: an adaptive search is told those of their trials that lie in this space."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of a search of the user's own, as they stand beside the name."""


class Resources(Value):
    """CPU cores and GPUs that one trial occupies while it runs."""

    cpus: float = Field(default=1, gt=0)
    """CPU cores, and as many arithmetic threads."""
    gpus: float = Field(default=0, ge=0)
    """GPUs; a fraction lets several trials share one."""


AUTO: Literal["auto"] = "auto"
"""The value of `resources` that are measured before the first trial."""


class SearchSpace(Value):
    """A question, the trials that may answer it, and the search through them."""

    name: str
    """Name of the sweep and of its folder: letters, digits, `.`, `_` and `-`."""
    question: str | None = None
    """Question that the sweep answers; tables and the report show it."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Configuration that all trials have in common: the sections below."""
    axes: dict[str, Axis] = Field(default_factory=dict)
    """Parameters that vary in every arm: dotted paths (`target.sparsity`), each with a list of values or a range."""
    arms: list[Arm] = Field(default_factory=list)
    """Parts of the space with overrides of the base and axes of their own, usually one per method."""
    search: Search = Search()
    """The search, which takes points from the axes: a name, or a mapping."""
    objectives: dict[str, Literal["max", "min"]] = Field(default={"accuracy": "max"})
    """Metrics and the direction in which they are better; the first one ranks."""
    constraints: dict[str, str] = Field(default_factory=dict)
    """Metrics and their bounds, such as `"<= 12"`."""
    metrics: list[str] = Field(default_factory=list)
    """Metrics of your own beside those of every trial: installed names, or `module:Class`."""
    stopper: Choice | None = None
    """The rule that ends weak trials early: a name, or a mapping."""
    resources: Resources | Literal["auto"] = Resources()
    """CPU cores and GPUs of one trial; `auto`: as many trials per GPU as measured memory and load allow."""

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
        """Return a search space from plain YAML data; raises :class:`SpecError` with path and value."""
        if not isinstance(raw, Mapping):
            raise SpecError("", f"a search space is a mapping with name, base, axes and arms, found {shown(raw)}")
        raw = dict(raw)
        if "search" in raw:
            raw["search"] = _search(raw["search"])
        if raw.get("stopper") is not None:
            raw["stopper"] = _choice(raw["stopper"], "stopper")
        if raw.get("resources", AUTO) != AUTO:
            raw["resources"] = _resources(raw["resources"])
        if isinstance(raw.get("arms"), list):
            raw["arms"] = [_arm(arm, join("arms", i)) for i, arm in enumerate(raw["arms"])]
        check_axes(raw.get("axes", {}), "axes")
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


def _search(raw: Any) -> Any:
    """Return the fields of `Search`; what else a mapping holds are parameters of the search."""
    if isinstance(raw, str):
        return {"name": raw}
    if not isinstance(raw, Mapping):
        return raw
    own = {str(key): value for key, value in raw.items() if key not in Search.model_fields or key == "params"}
    fields = {key: value for key, value in raw.items() if key not in own}
    return {**fields, "params": own} if own else fields


def _choice(raw: Any, path: str) -> Choice:
    """Return a name and its parameters from a name, or a mapping with one."""
    if isinstance(raw, str):
        return Choice(name=raw)
    if not isinstance(raw, Mapping):
        raise SpecError(path, f"must be a name or a mapping with a name, found {shown(raw)}")
    params = {str(key): value for key, value in raw.items() if key != "name"}
    name = raw.get("name")
    if not isinstance(name, str):
        raise SpecError(join(path, "name"), "is missing" if name is None else f"must be a name, found {shown(name)}")
    return Choice(name=name, params=params)


def _resources(raw: Any) -> Resources:
    """Validate resources; of a union pydantic would report what is wrong with each of its kinds."""
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
    check_axes(raw.get("axes", {}), join(path, "axes"))
    arm = {key: raw[key] for key in ("name", "axes") if key in raw}
    return {**arm, "overrides": {key: value for key, value in raw.items() if key not in arm}}


__all__ = ["AUTO", "Arm", "Resources", "Search", "SearchSpace"]
