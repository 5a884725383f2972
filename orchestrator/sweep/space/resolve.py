"""Resolve nested plain data to one trial: names, types, combinations and paths are checked, no plug-in is imported."""

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
"""Values of the sections that may be left out."""
Model = TypeVar("Model", bound=BaseModel)
Section = TypeVar("Section")
Locate = Callable[[str], str]
"""Where the user wrote a dotted path of the resolved configuration."""


class Resolver:
    """Resolves configurations of one arm; a section that several trials have in common is resolved once.

    Args:
        sources: where each dotted path of the configurations was written, e.g. ``{"model": "base.model"}``.
    """

    def __init__(self, sources: Mapping[str, str] | None = None) -> None:
        self._sources = dict(sources or {})
        self._sections: dict[tuple[str, ...], Any] = {}
        """Resolved sections by name, text and what else they depend on."""

    def origin(self, path: str, varied: Mapping[str, str] | None = None) -> str:
        """Return where a dotted path was written, given the sources of the paths that a point of the axes sets."""
        return _origin(path, {**self._sources, **(varied or {})})

    def resolve(self, config: Mapping[str, Any], varied: Mapping[str, str] | None = None) -> TrialSpec:
        """Return the trial that nested plain data describe.

        Args:
            config: the sections of the trial.
            varied: where each dotted path that a point of the axes sets was written.

        Raises:
            SpecError: with the path where the user wrote the value at fault.
        """
        sources = {**self._sources, **(varied or {})}

        def locate(path: str) -> str:
            return _origin(path, sources)

        sections = {**_UNWRITTEN, **config}

        def once(section: str, make: Callable[[Any], Section], *depends: str) -> Section:
            key = (section, repr(sections[section]), *depends)
            if key not in self._sections:
                self._sections[key] = make(sections[section])
            resolved: Section = self._sections[key]
            return resolved

        for section in config:
            if section not in SECTIONS:
                raise SpecError(locate(section), f"unknown name {section!r}{nearest(section, SECTIONS)}")
        for section in ("model", "data", "method"):
            if section not in config:
                raise SpecError(join("base", section), "is missing")
        method = once("method", lambda raw: _choice(METHODS, raw, "method", locate))
        model = once("model", lambda raw: _choice(MODELS, raw, "model", locate))
        target = once("target", lambda raw: _target(raw, model.name, locate), model.name)
        _check_target(target, method.name, locate)
        _check_architecture(model.name, locate)
        return TrialSpec(
            model=model,
            data=once("data", lambda raw: _located(_choice(DATA, raw, "data", locate), locate)),
            baseline=once("baseline", lambda raw: _value(Baseline, raw, "baseline", locate)),
            method=method,
            target=target,
            retrain=once("retrain", lambda raw: _retrain(raw, locate)),
            seed=_seed(sections["seed"], locate),
        )


