"""The table of metrics that every trial has: all that views, searches, stoppers and reports need to know of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One measured quantity of a trial."""

    name: str
    """Column of ``trials.parquet``, MLflow metric, and what objectives and constraints call it."""
    dtype: Literal["int", "float"]
    unit: str
    """``share`` (0 to 1, shown in percent), ``ms``, ``x`` (a ratio); empty for a plain number."""
    higher_is_better: bool
    split: Literal["test", "val"] | None
    """Images it is measured on; None: it depends on none. Metrics of the test split decide nothing."""
    known_after: Literal["baseline", "cut", "retrain", "latency"]
    """The step of a trial after which it is known; ``latency`` is measured after the trial, alone on the device."""
    label: str
    """As figures and tables call it."""
    doc: str

    @property
    def decides(self) -> bool:
        """Whether searches may use it: a metric of the test split decides nothing, unless validation stands in."""
        return self.split != "test" or self.name in _STAND_INS


_STAND_INS = frozenset({"accuracy", "accuracy_drop"})
"""Metrics of the test split that are computed on the validation split while decisions are made."""
# fmt: off
_ROWS = (
    #      name, dtype, unit, higher_is_better, split, known_after, label, doc
    Metric("dense_accuracy", "float", "share", True, "test", "baseline", "test accuracy of the dense network",
           "top-1 test accuracy of the dense network"),
    Metric("pruned_accuracy", "float", "share", True, "test", "cut", "test accuracy before retraining",
           "the same right after pruning, before any retraining"),
    Metric("accuracy", "float", "share", True, "test", "retrain", "test accuracy", "the same after retraining"),
    Metric("accuracy_drop", "float", "share", False, "test", "retrain", "loss of test accuracy",
           "dense_accuracy - accuracy"),
    Metric("val_accuracy", "float", "share", True, "val", "retrain", "validation accuracy",
           "top-1 accuracy on the validation split: what searches and stoppers see"),
    Metric("top5_accuracy", "float", "share", True, "test", "retrain", "top-5 test accuracy",
           "top-5 test accuracy after retraining"),
    Metric("dense_params", "int", "", False, None, "cut", "parameters of the dense network",
           "parameters of the dense network"),
    Metric("params", "int", "", False, None, "cut", "parameters",
           "parameters of the pruned network; of single pruned weights, those that are not zero"),
    Metric("param_sparsity", "float", "share", True, None, "cut", "parameters removed", "1 - params / dense_params"),
    Metric("compression_ratio", "float", "x", True, None, "cut", "compression ratio", "dense_params / params"),
    Metric("dense_macs", "int", "", False, None, "cut", "MACs of the dense network",
           "multiply-adds of one forward pass of the dense network, batch 1"),
    Metric("macs", "int", "", False, None, "cut", "MACs",
           "the same of the pruned network; single pruned weights save none"),
    Metric("mac_sparsity", "float", "share", True, None, "cut", "MACs removed", "1 - macs / dense_macs"),
    Metric("filter_sparsity", "float", "share", True, None, "cut", "filters removed",
           "share of the convolution filters that were removed"),
    Metric("weight_sparsity", "float", "share", True, None, "cut", "weights removed",
           "share of the convolution and linear weights that are gone or zero"),
    Metric("latency_ms", "float", "ms", False, None, "latency", "latency in ms",
           "median milliseconds of one image through the pruned network, measured alone"),
    Metric("latency_ms_std", "float", "ms", False, None, "latency", "deviation of the latency in ms",
           "standard deviation of the same over rounds"),
    Metric("dense_latency_ms", "float", "ms", False, None, "latency", "dense latency in ms",
           "median milliseconds of the dense network, interleaved with the pruned one"),
    Metric("dense_latency_ms_std", "float", "ms", False, None, "latency", "deviation of the dense latency in ms",
           "standard deviation of the same over rounds"),
    Metric("latency_speedup", "float", "x", True, None, "latency", "measured speed-up",
           "dense_latency_ms / latency_ms"),
)
# fmt: on
METRICS = {row.name: row for row in _ROWS}
"""Every metric of every trial by name, in the order of the columns."""
TRIAL_METRICS = tuple(row.name for row in _ROWS if row.known_after != "latency")
"""Those in a trial's record."""
LATENCY_METRICS = tuple(row.name for row in _ROWS if row.known_after == "latency")
"""Those that are measured after the trials, alone on the device."""
SIZES = tuple(row.name for row in _ROWS if row.known_after == "cut" and row.split is None)
"""Those known right after the cut, before any retraining."""
VALIDATED = ("accuracy", "val_accuracy")
"""Objectives that mean the accuracy on the validation split while decisions are made."""
