"""The record of a trial, and the rows that views are made of."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.spec.metric import METRICS, TRIAL_METRICS
from orchestrator.spec.trial import TrialSpec, flatten

Status = Literal["done", "stopped", "failed", "diverged"]
FAILED_STATUSES: frozenset[Status] = frozenset({"failed", "diverged"})
"""Statuses of trials that ended without a usable network; `--retry-failed` runs them again."""


class Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EpochRow(Row):
    """One epoch of one stage. Rates are those of the epoch's last step; accuracies are shares."""

    stage: str
    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_accuracy: float
    seconds: float


class LayerRow(Row):
    """One layer before and after pruning."""

    layer: str
    kind: str
    """``conv``, ``depthwise_conv``, ``linear`` or ``norm``."""
    dense_channels: int
    """Output channels."""
    kept_channels: int
    dense_params: int
    params: int
    """Parameters stored, zeros included."""
    dense_macs: int
    macs: int
    """Multiply-adds for one image that the layer really does; zeros cost as much as others."""
    nonzero: int
    """Parameters that are not zero."""


class TrialResult(BaseModel):
    """The record of an ended trial; it is written once and never changed."""

    model_config = ConfigDict(frozen=True)

    trial_id: str
    spec: TrialSpec
    arm: str = ""
    point: dict[str, Any] = Field(default_factory=dict)
    """The values of the axes, under their dotted paths."""
    status: Status
    error: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    achieved: float | None = None
    """The share of the target quantity that was really removed."""
    note: str | None = None
    """A caveat on the numbers, e.g. that the target was met only as near as one filter allows."""
    stopped_at: float | None = None
    """Of a stopped trial, the share of its retraining that was done; the reason is in the note."""
    layers: list[LayerRow] = Field(default_factory=list)
    analysis: dict[str, Any] = Field(default_factory=dict)
    """Statistics of the pruning, as plain JSON: the scores' histogram, the overlap with magnitude, the method's own."""
    epochs: list[EpochRow] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict)
    """By stage. A stage taken from the cache has the seconds it once took, and is listed under `reused`."""
    reused: list[str] = Field(default_factory=list)
    device: str = ""
    host: str = ""
    started: str = ""
    ended: str = ""
    commit: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the trial ended without a usable network."""
        return self.status in FAILED_STATUSES

    def row(self) -> dict[str, Any]:
        """Return the row of ``trials.parquet`` without the sweep's name, the point and the latencies."""
        spec = self.spec
        fixed: dict[str, Any] = {
            "trial_id": self.trial_id,
            "status": self.status,
            "error": self.error,
            "arm": self.arm,
            "seed": spec.seed,
            "model": spec.model.name,
            "data": spec.data.name,
            "method": spec.method.name,
            "retrain": spec.retrain.name,
            "target_quantity": spec.target.quantity,
            "target_sparsity": spec.target.sparsity,
            "achieved_sparsity": self.achieved,
            "note": self.note,
        }
        measured: dict[str, float | None] = {**dict.fromkeys(TRIAL_METRICS), **self.metrics}
        for name in TRIAL_METRICS:
            count = measured[name]
            if METRICS[name].dtype == "int":
                measured[name] = int(count) if count is not None and math.isfinite(count) else None
        return {
            **measured,
            **fixed,
            **{f"seconds_{stage}": seconds for stage, seconds in self.seconds.items()},
            "device": self.device,
            "host": self.host,
            "started": self.started,
            "ended": self.ended,
            "commit": self.commit,
            "versions": " ".join(f"{name}={version}" for name, version in sorted(self.versions.items())),
        }

    def parameters(self) -> dict[str, Any]:
        """Return the specification without defaults, under the dotted paths of the search space."""
        return flatten(self.spec.canonical())