def resolve(config: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> TrialSpec:
    """Return one trial from nested plain data; raises as `Resolver.resolve` does."""
    return Resolver(sources).resolve(config)


def _origin(path: str, sources: Mapping[str, str]) -> str:
    if path in sources:
        return sources[path]
    within = [key for key in sources if key.startswith(path + ".")]
    if within:
        return sources[within[0]]
    above = path
    while "." in above:
        above, _, _ = above.rpartition(".")
        if above in sources:
            source = sources[above]
            return source if source.endswith("]") else source + path[len(above) :]
    return join("base", path)


def _check_target(target: Target, method: str, locate: Locate) -> None:
    """Refuse a target that the method cannot have."""
    attributes = METHODS.describe(method).attributes
    if target.sparsity is None and target.kept is None and not attributes.get("finds_sparsity"):
        raise SpecError(locate("target"), "give either sparsity, kept or plan, found neither")
    if target.steps and attributes.get("trains"):
        raise SpecError(locate("target.steps"), f"method {method!r} trains with the network: it takes no steps")
    if target.layers and attributes.get("trains_for_target"):
        problem = f"method {method!r} trains for the sparsity of the whole network: it takes no layers"
        raise SpecError(locate("target.layers"), problem)
    granularities = attributes.get("granularities", ("channels",))
    if target.granularity not in granularities:
        quantities = {"weights": "weights", "channels": "channels, params or macs"}
        accepted = " or ".join(quantities[granularity] for granularity in granularities)
        removed = "single weights" if granularities == ("weights",) else "whole channels"
        raise SpecError(
            locate("target.quantity"),
            f"method {method!r} removes {removed}: the quantity must be {accepted}, found {target.quantity!r}",
        )


def _check_architecture(model: str, locate: Locate) -> None:
    prefix, _, architecture = model.partition(":")
    if prefix == "torchvision" and architecture not in architectures():
        raise SpecError(
            locate("model"),
            f"unknown torchvision architecture {architecture!r}{nearest(architecture, architectures())}",
        )


def _named(raw: Any, section: str, locate: Locate) -> tuple[str, dict[str, Any]]:
    if isinstance(raw, str):
        return raw, {}
    if not isinstance(raw, Mapping):
        raise SpecError(locate(section), f"must be a name or a mapping with a name, found {shown(raw)}")
    params = dict(raw)
    name = params.pop("name", None)
    if not isinstance(name, str):
        problem = "is missing" if name is None else f"must be a name, found {shown(name)}"
        raise SpecError(locate(f"{section}.name"), problem)
    return name, params


def _parameters(registry: Registry, name: str, params: Mapping[str, Any], section: str, locate: Locate) -> Any:
    try:
        model = registry.parameters(name)
    except UnknownName as error:
        raise SpecError(locate(section), str(error)) from None
    return _value(model, params, section, locate)


def _choice(registry: Registry, raw: Any, section: str, locate: Locate) -> Choice:
    name, params = _named(raw, section, locate)
    checked = _parameters(registry, name, params, section, locate)
    return Choice(name=name, params=checked.model_dump(exclude_defaults=True))


def _target(raw: Any, model: str, locate: Locate) -> Target:
    return _value(Target, _with_plan_counts(raw, model, locate), "target", locate)


def _with_plan_counts(raw: Any, model: str, locate: Locate) -> Any:
    """Replace the name of a plan by its counts: these, and not the name, are part of a trial's identity."""
    if not isinstance(raw, Mapping):
        return raw
    rest = {key: value for key, value in raw.items() if key != "plan"}
    if raw.get("plan") is None:
        return rest
    name, source = raw["plan"], locate("target.plan")
    if not isinstance(name, str):
        raise SpecError(source, f"must be the name of a plan, found {shown(name)}")
    for other in ("sparsity", "kept", "layers"):
        if rest.get(other) is not None:
            raise SpecError(source, f"give either plan or {other}, found both: {name!r} and {shown(rest[other])}")
    if rest.get("quantity") == "weights":
        raise SpecError(source, f"plan {name!r} counts filters: the quantity must not be 'weights'")
    try:
        return {**rest, "kept": planned_counts(name, model)}
    except UnknownPlan as error:
        raise SpecError(source, str(error)) from None


def _retrain(raw: Any, locate: Locate) -> Retrain:
    if isinstance(raw, Mapping) and "name" not in raw:
        raw = {"name": "fine_tune", **raw}
    name, params = _named(raw, "retrain", locate)
    common = {key: params.pop(key) for key in Retrain.model_fields if key in params and key != "params"}
    own = _parameters(SCHEDULES, name, params, "retrain", locate)
    return _value(Retrain, {"name": name, **common, "params": own.model_dump(exclude_defaults=True)}, "retrain", locate)


def _seed(raw: Any, locate: Locate) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < 0:
        raise SpecError(locate("seed"), f"must be a whole number from 0, found {shown(raw)}")
    return raw


def _value(model: type[Model], raw: Any, section: str, locate: Locate) -> Model:
    if not isinstance(raw, Mapping):
        raise SpecError(locate(section), f"must be a mapping, found {shown(raw)}")
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        location, message = first_problem(error, model)
        path = ".".join([section, *(str(part) for part in location[:1])])
        raise SpecError(locate(path), message) from None


def _located(data: Choice, locate: Locate) -> Choice:
    """Add the fingerprint of the files to data of the user's own: it identifies them wherever they lie."""
    path = own_path(data.name, data.params)
    if path is None:
        stated = Path(str(data.params.get("path", ""))).expanduser().resolve()
        if not stated.exists() and not data.params.get("download"):
            raise SpecError(locate("data.path"), f"no such folder: {str(stated)!r}")
        return data
    try:
        digest = fingerprint(path)
    except UnreadableData as error:
        raise SpecError(locate("data.path"), str(error)) from None
    return Choice(name=data.name, params={**data.params, "path": str(path), "fingerprint": digest})
