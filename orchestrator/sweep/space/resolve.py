"""From nested plain data to one trial: names, types, combinations and places checked, plug-ins not imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.data import DATA
from orchestrator.data.fingerprint import UnreadableData, fingerprint, own_path
from orchestrator.methods import METHODS
from orchestrator.models import MODELS
from orchestrator.models.torchvision_names import architectures
from orchestrator.plugins import Registry, UnknownName
from orchestrator.retrain import SCHEDULES
from orchestrator.spec.errors import SpecError, first_problem, join, nearest, shown
from orchestrator.spec.trial import Baseline, Choice, Retrain, Target, TrialSpec
from orchestrator.surgery.published_plans import UnknownPlan, planned_counts

SECTIONS = ("model", "data", "baseline", "method", "target", "retrain", "seed")
_UNWRITTEN: Mapping[str, Any] = {"baseline": {}, "target": {}, "retrain": "fine_tune", "seed": 0}
"""What a section is that nobody wrote."""
Model = TypeVar("Model", bound=BaseModel)
Part = TypeVar("Part")


def resolve(
    config: Mapping[str, Any], sources: Mapping[str, str] | None = None, seen: dict[tuple[str, ...], Any] | None = None
) -> TrialSpec:
    """A trial from nested plain data; `sources` says where each dotted path of it was written.

    What stands in `seen` already is not resolved again: ten thousand trials have most of their sections in common.

    Raises:
        SpecError: with the path where the user wrote the value at fault.
    """
    origin = _Origin(sources or {})
    told = {**_UNWRITTEN, **config}
    found = {} if seen is None else seen

    def once(section: str, make: Callable[[Any], Part], *depends: str) -> Part:
        key = (section, repr(told[section]), *depends)
        if key not in found:
            found[key] = make(told[section])
        part: Part = found[key]
        return part

    for section in config:
        if section not in SECTIONS:
            raise SpecError(origin(section), f"unknown name {section!r}{nearest(section, SECTIONS)}")
    for section in ("model", "data", "method"):
        if section not in config:
            raise SpecError(join("base", section), "is missing")
    method = once("method", lambda raw: _choice(METHODS, raw, "method", origin))
    model = once("model", lambda raw: _choice(MODELS, raw, "model", origin))
    target = once("target", lambda raw: _value(Target, _planned(raw, model.name, origin), "target", origin), model.name)
    attributes = METHODS.describe(method.name).attributes
    if target.sparsity is None and target.kept is None and not attributes.get("finds_sparsity"):
        raise SpecError(origin("target"), "give either sparsity, kept or plan, found neither")
    if target.steps and attributes.get("trains"):
        raise SpecError(origin("target.steps"), f"method {method.name!r} trains with the network: it takes no steps")
    if target.layers and attributes.get("trains_for_target"):
        problem = f"method {method.name!r} trains for the sparsity of the whole network: it takes no layers"
        raise SpecError(origin("target.layers"), problem)
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
        data=once("data", lambda raw: _located(_choice(DATA, raw, "data", origin), origin)),
        baseline=once("baseline", lambda raw: _value(Baseline, raw, "baseline", origin)),
        method=method,
        target=target,
        retrain=once("retrain", lambda raw: _retrain(raw, origin)),
        seed=_seed(told["seed"], origin),
    )


def origin_of(path: str, sources: Mapping[str, str]) -> str:
    """Where a dotted path of a resolved configuration was written, given where each of its parts was."""
    return _Origin(sources)(path)


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


def _choice(registry: Registry, raw: Any, section: str, origin: _Origin) -> Choice:
    name, params = _named(raw, section, origin)
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
    for other in ("sparsity", "kept", "layers"):
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
    path = own_path(data.name, data.params)
    if path is None:
        stated = Path(str(data.params.get("path", ""))).expanduser().resolve()
        if not stated.exists() and not data.params.get("download"):
            raise SpecError(origin("data.path"), f"no such folder: {str(stated)!r}")
        return data
    try:
        mark = fingerprint(path)
    except UnreadableData as error:
        raise SpecError(origin("data.path"), str(error)) from None
    return Choice(name=data.name, params={**data.params, "path": str(path), "fingerprint": mark})
