"""Format the values, settings and parameters of a report as text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.analysis.aggregate import Mean, Setting
from orchestrator.spec.metric import METRICS, Metric

MetricLike = str | Metric
"""A metric's row, or the name of a metric of every trial; other names are formatted by their ending."""

QUANTITIES = {"macs": "MACs", "params": "parameters", "weights": "weights", "channels": "filters"}
NETWORK = ("model", "data")


def is_share(metric: MetricLike) -> bool:
    """Return whether the metric is a share of 0 to 1, shown as a percentage."""
    row = metric if isinstance(metric, Metric) else METRICS.get(metric)
    return row.unit == "share" if row is not None else str(metric).endswith(("accuracy", "_sparsity"))


def label(metric: MetricLike) -> str:
    """Return the name of a metric in texts and figures."""
    row = metric if isinstance(metric, Metric) else METRICS.get(metric)
    return row.label if row is not None else str(metric).replace("_", " ")


def shown(value: float, metric: MetricLike) -> str:
    """Format a value of a metric, e.g. ``99.10 %``, ``0.232``, ``1.45``."""
    if not math.isfinite(value):
        return "no number"
    return f"{100 * value:.2f} %" if is_share(metric) else number(value)


def number(value: float) -> str:
    """Format a number with four significant digits, or a whole number with thousands separators."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def signed(value: float, form: str) -> str:
    """Format a number with its sign, using the typographic minus."""
    return f"{value:+{form}}".replace("-", "−")


def difference(value: float, metric: MetricLike) -> str:
    """Format a signed difference, that of shares in percentage points, e.g. ``+0.06 points``."""
    return f"{signed(100 * value, '.2f')} points" if is_share(metric) else signed(value, ".4g")


def mean_sd(mean: Mean | None, metric: MetricLike) -> str:
    """Format mean and standard deviation, e.g. ``99.10 ± 0.02`` (shares in percent); empty for None."""
    if mean is None:
        return ""
    if is_share(metric):
        return f"{100 * mean.mean:.2f}" if mean.sd is None else f"{100 * mean.mean:.2f} ± {100 * mean.sd:.2f}"
    if not mean.sd or not math.isfinite(mean.mean):
        return number(mean.mean) if mean.sd is None else f"{number(mean.mean)} ± 0"
    digits = max(0, 1 - math.floor(math.log10(mean.sd)))
    return f"{mean.mean:,.{digits}f} ± {mean.sd:,.{digits}f}"


def p_value(p: float | None) -> str:
    """Format a p-value, e.g. ``p = 0.03``, ``p < 0.001``."""
    if p is None:
        return "no test"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.01 else f"p = {p:.2f}"


def interval(low: float | None, high: float | None, metric: MetricLike) -> str:
    """Format a confidence interval, e.g. ``95 % interval 98.90 to 99.40 %``; empty if an end is None."""
    if low is None or high is None:
        return ""
    if is_share(metric):
        # Student's interval of two seeds may extend beyond 0 or 1.
        return f"95 % interval {100 * max(low, 0.0):.2f} to {100 * min(high, 1.0):.2f} %"
    return f"95 % interval {low:.4g} to {high:.4g}"


def target(point: Mapping[str, Any]) -> str:
    """Format the target of a point, e.g. ``90 % of MACs``; empty if it has no target sparsity."""
    share, quantity = point.get("target.sparsity"), point.get("target.quantity")
    if share is None:
        return ""
    return f"{100 * share:.4g} % of {QUANTITIES.get(str(quantity), 'MACs')}"


def plain(value: Any) -> str:
    """Format a parameter's value."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return number(value) if isinstance(value, int | float) else str(value)


def unbroken(text: str) -> str:
    """Replace spaces by non-breaking ones inside numbers with units, e.g. ``5 %``, ``n = 3``, ``1 ± 2``."""
    return re.sub(r"(?<=\d) (?=%)|(?<=\b[npd]) (?=[=<])|(?<=[=<±]) (?=[\d−])|(?<=\d) (?=±)", "\u00a0", text)


def titles(metric: MetricLike) -> str:
    """Return the title of an axis or a column for a metric, with its unit."""
    return f"{label(metric)}, %" if is_share(metric) else label(metric)


class Names:
    """Names for the settings of one sweep, made of the parameters in which they differ.

    Args:
        settings: all settings of the sweep.
        axes: the parameters that may differ, in the order to name them.
    """

    def __init__(self, settings: Sequence[Setting], axes: Sequence[str]) -> None:
        values = {
            name: {json.dumps(setting.point.get(name), default=str) for setting in settings}
            for name in dict.fromkeys([*NETWORK, *axes])
        }
        self.differing = [n for n, distinct in values.items() if len(distinct) > 1 and not n.startswith("target.")]
        self._targets = [name for name in axes if name.startswith("target.") and name not in _IN_TARGET]

    def of(self, setting: Setting) -> str:
        """Return the full name, e.g. ``l1_norm, 90 % of MACs, retrain clr``."""
        return ", ".join(part for part in (setting.arm, target(setting.point), self.rest(setting)) if part)

    def rest(self, setting: Setting) -> str:
        """Return the name without arm and target; empty if nothing else differs."""
        names = [n for n in (*self.differing, *self._targets) if n in setting.point]
        # The method is left out if the arm is named after it.
        return ", ".join(
            f"{_short(name)} {plain(setting.point[name])}" for name in names if setting.point[name] != setting.arm
        )


_IN_TARGET = frozenset({"target.sparsity", "target.quantity"})
"""Parameters that the text of the target contains."""


def _short(name: str) -> str:
    """Return a parameter's name without the prefix ``method.``."""
    head, _, tail = name.rpartition(".")
    return tail if head == "method" else name
