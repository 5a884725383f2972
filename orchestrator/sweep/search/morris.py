"""The search over Morris's design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from orchestrator.spec.axes import Axis
from orchestrator.sweep.search.designs import Design, DesignedSearch, morris_design


@dataclass(frozen=True)
class Morris(DesignedSearch):
    """Morris's one-at-a-time `trajectories`, from which elementary effects follow; one arm."""

    trajectories: Annotated[int, Field(ge=2)]
    seed: int = 0

    def design(self, axes: Mapping[str, Axis]) -> Design:
        return morris_design(axes, self.trajectories, self.seed)
