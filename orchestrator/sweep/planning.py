"""From a search space to the trials and shared stages it stands for; imports no torch and trains nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from orchestrator.data import DATA
from orchestrator.data.fingerprint import UnreadableData, fingerprint
from orchestrator.methods import METHODS
from orchestrator.models import MODELS
from orchestrator.models.torchvision_names import architectures
from orchestrator.plugins import Registry, UnknownName
from orchestrator.retrain import SCHEDULES
from orchestrator.spec.errors import SpecError, first_problem, join, nearest, shown
from orchestrator.spec.result import LATENCY_METRICS, METRICS
from orchestrator.spec.search_space import Axis, Range, SearchSpace, assign
from orchestrator.spec.trial import Baseline, Choice, Retrain, Target, TrialSpec
from orchestrator.surgery.plans import UnknownPlan, planned_counts

StageName = Literal["baseline", "importance", "sparse_training", "step"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
SEARCHES = {
    "grid": "every combination of the axes' values",
    "random": "independent draws from the axes, as many as `trials` says",
}
Model = TypeVar("Model", bound=BaseModel)
_SECTIONS = ("model", "data", "baseline", "method", "target", "retrain", "seed")


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
        """Dotted paths of all axes, in the order of the file."""
        return list(dict.fromkeys(path for trial in self.trials for path in trial.point))


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


def resolve(config: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> TrialSpec:
    """A trial from nested plain data; `sources` says where each dotted path of it was written.

    Raises:
        SpecError: with the path where the user wrote the value at fault.
    """
    origin = _Origin(sources or {})
    for section in config:
        if section not in _SECTIONS:
            raise SpecError(origin(section), f"unknown name {section!r}{nearest(section, _SECTIONS)}")
    for section in ("model", "data", "method"):
        if section not in config:
            raise SpecError(join("base", section), "is missing")
    method = _choice(METHODS, config, "method", origin)
    model = _choice(MODELS, config, "model", origin)
    target = _value(Target, _planned(config.get("target", {}), model.name, origin), "target", origin)
    attributes = METHODS.describe(method.name).attributes
    if target.sparsity is None and target.kept is None and not attributes.get("finds_sparsity"):
        raise SpecError(origin("target"), "give either sparsity, kept or plan, found neither")
    if target.steps and attributes.get("trains"):
        raise SpecError(origin("target.steps"), f"method {method.name!r} trains with the network: it takes no steps")
    granularities = attributes.get("granularities", ("channels",))
    if target.granularity not in granularities:
        right = {"weights": "weights", "channels": "channels, params or macs"}
        wanted = " or ".join(right[granularity] for granularity in granularities)
        what = "single weights" if granularities == ("weights",) else "whole channels"
        raise SpecError(
            origin("target.quantity"),
            f"method {method.name!r} removes {what}: the quantity must be {wanted}, found {target.quantity!r}",
        )
    prefix, _, architecture = model.name.partition(":")
    if prefix == "torchvision" and architecture not in architectures():
        raise SpecError(
            origin("model"),
            f"unknown torchvision architecture {architecture!r}{nearest(architecture, architectures())}",
        )
    return TrialSpec(
        model=model,
        data=_located(_choice(DATA, config, "data", origin), origin),
        baseline=_value(Baseline, config.get("baseline", {}), "baseline", origin),
        method=method,
        target=target,
        retrain=_retrain(config.get("retrain", "fine_tune"), origin),
        seed=_seed(config.get("seed", 0), origin),
    )


@dataclass(frozen=True)
class _Draft:
    arm: str
    point: dict[str, Any]
    config: dict[str, Any]
    sources: dict[str, str]


class _Origin:
    """Where a dotted path of a resolved configuration was written."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources

    def __call__(self, path: str) -> str:
        if path in self.sources:
            return self.sources[path]
        within = [key for key in self.sources if key.startswith(path + ".")]
        if within:
            return self.sources[within[0]]
        above = path
        while "." in above:
            above, _, _ = above.rpartition(".")
            if above in self.sources:
                source = self.sources[above]
                return source if source.endswith("]") else source + path[len(above) :]
        return join("base", path)


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
            if name.split(".")[0] not in _SECTIONS:
                raise SpecError(axis_sources[name], f"unknown name {name!r}{nearest(name.split('.')[0], _SECTIONS)}")
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


