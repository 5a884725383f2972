"""The dense network's schedules against their formulas and against PyTorch's."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import pytest
import torch

from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import (
    Budget,
    OneCycle,
    Schedule,
    ScheduleError,
    cosmix,
    dense_schedule,
    lowest_lr,
    momentum_cycle,
    one_cycle,
    whole_epochs,
)


def torch_one_cycle(peak: float, warmup: float, div: float, steps: int) -> list[tuple[float, float]]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=steps, pct_start=warmup, div_factor=div, final_div_factor=100
    )
    values = []
    for step in range(steps):
        group = optimizer.param_groups[0]
        values.append((float(group["lr"]), float(group["momentum"])))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return values


def test_cosmix_runs_from_a_to_b() -> None:
    assert cosmix(0.001, 0.1, 0) == pytest.approx(0.001, rel=1e-12)
    assert cosmix(0.001, 0.1, 1) == 0.1
    assert cosmix(2.0, 4.0, 0.5) == pytest.approx(3.0, rel=1e-12)


def test_step_drops_at_half_and_three_quarters() -> None:
    schedule = dense_schedule(Baseline(), 782)
    assert (schedule.epochs, schedule.steps, schedule.reset_weights) == (160, 160 * 782, False)
    by_epoch = [schedule.lr_at(epoch * 782) for epoch in range(160)]
    assert by_epoch == pytest.approx([0.1] * 80 + [0.01] * 40 + [0.001] * 40, rel=1e-12)
    assert schedule.lr_at(80 * 782 - 1) == 0.1
    assert schedule.lr_at(80 * 782) == pytest.approx(0.01)
    assert {schedule.momentum_at(step) for step in (0, 999, schedule.steps - 1)} == {0.9}


def test_step_stretches_with_the_epochs() -> None:
    schedule = dense_schedule(Baseline(), 3, epochs=200)
    drops = [e for e in range(1, 200) if schedule.lr_at(3 * e) != schedule.lr_at(3 * e - 1)]
    assert drops == [100, 150]


def test_a_training_of_one_epoch_runs_at_the_full_rate() -> None:
    schedule = dense_schedule(Baseline(epochs=1), 4)
    assert [schedule.lr_at(step) for step in range(4)] == [0.1] * 4


def test_whole_epochs_is_not_off_by_one_in_binary() -> None:
    assert int(0.57 * 100) == 56
    assert whole_epochs(0.57, 100) == 57
    assert whole_epochs(0.675, 72) == 48


def test_cosine_equals_torch() -> None:
    schedule = dense_schedule(Baseline(epochs=6, lr=0.05, schedule="cosine"), 5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for step in range(30):
        assert schedule.lr_at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert schedule.lr_at(29) > 0
    assert schedule.momentum_at(29) == 0.9


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 5), (2, 7), (8, 25), (40, 17)])
def test_clr_equals_torch(epochs: int, steps_per_epoch: int) -> None:
    schedule = dense_schedule(Baseline(epochs=epochs, schedule="clr"), steps_per_epoch)
    for step, (rate, momentum) in enumerate(torch_one_cycle(0.1, 0.1, 100, schedule.steps)):
        assert schedule.lr_at(step) == pytest.approx(rate, rel=1e-12)
        assert schedule.momentum_at(step) == pytest.approx(momentum, rel=1e-12)


@pytest.mark.parametrize("steps", range(1, 31))
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.1, 0.15, 1.0])
def test_one_cycle_equals_torch_wherever_torch_is_defined(warmup: float, steps: int) -> None:
    curve = one_cycle(0.1 / 25, 0.1, 0.1 / 25 / 100, warmup, steps)
    momentum = momentum_cycle(warmup, steps)
    try:
        expected = torch_one_cycle(0.1, warmup, 25, steps)
    except ZeroDivisionError:
        assert warmup * steps == pytest.approx(1)
        assert (curve(0), momentum(0)) == (0.1, 0.85)
        expected = []
    for step, (rate, inertia) in enumerate(expected):
        assert curve(step) == pytest.approx(rate, rel=1e-12)
        assert momentum(step) == pytest.approx(inertia, rel=1e-12)
    assert all(math.isfinite(curve(step)) for step in range(steps))


def test_lowest_rate_is_the_last_of_the_equivalent_step_schedule() -> None:
    step = Baseline()
    assert lowest_lr(step) == dense_schedule(step, 10).lr_at(1599)
    assert lowest_lr(Baseline(milestones=[0.3, 0.6, 0.8], gamma=0.2)) == pytest.approx(0.0008, rel=1e-12)
    assert lowest_lr(Baseline(schedule="clr")) == lowest_lr(step)
    # Milestones belong to the step schedule and do not change the rates of another.
    assert lowest_lr(Baseline(schedule="cosine", milestones=[])) == lowest_lr(step)


@pytest.mark.parametrize("schedule_name", ["step", "cosine", "clr"])
def test_no_epochs_is_an_empty_schedule_that_pickles(schedule_name: str) -> None:
    schedule = dense_schedule(Baseline.model_validate({"epochs": 0, "schedule": schedule_name}), 10)
    assert schedule.steps == 0
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: Budget(-1, 10), "-1"),
        (lambda: Budget(1, 0), "0"),
        (lambda: Budget(1, 10, 0.0), "0.0"),
        (lambda: Budget(1, 10, math.nan), "nan"),
        (lambda: Schedule(-2, 1, float, float), "-2"),
    ],
)
def test_impossible_extents_are_refused_with_the_value(make: object, value: str) -> None:
    assert callable(make)
    with pytest.raises(ScheduleError, match=f"found {value}"):
        make()


def test_one_cycle_is_a_value() -> None:
    assert one_cycle(0.001, 0.1, 1e-5, 0.1, 100) == OneCycle(0.001, 0.1, 1e-5, 9.0, 99)


def test_schedules_need_no_torch() -> None:
    code = (
        "import sys; from orchestrator.retrain import SCHEDULES; import orchestrator.retrain.build\n"
        "[SCHEDULES.load(name) for name in SCHEDULES.table]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
