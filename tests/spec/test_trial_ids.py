"""Ids are promises: the same specification has the same id for ever, and a new option orphans nothing."""

from orchestrator.spec.trial import Baseline, Choice, Retrain, Target, TrialSpec
from orchestrator.sweep.space.resolve import resolve

PLAIN = {"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}, "retrain": "clr"}


def test_pinned_ids() -> None:
    # A change of these numbers orphans every recorded trial: raise KEY_VERSION on purpose, or find the accident.
    assert resolve(PLAIN).trial_id == "b0fd50e993e1"
    spec = resolve({**PLAIN, "seed": 3, "baseline": {"epochs": 5, "lr": 0.05}, "retrain": {"name": "clr", "epochs": 2}})
    assert spec.trial_id == "749694bb4465"
    assert spec.baseline_key == "7871c5a828b8"


def test_defaults_written_out_change_nothing() -> None:
    explicit = {
        "model": {"name": "lenet5"},
        "data": {"name": "digits", "size": 8},
        "method": {"name": "l1_norm"},
        "target": {"quantity": "macs", "sparsity": 0.5},
        "baseline": {"epochs": 160, "momentum": 0.9, "schedule": "step"},
        "retrain": {"name": "clr", "epochs": 40, "warmup": 0.1},
        "seed": 0,
    }
    assert resolve(explicit).trial_id == resolve(PLAIN).trial_id


def test_everything_told_is_part_of_the_id() -> None:
    variants = [
        PLAIN,
        {**PLAIN, "seed": 1},
        {**PLAIN, "model": "lenet_300_100"},
        {**PLAIN, "data": {"name": "digits", "size": 16}},
        {**PLAIN, "method": "taylor"},
        {**PLAIN, "method": {"name": "network_slimming", "penalty_weight": 1e-3}},
        {**PLAIN, "target": {"sparsity": 0.6}},
        {**PLAIN, "target": {"sparsity": 0.5, "scope": "global"}},
        {**PLAIN, "retrain": "fine_tune"},
        {**PLAIN, "retrain": {"name": "clr", "warmup": 0.05}},
        {**PLAIN, "retrain": {"name": "clr", "weight_decay": 0.0}},
        {**PLAIN, "baseline": {"lr": 0.05}},
    ]
    assert len({resolve(variant).trial_id for variant in variants}) == len(variants)


def test_where_data_lies_is_no_part_of_the_id() -> None:
    def spec(path: str) -> TrialSpec:
        data = Choice(name="parquet", params={"path": path, "fingerprint": "0123456789abcdef"})
        return TrialSpec(
            model=Choice(name="lenet5"), data=data, baseline=Baseline(), method=Choice(name="random"),
            target=Target(sparsity=0.5), retrain=Retrain(name="clr"),
        )  # fmt: skip

    assert spec("/a").trial_id == spec("/b/c").trial_id


def test_a_baseline_is_shared_by_all_that_start_from_it() -> None:
    plain = resolve(PLAIN)
    assert resolve({**PLAIN, "method": "taylor", "target": {"sparsity": 0.9}}).baseline_key == plain.baseline_key
    assert resolve({**PLAIN, "retrain": "fine_tune"}).baseline_key == plain.baseline_key
    assert resolve({**PLAIN, "seed": 1}).baseline_key != plain.baseline_key
    assert resolve({**PLAIN, "baseline": {"lr": 0.05}}).baseline_key != plain.baseline_key
