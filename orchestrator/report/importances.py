"""Estimate parameter importances for a report, in seconds: from a sample of the settings if there are many."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.analysis.sensitivity.factors import Importance, NothingToAnalyse, conditional_arms
from orchestrator.report.data import ReportData

if TYPE_CHECKING:
    from orchestrator.analysis.sensitivity.importances import ImportanceMethod

MOST_SETTINGS = 150
MOST_FOR_FANOVA = 60
"""Number of settings above which fANOVA is skipped: Optuna's takes a minute for 150."""
MOST_ARMS = 4
RESAMPLES = 16


@dataclass(frozen=True)
class ReportImportances:
    """Importances, with a note on the sample that they were estimated from."""

    values: Sequence[Importance] = ()
    note: str = ""
    """States which settings or parameters were left out, or why there are no importances."""

    @property
    def two_greatest(self) -> tuple[str, str] | None:
        """The two parameters of the greatest permutation importance over all arms."""
        known = [i for i in self.values if i.arm is None and i.method == "permutation" and i.value is not None]
        ordered = sorted(known, key=lambda i: -(i.value or 0))
        return (ordered[0].parameter, ordered[1].parameter) if len(ordered) > 1 else None


def estimate_importances(data: ReportData) -> ReportImportances:
    """Estimate permutation importance and fANOVA; a large sweep is sampled at random, with a fixed seed."""
    # Imported here because Optuna and scikit-learn take a second and a half.
    from orchestrator.analysis.sensitivity.importances import importances

    settings = [setting for setting in data.settings if setting.rows]
    notes = []
    if len(settings) > MOST_SETTINGS:
        notes.append(f"Computed from {MOST_SETTINGS} of {len(settings):,} settings, drawn at random.")
        settings = random.Random(0).sample(settings, MOST_SETTINGS)
    methods: list[ImportanceMethod] = ["permutation", "fanova"]
    if len(settings) > MOST_FOR_FANOVA:
        methods.remove("fanova")
    rows = [row for setting in settings for row in setting.rows]
    axes = [name for name in data.axes if name != "target.quantity"]
    shared = [name for name in axes if all(name in setting.point for setting in settings)]
    if len(shared) < len(axes) and len(conditional_arms(rows, axes)) > MOST_ARMS:
        notes.append("Parameters that only some arms have are left out: too many arms have parameters of their own.")
        axes = shared
    if any("target.sparsity" in setting.point for setting in settings) and "target.sparsity" not in axes:
        axes = ["target.sparsity", *axes]
    try:
        values = importances(
            rows,
            data.metric,
            axes,
            direction=data.direction,
            methods=methods,
            resamples=RESAMPLES,
        )
    except NothingToAnalyse:
        return ReportImportances(note="Nothing was varied, or nothing was measured.")
    values += _design_indices(data)
    if all(i.value is None for i in values if i.method == "permutation"):
        notes.append("Fewer than six settings are too few to estimate importances.")
    return ReportImportances(values, " ".join(notes))


def _design_indices(data: ReportData) -> list[Importance]:
    """Return the Sobol or Morris indices; empty if the search was another one or too few of its points finished."""
    if data.space.search.name not in ("sobol", "morris"):
        return []
    # Imported here because SALib takes half a second.
    from orchestrator.analysis.sensitivity.designs import design_values, morris_indices, sobol_indices
    from orchestrator.sweep.search.designs import BadDesign, design_of

    try:
        design = design_of(data.space)
        values = design_values(design, data.rows, data.metric)
        return (sobol_indices if design.kind == "sobol" else morris_indices)(design, values)
    except BadDesign:
        return []
