"""List what a search space can name, read from the tables without importing any plug-in."""

from __future__ import annotations

import re
from typing import Any

from orchestrator.data import DATA
from orchestrator.methods import METHODS
from orchestrator.metrics.table import EXTRA_METRICS
from orchestrator.models import MODELS
from orchestrator.plugins import Description, Registry, UnknownName
from orchestrator.retrain import SCHEDULES
from orchestrator.spec.metric import METRICS
from orchestrator.spec.trial import Retrain
from orchestrator.surgery.published_plans import PLANS
from orchestrator.sweep.search import SEARCHES
from orchestrator.sweep.stopping import STOPPERS

KINDS = ("methods", "models", "data", "schedules", "metrics", "searches", "plans", "papers")
_REGISTRIES: dict[str, Registry] = {"methods": METHODS, "models": MODELS, "data": DATA, "schedules": SCHEDULES}
_PLAN_SOURCES = {
    "pfec_": "Pruning Filters for Efficient ConvNets (Li et al., 2017); paper 001, section 1.4",
    "functionality_": "paper 000, tables 3 and 4",
    "": "paper 001, tables 3, 4 and 8 to 12: as many parameters as another method's network",
}
_PAPERS = {
    "000": "Interpretable / functionality-oriented convolutional filter pruning (Qin et al., 2018)",
    "001": "Network pruning that matters: a case study on retraining variants (Le and Hua, 2021)",
    "002": "MLPrune: multi-layer pruning for automated neural network compression (Zeng and Urtasun, 2018)",
    "003": "AutoPrune: automatic network pruning by regularizing auxiliary parameters (Xiao et al., 2019)",
    "004": "MaskConvNet: training efficient ConvNets from scratch via budget-constrained filter pruning (2020)",
}


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Return one entry per name; ``kind`` is one of `KINDS`."""
    if kind == "metrics":
        extra = [_describe(EXTRA_METRICS, name) for name in EXTRA_METRICS.names()]
        rows = [(row.name, row.doc) for row in METRICS.values()] + [(e.name, e.summary) for e in extra]
        return [{"name": name, "what": what} for name, what in rows]
    if kind == "searches":
        return [*map(_search, SEARCHES.names()), *map(_stopper, STOPPERS.names())]
    if kind == "plans":
        return [_plan(name) for name in PLANS]
    if kind == "papers":
        return [{"name": name, "what": text, "methods": _from_paper(name)} for name, text in _PAPERS.items()]
    registry = _REGISTRIES[kind]
    return [_entry(kind, _describe(registry, name)) for name in registry.names()]


def _describe(registry: Registry, name: str) -> Description:
    """Return the description of a plug-in, or of what is wrong with it: a broken one must not hide the others."""
    try:
        return registry.describe(name)
    except UnknownName as problem:
        return Description(name, registry.target(name), str(problem), ())


def _search(name: str) -> dict[str, Any]:
    description = _describe(SEARCHES, name)
    parameters = _parameters(description)
    adaptive = description.attributes.get("adaptive", False)
    if adaptive:
        parameters["warm_start"] = "list[str] = []"
    kind = "adaptive" if adaptive else "fixed"
    return {"name": name, "kind": kind, "what": description.summary, "parameters": parameters}


def _stopper(name: str) -> dict[str, Any]:
    """Stoppers are listed among the searches: they too decide which trials run to their end."""
    description = _describe(STOPPERS, name)
    return {"name": name, "kind": "stopper", "what": description.summary, "parameters": _parameters(description)}


def _from_paper(paper: str) -> str:
    descriptions = (_describe(METHODS, name) for name in METHODS.names())
    return ", ".join(d.name for d in descriptions if d.attributes.get("paper", "").startswith(paper))


def _plan(name: str) -> dict[str, Any]:
    what = next(text for prefix, text in _PLAN_SOURCES.items() if name.startswith(prefix))
    layers = {model: f"{len(counts)} layers cut" for model, counts in PLANS[name].items()}
    return {"name": name, "what": what, "models": layers}


def _entry(kind: str, description: Description) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": description.name, "what": description.summary}
    if kind == "methods":
        attributes = description.attributes
        package, *folders = description.target.partition(":")[0].split(".")
        # orchestrator.methods.<family>.<file>; of others, the package that they come from
        entry["family"] = folders[1] if package == "orchestrator" else package
        entry["removes"] = ", ".join(attributes.get("granularities", ()))
        entry["paper"] = attributes.get("paper", "")
    entry["parameters"] = _parameters(description)
    if kind == "schedules":
        common = {name: f for name, f in Retrain.model_fields.items() if name not in ("name", "params")}
        entry["parameters"] |= {name: _default(str(f.annotation), f.default) for name, f in common.items()}
    return entry


_PLAIN = {
    "OpenShare": "float in [0, 1)",
    "Share": "float in [0, 1]",
    "Positive": "float > 0",
    "NonNegative": "float >= 0",
    "Count": "int >= 1",
    "Natural": "int >= 0",
    "<class 'int'>": "int",
}


_BOUNDED = re.compile(r"Annotated\[(\w+), Field\((.*?)\)\]")
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _with_bounds(annotation: re.Match[str]) -> str:
    """Return ``int in [1, 100]`` for ``Annotated[int, Field(ge=1, le=100)]``, ``int >= 2`` for one bound."""
    bounds = dict(bound.split("=") for bound in annotation[2].replace(" ", "").split(","))
    if len(bounds) == 1:
        ((sign, value),) = bounds.items()
        return f"{annotation[1]} {_SIGNS[sign]} {value}"
    low = f"[{bounds['ge']}" if "ge" in bounds else f"({bounds['gt']}"
    high = f"{bounds['le']}]" if "le" in bounds else f"{bounds['lt']})"
    return f"{annotation[1]} in {low}, {high}"


def _parameters(description: Description) -> dict[str, str]:
    return {p.name: _default(p.annotation, p.default) for p in description.parameters}


def _default(annotation: str, default: Any) -> str:
    annotation = _BOUNDED.sub(_with_bounds, annotation)
    for word, plain in _PLAIN.items():
        annotation = annotation.replace(word, plain)
    return f"{annotation}, required" if default is ... else f"{annotation} = {default!r}"
