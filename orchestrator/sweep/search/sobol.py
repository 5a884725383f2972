"""The search over Saltelli's design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from orchestrator.spec.axes import Axis
from orchestrator.sweep.search.designs import Design, DesignedSearch, sobol_design


@dataclass(frozen=True)
class Sobol(DesignedSearch):
    """Saltelli's design, `blocks` of it, from which Sobol indices follow; one arm."""

    blocks: Annotated[int, Field(ge=2)]
    seed: int = 0

    def design(self, axes: Mapping[str, Axis]) -> Design:
        return sobol_design(axes, self.blocks, self.seed)
