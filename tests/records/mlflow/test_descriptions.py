"""Runs say what they are: names that tell trials apart, descriptions that hold what matters and no secret."""

from __future__ import annotations

import re

from orchestrator.records.mlflow.descriptions import (
    experiment_description,
    run_description,
    run_name,
    sweep_description,
)
from orchestrator.records.mlflow.payload import run_metrics
from orchestrator.records.sweep_summary import summary_of
from orchestrator.spec import Retrain, Target


def changed(result, **spec):
    return result.model_copy(update={"spec": result.spec.model_copy(update=spec)})


def test_a_name_says_method_what_is_removed_retraining_and_seed(make_result):
    result = make_result(1, arm="l1_norm")
    assert run_name(result) == "l1_norm macs 50 % fine_tune seed 1"
    clr = changed(result, retrain=Retrain(name="clr"), target=Target(quantity="weights", sparsity=0.975))
    assert run_name(clr) == "l1_norm weights 97.5 % clr seed 1"
    assert run_name(changed(result, target=Target(kept=[3, 4]))) == "l1_norm macs as listed fine_tune seed 1"


def test_what_else_varies_stands_in_the_name(make_result):
    point = {"method": {"name": "l1_norm", "penalty": 0.25}, "model": {"name": "resnet20"}, "seed": 1, "flag": True}
    name = run_name(make_result(1, arm="mine", point=point))
    assert name == "mine: l1_norm macs 50 % fine_tune penalty=0.25 model=resnet20 flag=true seed 1"
    long = run_name(make_result(1, point={f"a{i}": "x" * 100 for i in range(20)}))
    assert len(long) <= 120
    assert long.endswith("... seed 1")


def test_a_run_says_what_came_of_it(make_result):
    note = run_description(make_result(0, note="one filter short", reused=["baseline"]), "mine", "#/parent")
    assert "[mine](#/parent)" in note
    assert "| test accuracy | 90.00 % | 40.00 % | 87.50 % |" in note
    assert "| MACs | 2,000 | 1,000 | 1,000 |" in note
    assert "one filter short" in note
    failed = run_description(
        make_result(0, status="failed", metrics={}, error="a`b\n# c s3://k:hunter2@b/x"), "mine", "#"
    )
    assert "`a'b # c s3://***@b/x`" in failed
    assert "|" not in failed


def test_a_sweep_links_its_front_and_fits(make_result):
    rows = [
        make_result(seed).row() | {"macs": seed, "val_accuracy": seed / 1000, "trial_id": f"trial{seed}"}
        for seed in range(300)
    ]
    summary = summary_of(rows, {"accuracy": "max"})
    note = sweep_description("Which? " * 200, summary, lambda trial_id: f"#/{trial_id}" * 3, "#/artifacts")
    assert len(note) < 5000
    assert "300 trials on the front of val_accuracy high, macs low (12 of them)" in note
    assert "[trial0](#/trial0" in note
    assert "[trial299](#/trial299" in note
    assert sweep_description("Which?", None, lambda trial_id: None, "#").startswith("**Which?**")
    assert "viewStateShareKey" in experiment_description("Which?", "mine", "#/x?viewStateShareKey=y")


def test_every_quantity_that_a_note_explains_is_a_metric(make_result):
    """Names change; what explains them must not stay behind."""
    known = {name for name, *_ in run_metrics(make_result(0))} | {"latency_ms", "note", "error", "target.sparsity"}
    for name in re.findall(r"`([a-z_]+)`", experiment_description("", "", "")):
        assert name in known, name


def test_curves_of_several_retrainings_go_on(make_result):
    result = make_result(0, epochs=3)
    twice = result.model_copy(update={"epochs": [*result.epochs, *result.epochs]})
    steps = [step for name, _, _, step in run_metrics(twice) if name == "retrain/val_accuracy"]
    assert steps == [0, 1, 2, 3, 4, 5]
