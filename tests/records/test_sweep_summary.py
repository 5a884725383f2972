"""The summary of a sweep: the best trial, the front, the dense networks' mean accuracy."""

from __future__ import annotations

import math
import random

import pytest

from orchestrator.metrics.pareto import front
from orchestrator.records.sweep_summary import spread, summary_of


def row(trial_id, status="done", **changes):
    values = {"trial_id": trial_id, "status": status, "model": "lenet5", "data": "digits", "seed": 0}
    return values | {"val_accuracy": 0.9, "accuracy": 0.8, "macs": 100, "dense_accuracy": 0.95} | changes


def test_the_best_is_chosen_by_validation_and_its_test_accuracy_is_told():
    rows = [row("a", val_accuracy=0.9, accuracy=0.7), row("b", val_accuracy=0.8, accuracy=0.99)]
    summary = summary_of(rows, {"accuracy": "max"})
    assert summary.best is rows[0]
    assert summary.metrics()["best_val_accuracy"] == 0.9
    assert summary.metrics()["best_accuracy"] == 0.7


def test_counts_and_dense_networks():
    """Seed 0 is one dense network of two trials, seed 1 another: each counts once."""
    rows = [
        row("a", dense_accuracy=0.9),
        row("b", "stopped", dense_accuracy=0.9),
        row("c", seed=1, dense_accuracy=0.8),
        row("d", "failed", dense_accuracy=None, val_accuracy=None, macs=None),
        row("e", "diverged", dense_accuracy=math.nan, val_accuracy=math.nan),
    ]
    metrics = summary_of(rows, {"accuracy": "max"}).metrics()
    assert metrics["dense_accuracy_mean"] == pytest.approx(0.85)
    assert [metrics[f"trials_{s}"] for s in ("done", "stopped", "failed", "diverged")] == [2, 1, 1, 1]


def test_the_front_is_of_one_network_and_of_finished_trials():
    rows = [
        row("small", macs=10, val_accuracy=0.5),
        row("worse", macs=20, val_accuracy=0.5),
        row("large", macs=30, val_accuracy=0.9),
        row("stopped", "stopped", macs=1, val_accuracy=1.0),
        row("other", model="vgg16", macs=99, val_accuracy=0.1),
        row("unmeasured", macs=None, val_accuracy=1.0),
    ]
    summary = summary_of(rows, {"accuracy": "max"})
    assert [trial["trial_id"] for trial in summary.front] == ["small", "large", "other"]
    assert summary.objectives == {"val_accuracy": "max", "macs": "min"}
    by_size = summary_of(rows, {"macs": "min"}).objectives
    assert by_size == {"macs": "min", "val_accuracy": "max"}


def test_the_front_is_that_of_the_definition():
    numbers = random.Random(0)
    for objectives in (1, 2, 3):
        points = [[numbers.randrange(6) for _ in range(objectives)] for _ in range(60)]
        points[7][0] = math.nan
        expected = {
            i
            for i, point in enumerate(points)
            if i != 7 and not any(
                j != 7 and other != point and all(a <= b for a, b in zip(other, point, strict=True))
                for j, other in enumerate(points)
            )
        }  # fmt: skip
        assert set(front(points)) == expected


def test_a_long_front_is_spread_evenly_with_its_ends():
    rows = [row(str(i)) for i in range(101)]
    assert [trial["trial_id"] for trial in spread(rows, 5)] == ["0", "25", "50", "75", "100"]
    assert spread(rows[:3], 5) == rows[:3]


def test_nothing_yet():
    summary = summary_of([], {"accuracy": "max"})
    assert (summary.best, list(summary.front), summary.dense_accuracy) == (None, [], None)
    assert summary.metrics()["front_size"] == 0
