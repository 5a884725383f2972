"""Check a sweep against the checklist of a fair pruning comparison (after Blalock et al., 2020, sections 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from orchestrator.analysis.aggregate import Setting
from orchestrator.report import formatting
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
    detail: str
    suggestion: str = ""
    """The change of the search space that would pass the check, as YAML; empty if there is none to make."""

    @property
    def verdict(self) -> Literal["pass", "missing"]:
        return "pass" if self.passed else "missing"


def checks(data: ReportData) -> list[Check]:
    """Return every line of the checklist."""
    return [
        _dense_control(data),
        _control(data, "random control", lambda quantity: RANDOM),
        _control(data, "magnitude control", magnitude),
        _seeds(data),
        _operating_points(data),
        _both_costs(data),
        _latency(data),
        _validation(data),
        _achieved(data),
    ]


def magnitude(quantity: str) -> tuple[str, ...]:
    """Return the magnitude methods for a quantity; the first is the one to suggest."""
    return _MAGNITUDE["weights" if quantity == "weights" else "channels"]


def missing_targets(data: ReportData, control: Callable[[str], tuple[str, ...]]) -> dict[str, list[float]]:
    """Return the target sparsities, by quantity, at which the sweep has some method but no control."""
    methods_at: dict[tuple[str, float], set[str]] = {}
    for setting in data.settings:
        share = setting.point.get("target.sparsity")
        if share is not None:
            key = (str(setting.point["target.quantity"]), float(share))
            methods_at.setdefault(key, set()).update(str(row["method"]) for row in _all_rows(data, setting))
    missing: dict[str, list[float]] = {}
    for (quantity, share), methods in sorted(methods_at.items()):
        if share > 0 and not methods & set(control(quantity)):
            missing.setdefault(quantity, []).append(share)
    return missing


def _dense_control(data: ReportData) -> Check:
    name = "dense control"
    retrained = [s for s in data.settings if s.rows and s.point.get("target.sparsity") == 0]
    measured = [row["dense_accuracy"] for row in data.done if row.get("dense_accuracy") is not None]
    networks = {(s.point.get("model"), s.point.get("data"), s.point.get("retrain")) for s in data.settings}
    covered = {(s.point.get("model"), s.point.get("data"), s.point.get("retrain")) for s in retrained}
    if networks <= covered:
        return Check(name, True, "The dense network was retrained like the pruned ones (a target of 0 %).")
    arm = _arm("dense_control", "random", _quantity(data), [0.0])
    text = "The dense network was measured after its own training" if measured else "No dense network was measured"
    return Check(name, False, f"{text}; it did not get the retraining epochs of the pruned ones.", arm)


def _control(data: ReportData, name: str, control: Callable[[str], tuple[str, ...]]) -> Check:
    missing = missing_targets(data, control)
    quantities = {str(s.point.get("target.quantity")) for s in data.settings if "target.sparsity" in s.point}
    if not quantities:
        return Check(name, False, "The sweep has no target sparsity: methods chose their own, which no control has.")
    if not missing:
        allowed = {method for quantity in quantities for method in control(quantity)}
        used = sorted({str(row["method"]) for row in data.rows} & allowed)
        return Check(name, True, f"{' and '.join(used)} removed the same shares as every other method.")
    targets = "; ".join(
        ", ".join(formatting.target({"target.quantity": q, "target.sparsity": s}) for s in shares)
        for q, shares in missing.items()
    )
    arms = "".join(_arm(None, control(q)[0], q, shares) for q, shares in missing.items())
    return Check(name, False, f"No {name} at {targets}.", _merge_arms(arms))


def _seeds(data: ReportData) -> Check:
    name = f"at least {FEWEST_SEEDS} seeds"
    counts = [len(setting.rows) for setting in data.settings]
    few = sum(count < FEWEST_SEEDS for count in counts)
    if not few:
        return Check(name, True, f"Every setting has {min(counts)} or more finished seeds.")
    detail = f"{few} of {len(counts)} settings have fewer (the fewest: {min(counts)})."
    return Check(name, False, detail, _axes("seed", list(range(FEWEST_SEEDS))))


def _operating_points(data: ReportData) -> Check:
    name = f"at least {FEWEST_POINTS} operating points"
    ratios: dict[str, set[float]] = {}
    for setting in data.settings:
        ratio = setting.metric("compression_ratio")
        if ratio is not None:
            ratios.setdefault(setting.arm, set()).add(round(ratio.mean, 2))
    few = {arm: len(distinct) for arm, distinct in ratios.items() if len(distinct) < FEWEST_POINTS}
    if ratios and not few:
        return Check(name, True, f"Every arm has {min(map(len, ratios.values()))} or more compression ratios.")
    counts = ", ".join(f"{arm} {count}" for arm, count in list(few.items())[:8])
    shares = [0.3, 0.5, 0.7, 0.8, 0.9]
    return Check(name, False, f"{len(few)} arms have fewer: {counts}.", _axes("target.sparsity", shares))


def _both_costs(data: ReportData) -> Check:
    name = "compression ratio and theoretical speed-up"
    without = sum(any(row.get(m) is None for m in ("compression_ratio", "mac_sparsity")) for row in data.done)
    if data.done and not without:
        return Check(name, True, "Both are recorded for every finished trial (parameters and MACs, dense / kept).")
    return Check(name, False, f"{without} finished trials lack one of them.")


def _latency(data: ReportData) -> Check:
    name = "measured latency"
    measured = [row for row in data.done if row.get("latency_ms") is not None]
    if measured and len(measured) == len(data.done):
        machines = sorted({f"{r.get('latency_device') or r.get('device') or 'an unnamed device'}" for r in measured})
        sizes = sorted({int(row["latency_batch_size"]) for row in measured if row.get("latency_batch_size")})
        text = f"Median and spread, alone on the device after warm-up, with the dense network; {', '.join(machines)}"
        return Check(name, True, f"{text}; batch {', '.join(map(str, sizes)) or 'size not recorded'}.")
    detail = f"{len(data.done) - len(measured)} of {len(data.done)} finished trials have no measured latency."
    command = f"# run the sweep again: it measures what is missing\n# prunesweep run {data.name}.yaml"
    return Check(name, False, detail, command)


def _validation(data: ReportData) -> Check:
    name = "validation images for choices"
    without = sum(row.get("val_accuracy") is None for row in data.done)
    if data.done and not without:
        return Check(name, True, "Settings are ranked by validation accuracy; test images were used once per state.")
    return Check(name, False, f"{without} finished trials have no validation accuracy.")


def _achieved(data: ReportData) -> Check:
    name = "achieved sparsity as requested"
    pairs = [
        (abs(row["achieved_sparsity"] - row["target_sparsity"]), row)
        for row in data.done
        if row.get("achieved_sparsity") is not None and row.get("target_sparsity") is not None
    ]
    if not pairs:
        return Check(name, False, "No trial has both a requested and an achieved sparsity.")
    worst, row = max(pairs, key=lambda pair: pair[0])
    off = sum(distance > OFF_TARGET for distance, _ in pairs)
    target = f"{100 * row['target_sparsity']:.1f} %"
    text = f"the worst is {100 * worst:.1f} points off ({row['method']}, target {target})"
    if not off:
        return Check(name, True, f"All within {100 * OFF_TARGET:.0f} points; {text}.")
    return Check(name, False, f"{off} trials are more than {100 * OFF_TARGET:.0f} points off; {text}.")


def _all_rows(data: ReportData, setting: Setting) -> Sequence[Any]:
    return setting.rows or [row for row in data.rows if str(row.get("arm") or row.get("method")) == setting.arm]


def _quantity(data: ReportData) -> str:
    quantities = [str(s.point["target.quantity"]) for s in data.settings if s.point.get("target.quantity")]
    return max(quantities, key=quantities.count) if quantities else "macs"


def _arm(name: str | None, method: str, quantity: str, shares: list[float]) -> str:
    arm: dict[str, Any] = {"name": name} if name else {}
    arm |= {"method": method, "target": {"quantity": quantity}, "axes": {"target.sparsity": shares}}
    return str(yaml.dump({"arms": [arm]}, sort_keys=False, default_flow_style=None, width=100))


def _axes(name: str, values: list[Any]) -> str:
    return str(yaml.dump({"axes": {name: values}}, sort_keys=False, default_flow_style=None, width=100))


def _merge_arms(text: str) -> str:
    """Merge several YAML documents with one arm each into one list."""
    return text if text.count("arms:") < 2 else "arms:\n" + text.replace("arms:\n", "")
