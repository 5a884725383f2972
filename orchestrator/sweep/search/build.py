"""From the `search` section of a search space to the search it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.plugins import UnknownName
from orchestrator.spec.errors import SpecError, join, nearest
from orchestrator.spec.search_space import Search, SearchSpace
from orchestrator.sweep.search import SEARCHES
from orchestrator.sweep.search.base import AdaptiveSearch, FixedSearch, Study
from orchestrator.sweep.search.observation import EvaluatedTrial
from orchestrator.sweep.space.arms import ExpandedArm
from orchestrator.sweep.space.choices import checked_parameters, instance, own_code

_OWNERS = {"blocks": "sobol", "trajectories": "morris"}
"""Parameters that only one of the package's searches takes."""
_MISSING = {
    "trials": "is missing: search {name!r} needs the number of trials to draw",
    "blocks": "is missing: the design needs a number, a power of 2",
    "trajectories": "is missing: the design needs a number, 2 or more",
}


def is_adaptive(search: Search) -> bool:
    """Return whether a search draws the next trial from what earlier ones gave; nothing is imported.

    Raises:
        SpecError: an unknown search.
    """
    try:
        return bool(SEARCHES.describe(search.name).attributes.get("adaptive"))
    except UnknownName as error:
        raise SpecError("search.name", str(error)) from None


def check_search(search: Search) -> None:
    """Validate the section without importing the search; raises :class:`SpecError` with path and value."""
    adaptive = is_adaptive(search)
    taken = {parameter.name for parameter in SEARCHES.describe(search.name).parameters}
    for key in search.params:
        if key not in taken:
            names = {*Search.model_fields, *taken} - {"params"}
            raise SpecError(join("search", key), f"unknown name {key!r}{nearest(key, names)}")
    for key, owner in _OWNERS.items():
        if getattr(search, key) is not None and key not in taken:
            raise SpecError(f"search.{key}", f"is for search {owner!r}, found it with {search.name!r}")
    if search.warm_start and not adaptive:
        raise SpecError("search.warm_start", f"is for adaptive searches, found it with {search.name!r}")
    for key, problem in _MISSING.items():
        if getattr(search, key) is None and (key in taken or (key == "trials" and adaptive)):
            raise SpecError(join("search", key), problem.format(name=search.name))
    checked_parameters(SEARCHES, search.name, _parameters(search), "search")
    if adaptive:
        try:
            replace(SEARCHES, base=f"{AdaptiveSearch.__module__}:AdaptiveSearch").describe(search.name)
        except UnknownName as error:
            raise SpecError("search.name", str(error)) from None


def fixed_search(search: Search) -> FixedSearch:
    """Import and construct a search that is not adaptive; raises :class:`SpecError`."""
    _check_base(search.name)
    return instance(SEARCHES, search.name, _parameters(search), "search", FixedSearch)  # type: ignore[type-abstract]


def start_study(
    space: SearchSpace,
    arms: Sequence[ExpandedArm],
    evaluated: Sequence[EvaluatedTrial] = (),
    journal: Path | None = None,
) -> Study:
    """Import the adaptive search of a search space and start it; see `AdaptiveSearch.start`."""
    name = space.search.name
    search = instance(SEARCHES, name, _parameters(space.search), "search", AdaptiveSearch)  # type: ignore[type-abstract]
    with own_code("search.name", f"{name!r} cannot start"):
        return search.start(space, arms, evaluated, journal)


def _check_base(name: str) -> None:
    """Refuse a class that is no search at all, or one whose source does not show that it is adaptive."""
    try:
        kind = SEARCHES.load(name)
    except (Exception, SystemExit):
        return  # constructing it says why
    if not isinstance(kind, type) or not issubclass(kind, FixedSearch | AdaptiveSearch):
        bases = f"{FixedSearch.__module__}.FixedSearch, nor from AdaptiveSearch"
        raise SpecError("search.name", f"{name!r} is not derived from {bases}")
    if issubclass(kind, AdaptiveSearch):
        remedy = f"name its base directly, by 'from {AdaptiveSearch.__module__} import AdaptiveSearch'"
        raise SpecError("search.name", f"the source of {name!r} does not show that it is adaptive: {remedy}")


def _parameters(search: Search) -> dict[str, Any]:
    """The parameters that the search takes, and those that it has to refuse.

    `trials` and `seed` may stand beside any search: one that has no use for them ignores them.
    """
    taken = {parameter.name for parameter in SEARCHES.describe(search.name).parameters}
    common = {key: getattr(search, key) for key in ("trials", "seed", *_OWNERS)}
    return {key: value for key, value in common.items() if key in taken} | search.params
