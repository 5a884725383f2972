"""Importances on toy sweeps whose answer is known, conditional parameters among them."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from orchestrator.analysis.sensitivity.factors import NothingToAnalyse, conditional_arms, factors_of, seed_noise
from orchestrator.analysis.sensitivity.forest import interactions
from orchestrator.analysis.sensitivity.importances import importances

AXES = ["target.sparsity", "retrain", "seed", "method.penalty"]


def toy(noise: float = 0.0) -> list[dict]:
    """Arm `plain` falls by sparsity alone; arm `learned` has a penalty of its own, which there decides most."""
    rng = np.random.default_rng(0)
    rows = []
    for sparsity, retrain, seed in itertools.product((0.3, 0.5, 0.7, 0.9), ("clr", "ft"), (0, 1)):
        shared = {"target_sparsity": sparsity, "retrain": retrain, "seed": seed, "status": "done"}
        drop = 0.2 * sparsity
        rows.append({"arm": "plain", "accuracy": 0.9 - drop + noise * rng.normal(), **shared})
        for penalty in (1, 2, 3):
            value = 0.9 - drop + 0.2 * (2 - penalty) + noise * rng.normal()
            rows.append({"arm": "learned", "method.penalty": penalty, "accuracy": value, **shared})
    rows.append({"arm": "plain", "accuracy": None, "status": "failed", "retrain": "clr", "seed": 5})
    return rows


@pytest.fixture(scope="module")
def estimates():
    return importances(toy(0.02), "accuracy", AXES, resamples=4)


def test_every_parameter_by_every_method_in_its_arm_and_over_all(estimates) -> None:
    methods = ("ped_anova", "fanova", "permutation")
    over_all = {(i.parameter, i.method) for i in estimates if i.arm is None}
    names = ("arm", "target.sparsity", "retrain", "method.penalty")
    assert over_all == {(n, m) for n in names for m in methods} | {("seed", "seed_noise")}
    within = {(i.parameter, i.method) for i in estimates if i.arm == "learned"}
    assert within == {(n, m) for n in names[1:] for m in methods} | {("seed", "seed_noise")}
    # `plain` has nothing that `learned` lacks.
    assert {i.arm for i in estimates} == {None, "learned"}
    assert all(i.low <= i.value <= i.high for i in estimates)
    assert {i.n for i in estimates if i.arm is None} == {64}
    assert {i.n for i in estimates if i.arm == "learned"} == {48}


@pytest.mark.parametrize("method", ["ped_anova", "fanova", "permutation"])
def test_the_ranks_are_the_known_ones(estimates, method: str) -> None:
    within = {i.parameter: i.value for i in estimates if i.arm == "learned" and i.method == method}
    assert within["method.penalty"] > within["target.sparsity"] > within["retrain"]
    over_all = {i.parameter: i.value for i in estimates if i.arm is None and i.method == method}
    assert max(over_all, key=over_all.__getitem__) == "method.penalty"
    assert over_all["retrain"] < 0.05


def test_shares_are_near_the_analytic_ones(estimates) -> None:
    penalty, sparsity = 0.04 * np.var([1, 2, 3]), 0.04 * np.var([0.3, 0.5, 0.7, 0.9])
    share = penalty / (penalty + sparsity + 0.02**2)
    for i in estimates:
        if i.arm == "learned" and i.parameter == "method.penalty" and i.method in ("fanova", "permutation"):
            assert i.value == pytest.approx(share, abs=0.12)


def test_the_noise_between_seeds_is_the_floor() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"arm": "a", "method.x": x, "seed": seed, "status": "done", "accuracy": x + rng.normal()}
        for x in rng.normal(0, 3**0.5, size=400)
        for seed in range(3)
    ]
    assert seed_noise(factors_of(rows, "accuracy", ["method.x", "seed"])) == pytest.approx(0.25, abs=0.04)
    once = [row for row in rows if row["seed"] == 0]
    assert seed_noise(factors_of(once, "accuracy", ["method.x"])) is None


def test_codes_keep_settings_together_and_absence_apart() -> None:
    data = factors_of(toy(), "accuracy", AXES)
    assert data.names == ["arm", "target.sparsity", "retrain", "method.penalty"]
    assert data.count_settings() == 32
    penalty = data.codes[:, 3]
    assert np.isnan(penalty).sum() == 16
    assert set(data.filled()[np.isnan(penalty), 3]) == {1.0}
    sample = data.resampled(np.random.default_rng(0))
    assert all(len(sample.values[sample.setting_ids == n]) % 2 == 0 for n in np.unique(sample.setting_ids))
    assert conditional_arms(toy(), AXES) == ["learned"]
    with pytest.raises(NothingToAnalyse, match="no finished trial has 'speed' in arm 'plain'"):
        factors_of(toy(), "speed", AXES, arm="plain")
    with pytest.raises(NothingToAnalyse, match="none of seed varies in arm 'plain'"):
        factors_of(toy(), "accuracy", ["seed"], arm="plain")


def test_too_few_settings_tell_nothing_and_say_so() -> None:
    rows = [row for row in toy() if row["arm"] == "plain" and row.get("target_sparsity") in (0.3, 0.9)]
    estimates = importances(rows, "accuracy", AXES, resamples=2)
    assert {i.value for i in estimates if i.method != "seed_noise"} == {None}


def test_a_constant_metric_has_no_importances() -> None:
    rows = [{**row, "accuracy": 0.5} for row in toy() if row["status"] == "done"]
    estimates = importances(rows, "accuracy", AXES, resamples=2)
    assert {i.value for i in estimates if i.method != "seed_noise"} == {0.0}


def test_a_constant_parameter_has_no_interaction() -> None:
    with pytest.raises(NothingToAnalyse, match=r"'method.penalty' does not vary"):
        interactions(toy(), "accuracy", AXES, ("target.sparsity", "method.penalty"), arm="plain")


def test_an_interaction_is_what_neither_does_alone() -> None:
    grid = list(itertools.product((-1, 0, 1), (-1, 0, 1), ("x", "y"), (0, 1)))

    def rows(value):
        return [
            {
                "arm": "a",
                "method.a": a,
                "method.b": b,
                "method.c": c,
                "seed": s,
                "status": "done",
                "accuracy": value(a, b),
            }
            for a, b, c, s in grid
        ]

    axes = ["method.a", "method.b", "method.c", "seed"]
    together = interactions(rows(lambda a, b: a * b), "accuracy", axes, ("method.a", "method.b"), resamples=3)
    assert together.value > 0.5
    assert (together.first_levels, len(together.surface)) == ((-1, 0, 1), 3)
    additive = interactions(rows(lambda a, b: a + b), "accuracy", axes, resamples=3)
    assert {additive.first, additive.second} == {"method.a", "method.b"}
    assert additive.value < 0.1


def test_analysis_leaves_torch_alone() -> None:
    modules = (
        "aggregate",
        "pareto",
        "sensitivity.designs",
        "sensitivity.forest",
        "sensitivity.importances",
        "compare",
        "papers",
    )
    code = "import sys; " + "; ".join(f"import orchestrator.analysis.{name}" for name in modules)
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)
