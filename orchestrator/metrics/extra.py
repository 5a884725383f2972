"""Metrics of the user's own: named in a search space, computed once after retraining, recorded beside the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from orchestrator.data.batching import ImageData
from orchestrator.metrics.table import EXTRA_METRICS, extra_metric


@dataclass(frozen=True)
class Networks:
    """The networks and the data of one trial, as a metric sees them."""

    dense: nn.Module
    pruned: nn.Module
    """Cut and retrained. Both are in evaluation mode."""
    example: Tensor
    """One empty image, batch dimension included, on the device of the networks."""
    data: ImageData


class ExtraMetric:
    """Base of a metric of the user's own: a subclass states its row of the table and computes the value."""

    column: ClassVar[str] = ""
    """Of ``trials.parquet`` and MLflow; empty: the entry point's name, or what stands after the colon."""
    unit: ClassVar[str] = ""
    """``share`` (0 to 1, shown in percent), ``ms``, ``x`` (a ratio); empty for a plain number."""
    higher_is_better: ClassVar[bool] = True
    split: ClassVar[Literal["test", "val"] | None] = None
    """Images it is measured on. A metric of the test split must say so: it decides nothing."""
    label: ClassVar[str] = ""
    """As figures call it; empty: the column's name."""

    def compute(self, networks: Networks) -> float:
        """Return the value for one trial."""
        raise NotImplementedError


def compute(extra: Sequence[str], networks: Networks) -> tuple[dict[str, float], list[str]]:
    """Compute the metrics that a search space names.

    Returns:
        Finite values by column, and a note for each metric that has none: a trained network is not lost with it.
    """
    networks.dense.eval()
    networks.pruned.eval()
    values: dict[str, float] = {}
    notes: list[str] = []
    for name in extra:
        column = name
        try:
            column = extra_metric(name).name
            value = float(EXTRA_METRICS.load(name)().compute(networks))
        except Exception as error:
            notes.append(f"metric {column} failed: {type(error).__name__}: {error}")
            continue
        if math.isfinite(value):
            values[column] = value
        else:
            notes.append(f"metric {column} is {value}")
    return values, notes
