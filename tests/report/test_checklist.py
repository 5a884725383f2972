"""The checklist finds what is missing, and what it says to add is accepted and passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_reports import report_data

from orchestrator.report.checklist import Check, checks
from orchestrator.report.conclusions import conclude
from orchestrator.report.controls import with_controls
from orchestrator.spec import SearchSpace
from orchestrator.spec.yaml_text import as_yaml
from orchestrator.sweep.planning import plan

MakeSweep = Callable[..., Path]

BARE = """
name: bare
base:
  model: lenet5
  data: {name: digits, size: 16}
  target: {quantity: macs}
axes:
  target.sparsity: [0.5, 0.75]
  seed: [0]
arms:
  - method: taylor
  - method: obd
    target: {quantity: weights}
"""


def by_name(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in checks(report_data(folder))}


def test_what_a_bare_sweep_lacks(make_sweep: MakeSweep) -> None:
    by_check = by_name(make_sweep(BARE, latency=False))
    missing = {name for name, check in by_check.items() if not check.passed}
    assert missing == {
        "dense control",
        "random control",
        "magnitude control",
        "at least 3 seeds",
        "at least 5 operating points",
        "measured latency",
    }
    assert "50 % of weights" in by_check["magnitude control"].detail
    for name in missing:
        assert isinstance(yaml.safe_load(by_check[name].suggestion), dict) or by_check[name].suggestion.startswith(
            "#"
        ), name
    added = yaml.safe_load(by_check["magnitude control"].suggestion)["arms"]
    assert [(arm["method"], arm["target"]["quantity"]) for arm in added] == [
        ("l1_norm", "macs"),
        ("magnitude", "weights"),
    ]


def test_every_suggestion_can_be_planned(make_sweep: MakeSweep) -> None:
    raw = yaml.safe_load(BARE)
    before = len(plan(SearchSpace.parse(raw)).trials)
    for check in by_name(make_sweep(BARE)).values():
        add = yaml.safe_load(check.suggestion) if check.suggestion else None
        if isinstance(add, dict):
            more = {**raw, "arms": raw["arms"] + add.get("arms", []), "axes": {**raw["axes"], **add.get("axes", {})}}
            assert len(plan(SearchSpace.parse(more)).trials) > before, check.name


def test_with_its_controls_a_sweep_passes(make_sweep: MakeSweep) -> None:
    full = with_controls(SearchSpace.parse(yaml.safe_load(BARE)))
    text = as_yaml(full)
    assert as_yaml(with_controls(SearchSpace.parse(yaml.safe_load(text)))) == text, "nothing is added twice"
    by_check = by_name(make_sweep(text))
    assert {name for name, check in by_check.items() if not check.passed} == {"at least 5 operating points"}


def test_a_base_without_arms_stays_an_arm() -> None:
    raw = yaml.safe_load(BARE)
    raw["arms"] = []
    raw["base"]["method"] = "taylor"
    arms = {trial.arm for trial in plan(with_controls(SearchSpace.parse(raw))).trials}
    assert arms == {"base", "dense_control", "random", "l1_norm"}


def test_a_dense_control_is_compared_with_and_never_best(make_sweep: MakeSweep) -> None:
    def numbers(trial: Any) -> dict[str, Any]:
        accuracy = 0.95 if trial.spec.target.sparsity == 0 else 0.9 + 0.001 * trial.spec.seed
        return {"accuracy": accuracy, "val_accuracy": accuracy}

    text = as_yaml(with_controls(SearchSpace.parse(yaml.safe_load(BARE))))
    data = report_data(make_sweep(text, numbers))
    conclusions = conclude(data, [])
    assert conclusions.best is not None
    assert conclusions.best.point["target.sparsity"] > 0
    assert any(
        finding.startswith("The dense control, retrained in the same way, has 95.00")
        for finding in conclusions.findings
    )


@pytest.mark.parametrize("off", [0.01, 0.03])
def test_achieved_beside_requested(make_sweep: MakeSweep, off: float) -> None:
    def numbers(trial: Any) -> dict[str, Any]:
        return {"accuracy": 0.9, "val_accuracy": 0.9, "achieved": trial.spec.target.sparsity - off}

    check = by_name(make_sweep(numbers=numbers))["achieved sparsity as requested"]
    assert check.passed == (off < 0.02)
    assert f"{100 * off:.1f} points off" in check.detail
