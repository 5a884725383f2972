"""The checklist of a fair pruning comparison (after Blalock et al., 2020, sections 5 and 6), read off the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from orchestrator.analysis.aggregate import Setting
from orchestrator.report import formatting as wording
from orchestrator.report.conclusions import OFF_TARGET
from orchestrator.report.data import FEWEST_SEEDS, ReportData

FEWEST_POINTS = 5
RANDOM = ("random",)
_MAGNITUDE = {"weights": ("magnitude", "lwc"), "channels": ("l1_norm",)}


@dataclass(frozen=True)
class Check:
    """One line of the checklist."""

    name: str
    passed: bool
    found: str
    add: str = ""
    """What to change in the search space, as YAML; empty where nothing is missing."""

    @property
    def verdict(self) -> Literal["pass", "missing"]:
        return "pass" if self.passed else "missing"


def checks(evidence: ReportData) -> list[Check]:
    """Every line of the checklist, those that are missing with what to add."""
    return [
        _dense_control(evidence),
        _control(evidence, "random control", lambda quantity: RANDOM),
        _control(evidence, "magnitude control", magnitude),
        _seeds(evidence),
        _operating_points(evidence),
        _both_costs(evidence),
        _latency(evidence),
        _validation(evidence),
        _achieved(evidence),
    ]


def magnitude(quantity: str) -> tuple[str, ...]:
    """The methods that remove what is small, the first the one to add."""
    return _MAGNITUDE["weights" if quantity == "weights" else "channels"]


def missing_targets(evidence: ReportData, control: Callable[[str], tuple[str, ...]]) -> dict[str, list[float]]:
    """The shares that some method removed and the control did not, by quantity."""
    asked: dict[tuple[str, float], set[str]] = {}
    for setting in evidence.settings:
        share = setting.point.get("target.sparsity")
        if share is not None:
            key = (str(setting.point["target.quantity"]), float(share))
            asked.setdefault(key, set()).update(str(row["method"]) for row in _all_rows(evidence, setting))
    found: dict[str, list[float]] = {}
    for (quantity, share), present in sorted(asked.items()):
        if share > 0 and not present & set(control(quantity)):
            found.setdefault(quantity, []).append(share)
    return found


def _dense_control(evidence: ReportData) -> Check:
    name = "dense control"
    retrained = [s for s in evidence.settings if s.rows and s.point.get("target.sparsity") == 0]
    measured = [row["dense_accuracy"] for row in evidence.done if row.get("dense_accuracy") is not None]
    networks = {(s.point.get("model"), s.point.get("data"), s.point.get("retrain")) for s in evidence.settings}
    covered = {(s.point.get("model"), s.point.get("data"), s.point.get("retrain")) for s in retrained}
    if networks <= covered:
        return Check(name, True, "The dense network went through the same retraining (a target of 0 %).")
    arm = _arm("dense_control", "random", _quantity(evidence), [0.0])
    text = "The dense network was measured after its own training" if measured else "No dense network was measured"
    return Check(name, False, f"{text}; it was not given the epochs of retraining that the pruned ones had.", arm)


def _control(evidence: ReportData, name: str, control: Callable[[str], tuple[str, ...]]) -> Check:
    lacking = missing_targets(evidence, control)
    quantities = {str(s.point.get("target.quantity")) for s in evidence.settings if "target.sparsity" in s.point}
    if not quantities:
        return Check(name, False, "No share was asked for: the methods found their own, and no control has the same.")
    if not lacking:
        allowed = {method for quantity in quantities for method in control(quantity)}
        used = sorted({str(row["method"]) for row in evidence.rows} & allowed)
        return Check(name, True, f"{' and '.join(used)} removed the same shares as every other method.")
    told = "; ".join(
        ", ".join(wording.target({"target.quantity": q, "target.sparsity": s}) for s in shares)
        for q, shares in lacking.items()
    )
    arms = "".join(_arm(None, control(q)[0], q, shares) for q, shares in lacking.items())
    return Check(name, False, f"No {name} at {told}.", _one_list(arms))


def _seeds(evidence: ReportData) -> Check:
    name = f"at least {FEWEST_SEEDS} seeds"
    counts = [len(setting.rows) for setting in evidence.settings]
    few = sum(count < FEWEST_SEEDS for count in counts)
    if not few:
        return Check(name, True, f"Every setting has {min(counts)} or more finished seeds.")
    found = f"{few} of {len(counts)} settings have fewer (the fewest: {min(counts)})."
    return Check(name, False, found, _axes("seed", list(range(FEWEST_SEEDS))))


def _operating_points(evidence: ReportData) -> Check:
    name = f"at least {FEWEST_POINTS} operating points"
    points: dict[str, set[float]] = {}
    for setting in evidence.settings:
        ratio = setting.metric("compression_ratio")
        if ratio is not None:
            points.setdefault(setting.arm, set()).add(round(ratio.mean, 2))
    few = {arm: len(found) for arm, found in points.items() if len(found) < FEWEST_POINTS}
    if points and not few:
        return Check(name, True, f"Every arm has {min(map(len, points.values()))} or more compression ratios.")
    told = ", ".join(f"{arm} {count}" for arm, count in list(few.items())[:8])
    shares = [0.3, 0.5, 0.7, 0.8, 0.9]
    return Check(name, False, f"{len(few)} arms have fewer: {told}.", _axes("target.sparsity", shares))


def _both_costs(evidence: ReportData) -> Check:
    name = "compression ratio and theoretical speed-up"
    without = sum(any(row.get(m) is None for m in ("compression_ratio", "mac_sparsity")) for row in evidence.done)
    if evidence.done and not without:
        return Check(name, True, "Both are recorded for every finished trial (parameters and MACs, dense / kept).")
    return Check(name, False, f"{without} finished trials lack one of them.", "")


def _latency(evidence: ReportData) -> Check:
    name = "measured latency"
    measured = [row for row in evidence.done if row.get("latency_ms") is not None]
    if measured and len(measured) == len(evidence.done):
        machines = sorted({f"{r.get('latency_device') or r.get('device') or 'an unnamed device'}" for r in measured})
        sizes = sorted({int(row["latency_batch_size"]) for row in measured if row.get("latency_batch_size")})
        text = f"Alone on the device after warm-up, median and spread, beside the dense network; {', '.join(machines)}"
        return Check(name, True, f"{text}; batch {', '.join(map(str, sizes)) or 'size not recorded'}.")
    found = f"{len(evidence.done) - len(measured)} of {len(evidence.done)} finished trials have no measured latency."
    again = f"# run the sweep again: it measures what is missing\n# prunesweep run {evidence.name}.yaml"
    return Check(name, False, found, again)


def _validation(evidence: ReportData) -> Check:
    name = "validation images for choices"
    without = sum(row.get("val_accuracy") is None for row in evidence.done)
    if evidence.done and not without:
        return Check(name, True, "Settings are ranked by validation accuracy; the test images were used once a state.")
    return Check(name, False, f"{without} finished trials have no validation accuracy.", "")


def _achieved(evidence: ReportData) -> Check:
    name = "achieved sparsity as requested"
    pairs = [
        (abs(row["achieved_sparsity"] - row["target_sparsity"]), row)
        for row in evidence.done
        if row.get("achieved_sparsity") is not None and row.get("target_sparsity") is not None
    ]
    if not pairs:
        return Check(name, False, "No trial has both a requested and an achieved share.", "")
    worst, row = max(pairs, key=lambda pair: pair[0])
    off = sum(distance > OFF_TARGET for distance, _ in pairs)
    told = f"the furthest is {100 * worst:.1f} points off ({row['method']}, {100 * row['target_sparsity']:.1f} % asked)"
    if not off:
        return Check(name, True, f"All within {100 * OFF_TARGET:.0f} points; {told}.")
    return Check(name, False, f"{off} trials are more than {100 * OFF_TARGET:.0f} points off; {told}.", "")


def _all_rows(evidence: ReportData, setting: Setting) -> Sequence[Any]:
    return setting.rows or [row for row in evidence.rows if str(row.get("arm") or row.get("method")) == setting.arm]


def _quantity(evidence: ReportData) -> str:
    quantities = [str(s.point["target.quantity"]) for s in evidence.settings if s.point.get("target.quantity")]
    return max(quantities, key=quantities.count) if quantities else "macs"


def _arm(name: str | None, method: str, quantity: str, shares: list[float]) -> str:
    arm = {"name": name} if name else {}
    given = {**arm, "method": method, "target": {"quantity": quantity}, "axes": {"target.sparsity": shares}}
    return str(yaml.dump({"arms": [given]}, sort_keys=False, default_flow_style=None, width=100))


def _axes(name: str, values: list[Any]) -> str:
    return str(yaml.dump({"axes": {name: values}}, sort_keys=False, default_flow_style=None, width=100))


def _one_list(text: str) -> str:
    """Several arms under one key."""
    return text if text.count("arms:") < 2 else "arms:\n" + text.replace("arms:\n", "")
