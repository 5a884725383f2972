"""Which trials a stopper ends, on curves small enough to judge by hand."""

from typing import Any

import pytest

from orchestrator.spec.errors import SpecError
from orchestrator.spec.result import EpochRow, TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.yaml_text import as_yaml
from orchestrator.sweep.planning import plan
from orchestrator.sweep.space.resolve import resolve
from orchestrator.sweep.stopping.asha import n_survivors
from orchestrator.sweep.stopping.moasha import n_on_better_fronts
from orchestrator.sweep.stopping.policy import StoppingPolicy, epochs_at, without_defaults
from orchestrator.sweep.stopping.rule import Progress

BASE = {"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}}
SPEC = resolve(BASE)


def space(stopper: Any, **parts: Any) -> SearchSpace:
    return SearchSpace.parse({"name": "s", "base": BASE, "stopper": stopper, **parts})


def record(trial_id: str, curve: list[float], status: Any = "done", stopped_at: float | None = None) -> TrialResult:
    rows = [
        EpochRow(stage="retrain", epoch=i, lr=0.1, train_loss=1, train_accuracy=0.5, val_accuracy=value, seconds=1)
        for i, value in enumerate(curve)
    ]
    return TrialResult(
        trial_id=trial_id, spec=SPEC, status=status, epochs=rows, stopped_at=stopped_at, metrics={"macs": 100.0}
    )


def verdicts(policy: StoppingPolicy, rung: int, values: list[float], macs: list[float] | None = None) -> list[bool]:
    """For trials that arrive one after another: which go on."""
    sizes = macs or [100.0] * len(values)
    return [
        policy.decide(Progress(f"t{i}", rung, [0.0, value], {"macs": size})) is None
        for i, (value, size) in enumerate(zip(values, sizes, strict=True))
    ]


def test_rungs_are_equal_shares_of_any_schedule() -> None:
    rungs = StoppingPolicy(space("asha")).rungs
    assert rungs == (0.25, 0.5, 0.75)
    assert [epochs_at(rung, 40) for rung in rungs] == [10, 20, 30]
    assert [epochs_at(rung, 6) for rung in rungs] == [2, 3, 5]


def test_asha_keeps_the_top_share_at_each_rung() -> None:
    policy = StoppingPolicy(space({"name": "asha", "rungs": 1, "keep": 0.5}))
    # places: 1 of 1, 1 of 2, 1 of 3, 2 of 4, 2 of 5
    assert verdicts(policy, 0, [0.5, 0.4, 0.6, 0.55, 0.3]) == [True, False, True, True, False]
    assert [n_survivors(0.34, n) for n in (1, 2, 3, 5, 6)] == [1, 1, 1, 1, 2]


def test_a_trial_that_tells_a_rung_again_is_not_its_own_rival() -> None:
    policy = StoppingPolicy(space({"name": "asha", "rungs": 1, "keep": 0.5}))
    assert verdicts(policy, 0, [0.5]) == [True]
    assert policy.decide(Progress("t0", 0, [0.5], {})) is None


def test_moasha_keeps_by_fronts_and_never_ends_the_first() -> None:
    costs = [(0.1, 9.0), (0.2, 5.0), (0.3, 1.0)]
    assert n_on_better_fronts((0.15, 6.0), costs) == 0  # beside them
    assert n_on_better_fronts((0.25, 6.0), costs) == 3  # (0.2, 5) is better: the second front
    assert n_on_better_fronts((0.4, 9.5), [*costs, (0.25, 6.0)]) == 4  # the third
    objectives = {"accuracy": "max", "macs": "min"}
    policy = StoppingPolicy(space({"name": "moasha", "rungs": 1, "keep": 0.34}, objectives=objectives))
    values, macs = [0.9, 0.8, 0.7, 0.75, 0.6], [90.0, 50.0, 10.0, 60.0, 95.0]
    assert verdicts(policy, 0, values, macs) == [True, True, True, False, False]


def test_moasha_keeps_a_cost_that_is_no_number_on_the_first_front() -> None:
    unmeasured = (float("nan"), 9.0)
    assert n_on_better_fronts(unmeasured, [(0.1, 1.0), (0.2, 2.0)]) == 0
    assert n_on_better_fronts((0.2, 2.0), [(0.1, 1.0), unmeasured]) == 2
    assert n_on_better_fronts((float("inf"), 2.0), [(0.1, 1.0), (0.2, 2.0)]) == 2


def test_median_waits_for_others_and_compares_with_their_means() -> None:
    policy = StoppingPolicy(space({"name": "median", "rungs": 1, "trials": 3}))
    policy.replay([record(f"r{i}", [mean, mean, mean, mean]) for i, mean in enumerate((0.2, 0.4))])
    assert policy.decide(Progress("early", 0, [0.1, 0.1], {})) is None  # two others
    policy.replay([record("r2", [0.3, 0.5, 0.6, 0.7])])  # mean 0.4 up to the rung
    assert policy.decide(Progress("low", 0, [0.1, 0.25], {})) is not None
    assert policy.decide(Progress("high", 0, [0.5, 0.1], {})) is None


def test_constraint_ends_what_the_cut_decided() -> None:
    policy = StoppingPolicy(space("constraint", constraints={"mac_sparsity": ">= 0.5", "accuracy": ">= 0.9"}))
    assert policy.rungs == (0.0,)
    assert policy.decide(Progress("a", 0, [], {"mac_sparsity": 0.5})) is None
    reason = policy.decide(Progress("b", 0, [], {"mac_sparsity": 0.4}))
    assert reason is not None
    assert "mac_sparsity is 0.4" in reason


def test_records_tell_again_what_trials_had_told() -> None:
    """Done and stopped ones; the rungs that a stopped one reached, at the places of its own schedule."""
    policy = StoppingPolicy(space({"name": "asha", "rungs": 3, "keep": 0.5}))
    policy.replay(
        [
            record("done", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
            record("stopped", [0.1, 0.5], "stopped", 0.25),
            record("failed", [0.9], "failed"),
        ]
    )
    assert [sorted(reports) for reports in policy.reports] == [["done", "stopped"], ["done"], ["done"]]
    assert [reports["done"].curve[-1] for reports in policy.reports] == [0.2, 0.4, 0.6]
    assert policy.decide(Progress("new", 0, [0.3, 0.4], {})) is not None  # 0.5 is ahead; one of three goes on


@pytest.mark.parametrize(
    ("stopper", "parts", "said"),
    [
        ({"name": "asha", "keeep": 0.5}, {}, ["stopper.keeep", "'keep'"]),
        ({"name": "asha", "rungs": 0}, {}, ["stopper.rungs", "0"]),
        ("ahsa", {}, ["stopper.name", "ahsa", "'asha'"]),
        (["asha"], {}, ["stopper", "name"]),
        ("asha", {"objectives": {"accuracy": "max", "macs": "min"}}, ["stopper.name", "moasha"]),
        ("asha", {"objectives": {"macs": "min"}}, ["stopper.name", "macs"]),
        ("moasha", {}, ["stopper.name", "'asha'"]),
        ("moasha", {"objectives": {"accuracy": "max", "latency_ms": "min"}}, ["objectives.latency_ms", "moasha"]),
        ("constraint", {}, ["stopper.name", "constraint"]),
        ("constraint", {"constraints": {"latency_ms": "<= 3"}}, ["stopper.name", "latency_ms"]),
    ],
)
def test_what_cannot_compare_is_refused(stopper: Any, parts: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        plan(space(stopper, **parts))
    assert all(part in str(error.value) for part in said), error.value


def test_the_written_search_space_has_its_stopper() -> None:
    this = without_defaults(space({"name": "asha", "keep": 0.5, "rungs": 3}))
    assert "stopper:\n  name: asha\n  keep: 0.5\n" in as_yaml(this)
