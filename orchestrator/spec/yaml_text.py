"""Write a search space as the YAML that it is loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from orchestrator.spec.axes import Range
from orchestrator.spec.search_space import SearchSpace


def as_yaml(space: SearchSpace) -> str:
    """Return the search space as YAML, settings applied; loading it gives the same plan."""

    def plain(axes: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v.model_dump(exclude_defaults=True) if isinstance(v, Range) else v for k, v in axes.items()}

    raw = space.model_dump(exclude_defaults=True, exclude={"axes", "arms"})
    for section in ("search", "stopper"):
        if raw.get(section):
            raw[section] |= raw[section].pop("params", {})
    if space.axes:
        raw["axes"] = plain(space.axes)
    if space.arms:
        raw["arms"] = [
            {
                **({"name": arm.name} if arm.name else {}),
                **arm.overrides,
                **({"axes": plain(arm.axes)} if arm.axes else {}),
            }
            for arm in space.arms
        ]
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