def _named(raw: Any, section: str, origin: _Origin) -> tuple[str, dict[str, Any]]:
    if isinstance(raw, str):
        return raw, {}
    if not isinstance(raw, Mapping):
        raise SpecError(origin(section), f"must be a name or a mapping with a name, found {shown(raw)}")
    params = dict(raw)
    name = params.pop("name", None)
    if not isinstance(name, str):
        problem = "is missing" if name is None else f"must be a name, found {shown(name)}"
        raise SpecError(origin(f"{section}.name"), problem)
    return name, params


def _parameters(registry: Registry, name: str, params: Mapping[str, Any], section: str, origin: _Origin) -> Any:
    try:
        model = registry.parameters(name)
    except UnknownName as error:
        raise SpecError(origin(section), str(error)) from None
    return _value(model, params, section, origin)


def _choice(registry: Registry, config: Mapping[str, Any], section: str, origin: _Origin) -> Choice:
    name, params = _named(config[section], section, origin)
    checked = _parameters(registry, name, params, section, origin)
    return Choice(name=name, params=checked.model_dump(exclude_defaults=True))


def _planned(raw: Any, model: str, origin: _Origin) -> Any:
    """A target with the counts that its plan stands for; these, and not the plan's name, are what a trial is."""
    if not isinstance(raw, Mapping):
        return raw
    rest = {key: value for key, value in raw.items() if key != "plan"}
    if raw.get("plan") is None:
        return rest
    name, place = raw["plan"], origin("target.plan")
    if not isinstance(name, str):
        raise SpecError(place, f"must be the name of a plan, found {shown(name)}")
    for other in ("sparsity", "kept"):
        if rest.get(other) is not None:
            raise SpecError(place, f"give either plan or {other}, found both: {name!r} and {shown(rest[other])}")
    if rest.get("quantity") == "weights":
        raise SpecError(place, f"plan {name!r} counts filters: the quantity must not be 'weights'")
    try:
        return {**rest, "kept": planned_counts(name, model)}
    except UnknownPlan as error:
        raise SpecError(place, str(error)) from None


def _retrain(raw: Any, origin: _Origin) -> Retrain:
    if isinstance(raw, Mapping) and "name" not in raw:
        raw = {"name": "fine_tune", **raw}
    name, params = _named(raw, "retrain", origin)
    common = {key: params.pop(key) for key in Retrain.model_fields if key in params and key != "params"}
    own = _parameters(SCHEDULES, name, params, "retrain", origin)
    return _value(Retrain, {"name": name, **common, "params": own.model_dump(exclude_defaults=True)}, "retrain", origin)


def _seed(raw: Any, origin: _Origin) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < 0:
        raise SpecError(origin("seed"), f"must be a whole number from 0, found {shown(raw)}")
    return raw


def _value(model: type[Model], raw: Any, section: str, origin: _Origin) -> Model:
    if not isinstance(raw, Mapping):
        raise SpecError(origin(section), f"must be a mapping, found {shown(raw)}")
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        location, message = first_problem(error, model)
        path = ".".join([section, *(str(part) for part in location[:1])])
        raise SpecError(origin(path), message) from None


def _located(data: Choice, origin: _Origin) -> Choice:
    """Data of the user's own are identified by a fingerprint of their files, wherever these lie."""
    described = DATA.describe(data.name)
    path_parameter = next((p for p in described.parameters if p.name == "path"), None)
    if path_parameter is None:
        return data
    path = Path(str(data.params.get("path", path_parameter.default))).expanduser().resolve()
    if path_parameter.default is not ...:
        if "path" in data.params and not path.exists() and not data.params.get("download"):
            raise SpecError(origin("data.path"), f"no such folder: {str(path)!r}")
        return data
    try:
        mark = fingerprint(path)
    except UnreadableData as error:
        raise SpecError(origin("data.path"), str(error)) from None
    return Choice(name=data.name, params={**data.params, "path": str(path), "fingerprint": mark})


def _check_metrics(space: SearchSpace) -> None:
    known = (*METRICS, *LATENCY_METRICS)
    for section, names in (("objectives", space.objectives), ("constraints", space.constraints)):
        for name in names:
            if name not in known:
                raise SpecError(join(section, name), f"unknown metric {name!r}{nearest(name, known)}")
