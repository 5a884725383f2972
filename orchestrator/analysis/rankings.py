"""Settings that removed the same share of the same network, ranked, and the best held against the runner-up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.special import stdtrit

from orchestrator.analysis.aggregate import LEVEL, Difference, Setting, between, holm_corrected

POWER = 0.8
"""How likely a difference of the size `smallest_difference` gives is to be found."""
SAME_TARGET = ("model", "data", "target.quantity", "target.layers", "target.sparsity")


@dataclass(frozen=True)
class Contest:
    """The settings with one target on one network, best first."""

    point: Mapping[str, Any]
    """What they have in common: those of `SAME_TARGET` that they have."""
    ranked: tuple[Setting, ...]
    difference: Difference | None = None
    """Best minus runner-up, Holm-corrected over all contests; None where there is no runner-up."""


def ranked(found: Sequence[Setting], choice: str, direction: Literal["max", "min"]) -> list[Setting]:
    """The settings with a finished trial that has the metric ``choice``, best mean first."""
    sign = -1.0 if direction == "max" else 1.0
    means = [(mean.mean, setting) for setting in found if (mean := setting.metric(choice)) is not None]
    known = [(sign * value, i, setting) for i, (value, setting) in enumerate(means) if math.isfinite(value)]
    return [setting for _, _, setting in sorted(known, key=lambda item: item[:2])]


def contests(
    found: Sequence[Setting], metric: str, choice: str, direction: Literal["max", "min"] = "max"
) -> list[Contest]:
    """One for each target that two or more settings share, in the order of the targets' sparsity.

    Ranked by ``choice`` (the validation accuracy), compared by ``metric`` (the test accuracy): so the winner's luck in
    the ranking is no part of the difference.

    Raises:
        Unpairable: a setting holds a seed twice.
    """
    groups: dict[str, list[Setting]] = {}
    for setting in found:
        point = {name: setting.point.get(name) for name in SAME_TARGET}
        groups.setdefault(json.dumps(point, default=str), []).append(setting)
    unsorted = []
    for members in groups.values():
        order = ranked(members, choice, direction)
        if len(order) < 2:
            continue
        common = {name: order[0].point[name] for name in SAME_TARGET if name in order[0].point}
        unsorted.append(Contest(common, tuple(order), between(order[0], order[1], metric)))
    unsorted.sort(key=lambda one: [str(one.point.get(name)) for name in SAME_TARGET[:4]] + [_sparsity(one)])
    corrected = holm_corrected([one.difference for one in unsorted if one.difference is not None])
    return [replace(one, difference=difference) for one, difference in zip(unsorted, corrected, strict=True)]


def smallest_difference(differences: Sequence[Difference]) -> float | None:
    """The difference that a paired t-test of such pairs, uncorrected, would find four times in five.

    The spread is that of all the differences pooled, the number of pairs their median: ``(t_0.975 + t_0.8) s / sqrt n``
    with n - 1 degrees of freedom, the usual approximation to the power of the t-test. None where nothing is paired.
    """
    spreads = [(one.n - 1, one.sd) for one in differences if one.sd is not None]
    freedom = sum(weight for weight, _ in spreads)
    if not freedom:
        return None
    pooled = math.sqrt(sum(weight * sd**2 for weight, sd in spreads) / freedom)
    pairs = sorted(weight + 1 for weight, _ in spreads)[(len(spreads) - 1) // 2]
    quantiles = [float(stdtrit(pairs - 1, share)) for share in ((1 + LEVEL) / 2, POWER)]
    return sum(quantiles) * pooled / math.sqrt(pairs)


def _sparsity(contest: Contest) -> str:
    value = contest.point.get("target.sparsity")
    return "" if value is None else f"{value:.6f}"
