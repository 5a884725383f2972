"""The four schedules of paper 001 and the two from scratch, at the values the paper's formulas give."""

from __future__ import annotations

import pytest
import torch

from orchestrator.retrain.clr import clr
from orchestrator.retrain.fine_tune import fine_tune
from orchestrator.retrain.lr_rewind import lr_rewind
from orchestrator.retrain.scaled_restart import scaled_restart
from orchestrator.retrain.scratch_b import scratch_b
from orchestrator.retrain.scratch_e import scratch_e
from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import Budget, Schedule, cosmix, dense_schedule

PAPER = Baseline()
"""160 epochs: 0.1, x0.1 at 80 and 120."""
STEPS = 782
"""Of an epoch: 50,000 images in batches of 64."""


def by_epoch(schedule: Schedule) -> list[float]:
    """The rate at the beginning of every epoch."""
    return [schedule.lr_at(epoch * schedule.steps_per_epoch) for epoch in range(schedule.epochs)]


def rates(schedule: Schedule) -> list[float]:
    return [schedule.lr_at(step) for step in range(schedule.steps)]


def drops(schedule: Schedule) -> list[int]:
    """The epochs that begin at a tenth of the rate before."""
    rates = by_epoch(schedule)
    return [t for t in range(1, len(rates)) if rates[t] == pytest.approx(rates[t - 1] / 10)]


@pytest.mark.parametrize("kind", ["step", "cosine", "clr"])
def test_fine_tuning_stays_at_the_last_dense_rate(kind: str) -> None:
    baseline = Baseline.model_validate({"schedule": kind})
    schedule = fine_tune(baseline, Budget(40, 5))
    assert rates(schedule) == pytest.approx([0.001] * 200, rel=1e-12)
    assert {schedule.momentum_at(step) for step in range(200)} == {0.9}
    assert set(rates(fine_tune(baseline, Budget(2, 5), lr=0.0008))) == {0.0008}


def test_clr_has_the_papers_values() -> None:
    schedule = clr(PAPER, Budget(40, STEPS))
    expected = {
        0: 0.001000,
        1: 0.015507,
        2: 0.050525,
        4: 0.100000,
        8: 0.096983,
        20: 0.058681,
        30: 0.017865,
    }
    rates = by_epoch(schedule)
    assert {epoch: round(rates[epoch], 6) for epoch in expected} == expected
    assert schedule.lr_at(schedule.steps - 1) == pytest.approx(1e-5, rel=1e-9)
    assert schedule.momentum_at(0) == pytest.approx(0.95)
    assert schedule.momentum_at(3127) == pytest.approx(0.85)
    assert schedule.momentum_at(schedule.steps - 1) == pytest.approx(0.95)


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 5), (3, 7), (40, 20), (8, STEPS)])
def test_clr_equals_torch_at_every_step(epochs: int, steps_per_epoch: int) -> None:
    schedule = clr(PAPER, Budget(epochs, steps_per_epoch))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, pct_start=0.1, div_factor=100, final_div_factor=100, total_steps=schedule.steps
    )
    for step in range(schedule.steps):
        group = optimizer.param_groups[0]
        assert schedule.lr_at(step) == pytest.approx(group["lr"], rel=1e-12, abs=0)
        assert schedule.momentum_at(step) == pytest.approx(group["momentum"], rel=1e-12, abs=0)
        optimizer.step()
        if step < schedule.steps - 1:
            scheduler.step()


def test_clr_parameters_move_what_they_name() -> None:
    budget = Budget(10, 10)
    soft_filter = clr(PAPER, budget, div=125.0)
    assert soft_filter.lr_at(0) == pytest.approx(0.0008, rel=1e-12)
    assert soft_filter.lr_at(99) == pytest.approx(0.000008, rel=1e-12)
    assert clr(PAPER, budget, final_div=10.0).lr_at(99) == pytest.approx(1e-4, rel=1e-12)
    assert clr(PAPER, budget, warmup=0.15).lr_at(14) == pytest.approx(0.1, rel=1e-12)
    plain = clr(PAPER, budget, cycle_momentum=False)
    assert {plain.momentum_at(step) for step in range(100)} == {0.9}
    unwarmed = rates(clr(PAPER, budget, warmup=0.0))
    assert unwarmed == sorted(unwarmed, reverse=True)


