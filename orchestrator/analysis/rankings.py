"""Rank the settings with the same target on the same network, and compare the best with the runner-up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.special import stdtrit

from orchestrator.analysis.aggregate import LEVEL, Difference, Setting, between, holm_corrected

POWER = 0.8
"""Power of the test at the difference that `minimum_detectable_difference` returns."""
SAME_TARGET = ("model", "data", "target.quantity", "target.layers", "target.sparsity")


@dataclass(frozen=True)
class TargetRanking:
    """The settings with one target on one network, best first."""

    point: Mapping[str, Any]
    """Values of the parameters in `SAME_TARGET` that the settings have."""
    ranked: tuple[Setting, ...]
    difference: Difference | None = None
    """Best minus runner-up, Holm-corrected over all targets; None if there is no runner-up."""


def rank_settings(settings: Sequence[Setting], choice: str, direction: Literal["max", "min"]) -> list[Setting]:
    """Return the settings with a finished trial that has the metric ``choice``, best mean first."""
    sign = -1.0 if direction == "max" else 1.0
    means = [(mean.mean, setting) for setting in settings if (mean := setting.metric(choice)) is not None]
    known = [(sign * value, i, setting) for i, (value, setting) in enumerate(means) if math.isfinite(value)]
    return [setting for _, _, setting in sorted(known, key=lambda item: item[:2])]


def rankings(
    settings: Sequence[Setting], metric: str, choice: str, direction: Literal["max", "min"] = "max"
) -> list[TargetRanking]:
    """Return a ranking for each target that two or more settings share, in the order of the targets' sparsity.

    Settings are ranked by ``choice`` (validation accuracy) and compared by ``metric`` (test accuracy), so that the
    selection of the winner does not bias the difference.

    Raises:
        Unpairable: a setting contains a seed twice.
    """
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        point = {name: setting.point.get(name) for name in SAME_TARGET}
        groups.setdefault(json.dumps(point, default=str), []).append(setting)
    unsorted = []
    for members in groups.values():
        ranked = rank_settings(members, choice, direction)
        if len(ranked) < 2:
            continue
        common = {name: ranked[0].point[name] for name in SAME_TARGET if name in ranked[0].point}
        unsorted.append(TargetRanking(common, tuple(ranked), between(ranked[0], ranked[1], metric)))
    ordered = sorted(unsorted, key=lambda r: [str(r.point.get(name)) for name in SAME_TARGET[:4]] + [_sparsity(r)])
    corrected = holm_corrected([ranking.difference for ranking in ordered if ranking.difference is not None])
    return [replace(ranking, difference=diff) for ranking, diff in zip(ordered, corrected, strict=True)]


def minimum_detectable_difference(differences: Sequence[Difference]) -> float | None:
    """Return the difference that an uncorrected paired t-test would detect with a power of 80 %; None without pairs.

    The standard deviation is pooled over the differences, the number of pairs is their median:
    ``(t_0.975 + t_0.8) s / sqrt n`` with n - 1 degrees of freedom, the usual approximation to the power of the t-test.
    """
    deviations = [(difference.n - 1, difference.sd) for difference in differences if difference.sd is not None]
    freedom = sum(weight for weight, _ in deviations)
    if not freedom:
        return None
    pooled = math.sqrt(sum(weight * sd**2 for weight, sd in deviations) / freedom)
    pairs = sorted(weight + 1 for weight, _ in deviations)[(len(deviations) - 1) // 2]
    quantiles = [float(stdtrit(pairs - 1, share)) for share in ((1 + LEVEL) / 2, POWER)]
    return sum(quantiles) * pooled / math.sqrt(pairs)


def _sparsity(ranking: TargetRanking) -> str:
    value = ranking.point.get("target.sparsity")
    return "" if value is None else f"{value:.6f}"
