"""Which parameter matters, computed within the patience of somebody who waits for a report."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.analysis.sensitivity.factors import Importance, NothingToAnalyse, conditional_arms
from orchestrator.report.data import ReportData

if TYPE_CHECKING:
    from orchestrator.analysis.sensitivity.importances import Method

MOST_SETTINGS = 150
MOST_FOR_FANOVA = 60
"""Optuna's fANOVA walks its trees in Python: a minute for 150 settings."""
MOST_ARMS = 4
RESAMPLES = 16


@dataclass(frozen=True)
class Sampled:
    """Importances, and what they were computed from."""

    values: Sequence[Importance] = ()
    note: str = ""
    """Where not all settings, or not all parameters, were looked at; or why there is nothing."""

    @property
    def two_greatest(self) -> tuple[str, str] | None:
        """The two most important parameters over all arms."""
        known = [
            one for one in self.values if one.arm is None and one.method == "permutation" and one.value is not None
        ]
        order = sorted(known, key=lambda one: -(one.value or 0))
        return (order[0].parameter, order[1].parameter) if len(order) > 1 else None


def sampled(evidence: ReportData) -> Sampled:
    """Permutation importance and fANOVA; of a large sweep, over settings drawn at random (always the same ones)."""
    # A second and a half to import Optuna and scikit-learn.
    from orchestrator.analysis.sensitivity.importances import importances

    found = [setting for setting in evidence.settings if setting.rows]
    notes = []
    if len(found) > MOST_SETTINGS:
        notes.append(f"Computed from {MOST_SETTINGS} of {len(found):,} settings, drawn at random.")
        found = random.Random(0).sample(found, MOST_SETTINGS)
    methods: list[Method] = ["permutation", "fanova"]
    if len(found) > MOST_FOR_FANOVA:
        methods.remove("fanova")
    rows = [row for setting in found for row in setting.rows]
    axes = [name for name in evidence.axes if name != "target.quantity"]
    shared = [name for name in axes if all(name in setting.point for setting in found)]
    if len(shared) < len(axes) and len(conditional_arms(rows, axes)) > MOST_ARMS:
        notes.append("Parameters that only some arms have are left out: too many arms have some of their own.")
        axes = shared
    if any("target.sparsity" in setting.point for setting in found) and "target.sparsity" not in axes:
        axes = ["target.sparsity", *axes]
    try:
        values = importances(
            rows,
            evidence.metric,
            axes,
            direction=evidence.direction,
            methods=methods,
            resamples=RESAMPLES,
        )
    except NothingToAnalyse:
        return Sampled(note="Nothing was varied, or nothing was measured.")
    values += _designed(evidence)
    if all(one.value is None for one in values if one.method == "permutation"):
        notes.append("With fewer than six settings no importance can be told.")
    return Sampled(values, " ".join(notes))


def _designed(evidence: ReportData) -> list[Importance]:
    """The indices of the design that the search was; none where it was another search, or is not complete enough."""
    if evidence.space.search.name not in ("sobol", "morris"):
        return []
    # SALib takes half a second.
    from orchestrator.analysis.sensitivity.designs import design_values, morris_indices, sobol_indices
    from orchestrator.sweep.search.designs import BadDesign, design_of

    try:
        design = design_of(evidence.space)
        values = design_values(design, evidence.rows, evidence.metric)
        return (sobol_indices if design.kind == "sobol" else morris_indices)(design, values)
    except BadDesign:
        return []