def test_clr_warms_up_from_the_lowest_dense_rate() -> None:
    assert clr(Baseline(gamma=0.2), Budget(10, 10)).lr_at(0) == pytest.approx(0.004, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (40, [0.001] * 40),
        (56, [0.01] * 16 + [0.001] * 40),
        (72, [0.01] * 32 + [0.001] * 40),
        (80, [0.01] * 40 + [0.001] * 40),
        (88, [0.1] * 8 + [0.01] * 40 + [0.001] * 40),
        (152, [0.1] * 72 + [0.01] * 40 + [0.001] * 40),
        (200, [0.1] * 120 + [0.01] * 40 + [0.001] * 40),
    ],
)
def test_rewinding_repeats_the_end_of_dense_training(epochs: int, expected: list[float]) -> None:
    assert by_epoch(lr_rewind(PAPER, Budget(epochs, 3))) == pytest.approx(expected, rel=1e-12)


def test_rewinding_within_the_last_rate_is_fine_tuning() -> None:
    budget = Budget(40, 3)
    assert rates(lr_rewind(PAPER, budget)) == rates(fine_tune(PAPER, budget))
    assert rates(lr_rewind(PAPER, Budget(41, 3))) != rates(fine_tune(PAPER, Budget(41, 3)))


@pytest.mark.parametrize("kind", ["cosine", "clr"])
def test_rewinding_follows_any_dense_schedule(kind: str) -> None:
    baseline = Baseline.model_validate({"epochs": 10, "schedule": kind})
    dense = dense_schedule(baseline, 7)
    rewound = lr_rewind(baseline, Budget(4, 7))
    assert rates(rewound) == rates(dense)[-28:]
    assert [rewound.momentum_at(k) for k in range(28)] == [dense.momentum_at(42 + k) for k in range(28)]
    longer = rates(lr_rewind(baseline, Budget(12, 7)))
    assert longer == [dense.lr_at(0)] * 14 + rates(dense)


def test_rewinding_without_dense_training_is_fine_tuning() -> None:
    baseline, budget = Baseline(epochs=0), Budget(3, 5)
    assert rates(lr_rewind(baseline, budget)) == rates(fine_tune(baseline, budget))


@pytest.mark.parametrize(
    ("epochs", "warm", "dropped"),
    [(40, 4, [22, 31]), (72, 7, [39, 55]), (104, 10, [56, 80]), (152, 15, [83, 117])],
)
def test_scaled_restart_warms_up_then_drops_at_the_papers_epochs(epochs: int, warm: int, dropped: list[int]) -> None:
    schedule = scaled_restart(PAPER, Budget(epochs, 3))
    rates = by_epoch(schedule)
    assert rates[: warm + 1] == pytest.approx([cosmix(0.001, 0.1, t / warm) for t in range(warm + 1)], rel=1e-12)
    assert drops(schedule) == dropped
    assert set(rates[warm : dropped[0]]) == {0.1}
    assert rates[-1] == pytest.approx(0.001)
    assert schedule.momentum_at(0) == 0.9
    # The rate moves by epoch only.
    assert schedule.lr_at(3) == schedule.lr_at(5)


@pytest.mark.parametrize("epochs", [1, 2, 5, 9])
def test_scaled_restart_of_less_than_ten_epochs_has_no_warm_up(epochs: int) -> None:
    rates = by_epoch(scaled_restart(PAPER, Budget(epochs, 3)))
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)


def test_scaled_restart_shares_out_what_the_warm_up_leaves() -> None:
    assert drops(scaled_restart(PAPER, Budget(40, 2), warmup=0.0)) == [20, 30]
    assert drops(scaled_restart(PAPER, Budget(40, 2), warmup=0.15)) == [6 + 17, 6 + 25]


def test_scaled_restart_compresses_the_baselines_own_milestones() -> None:
    imagenet = Baseline(epochs=90, milestones=[0.33, 0.66])
    assert drops(scaled_restart(imagenet, Budget(45, 2))) == [4 + 13, 4 + 26]
    assert drops(scaled_restart(Baseline(schedule="clr", milestones=[]), Budget(40, 2))) == [22, 31]


def test_scratch_e_adds_the_budget_to_the_dense_epochs() -> None:
    schedule = scratch_e(PAPER, Budget(40, 3))
    assert (schedule.epochs, schedule.reset_weights) == (200, True)
    assert drops(schedule) == [100, 150]
    assert scratch_e(PAPER, Budget(0, 3)).epochs == 160


@pytest.mark.parametrize(("ratio", "epochs"), [(1.0, 160), (1.1155, 178), (2.0, 320), (0.5, 80)])
def test_scratch_b_spends_the_dense_networks_computation(ratio: float, epochs: int) -> None:
    schedule = scratch_b(PAPER, Budget(40, 3, ratio))
    assert (schedule.epochs, schedule.reset_weights) == (epochs, True)
    assert drops(schedule) == [epochs // 2, epochs * 3 // 4]


@pytest.mark.parametrize("make", [fine_tune, clr, lr_rewind, scaled_restart])
def test_no_epochs_is_an_empty_schedule(make: type) -> None:
    assert make(PAPER, Budget(0, STEPS)).steps == 0
