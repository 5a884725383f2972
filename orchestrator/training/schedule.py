"""Schedules: learning rate and momentum as functions of the global step; the dense network's schedules."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.trial import Baseline

STEP_MILESTONES = (0.5, 0.75)
STEP_GAMMA = 0.1
CYCLE_WARMUP = 0.1
CYCLE_DIV = 100.0
CYCLE_FINAL_DIV = 100.0
HIGHEST_CYCLED_MOMENTUM = 0.95
LOWEST_CYCLED_MOMENTUM = 0.85


class ScheduleError(PrunesweepError, ValueError):
    """A schedule or budget with values out of range; the message repeats the value."""


def cosmix(a: float, b: float, p: float) -> float:
    """Interpolate along half a cosine, from ``a`` at p = 0 to ``b`` at p = 1."""
    return b + (a - b) * (1 + math.cos(math.pi * p)) / 2


def whole_epochs(share: float, epochs: int) -> int:
    """Return ``int(share * epochs)``, corrected for binary rounding (0.57 * 100 is 56.99...)."""
    return int(share * epochs + 1e-9)


def step_recipe(baseline: Baseline) -> tuple[tuple[float, ...], float]:
    """Return milestones (as shares of the epochs) and factor of the step schedule equivalent to a baseline.

    A step baseline has its own. Cosine and CLR baselines have none: x0.1 at 50 % and 75 % is taken, with which paper
    001 retrains both its step-trained and its CLR-trained networks (Table 14).
    """
    if baseline.schedule == "step":
        return tuple(baseline.milestones), baseline.gamma
    return STEP_MILESTONES, STEP_GAMMA


def lowest_lr(baseline: Baseline) -> float:
    """Return the last rate of dense training, with which fine-tuning continues and every warm-up starts.

    For a step baseline ``lr * gamma ** len(milestones)``. Cosine and CLR end near 0, too low for retraining: theirs is
    the last rate of the equivalent step recipe, ``lr * 0.01``; with ``lr: 0.1`` that is the 0.001 with which paper 001
    fine-tunes its CLR-trained network (Table 14).
    """
    milestones, gamma = step_recipe(baseline)
    return _decayed(baseline.lr, gamma, len(milestones))


def dense_schedule(baseline: Baseline, steps_per_epoch: int, epochs: int | None = None) -> Schedule:
    """Return the dense network's schedule, over the baseline's own epochs or stretched over ``epochs``.

    - ``step``: by epoch, the rate times ``gamma`` from epoch ``int(milestone * epochs)`` on, never from epoch 0
      (a training of one epoch runs at the full rate). 160 epochs: 0.1, x0.1 at 80 and 120.
    - ``cosine``: by step, ``cosmix(lr, 0, k / steps)``; as in ``CosineAnnealingLR``, the rate would be 0 one step
      after the last.
    - ``clr``: by step, as PyTorch's ``OneCycleLR`` with 10 % warm-up from ``lr / 100``, ending at ``lr / 10000``;
      the momentum is cycled 0.95, 0.85, 0.95, and the baseline's is not used.

    Source: paper 001 (Network Pruning That Matters), section 1.2 (step) and Table 14 (CLR).
    """
    epochs = baseline.epochs if epochs is None else epochs
    steps = epochs * steps_per_epoch
    lr_at: Curve
    momentum_at: Curve = Constant(baseline.momentum)
    if baseline.schedule == "step":
        milestones = tuple(max(1, whole_epochs(share, epochs)) for share in baseline.milestones)
        lr_at = EpochSteps(baseline.lr, baseline.gamma, milestones, steps_per_epoch)
    elif baseline.schedule == "cosine":
        lr_at = Cosine(baseline.lr, steps)
    else:
        start = baseline.lr / CYCLE_DIV
        lr_at = one_cycle(start, baseline.lr, start / CYCLE_FINAL_DIV, CYCLE_WARMUP, steps)
        momentum_at = momentum_cycle(CYCLE_WARMUP, steps)
    return Schedule(epochs, steps_per_epoch, lr_at, momentum_at)


def one_cycle(start: float, peak: float, end: float, warmup: float, steps: int) -> OneCycle:
    """Return a curve from ``start`` to ``peak`` in the first ``warmup`` share of ``steps``, then to ``end``."""
    return OneCycle(start, peak, end, warmup * steps - 1, steps - 1)


def momentum_cycle(warmup: float, steps: int) -> OneCycle:
    """Return a momentum curve inverse to the rate: 0.95, down to 0.85 at the end of the warm-up, back to 0.95."""
    return one_cycle(HIGHEST_CYCLED_MOMENTUM, LOWEST_CYCLED_MOMENTUM, HIGHEST_CYCLED_MOMENTUM, warmup, steps)


def _decayed(lr: float, gamma: float, drops: int) -> float:
    # One expression for every decayed rate, so that fine-tuning and a rewound schedule agree to the last bit.
    return lr * float(gamma**drops)


@dataclass(frozen=True)
class Budget:
    """The budget of a retraining.

    ``epochs``: of retraining, from 0; ``steps_per_epoch``: minibatches of one epoch; ``macs_ratio``: MACs of the dense
    network over those of the pruned one. Raises :class:`ScheduleError` on values out of range.
    """

    epochs: int
    steps_per_epoch: int
    macs_ratio: float = 1.0

    def __post_init__(self) -> None:
        _check_length(self.epochs, self.steps_per_epoch)
        if not (math.isfinite(self.macs_ratio) and self.macs_ratio > 0):
            raise ScheduleError(f"macs_ratio must be finite and above 0, found {self.macs_ratio}")


@dataclass(frozen=True)
class Schedule:
    """Duration, learning rate and momentum of a training.

    ``lr_at`` and ``momentum_at`` take the global step, 0 to ``steps - 1``, and are pure and picklable.
    ``reset_weights``: training starts from newly initialised weights.
    Raises :class:`ScheduleError` for negative epochs or less than one step an epoch.
    """

    epochs: int
    steps_per_epoch: int
    lr_at: Callable[[int], float]
    momentum_at: Callable[[int], float]
    reset_weights: bool = False

    def __post_init__(self) -> None:
        _check_length(self.epochs, self.steps_per_epoch)

    @property
    def steps(self) -> int:
        """Total number of steps, ``epochs * steps_per_epoch``."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Constant:
    """The same value at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class EpochSteps:
    """A rate multiplied by ``gamma`` at the start of each epoch in ``milestones`` (in increasing order)."""

    lr: float
    gamma: float
    milestones: tuple[int, ...]
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        return _decayed(self.lr, self.gamma, bisect_right(self.milestones, step // self.steps_per_epoch))


@dataclass(frozen=True)
class Cosine:
    """A rate that falls along half a cosine and would be 0 at ``steps``."""

    lr: float
    steps: int

    def __call__(self, step: int) -> float:
        return cosmix(self.lr, 0.0, step / self.steps)


@dataclass(frozen=True)
class OneCycle:
    """A curve from ``start`` to ``peak`` at ``peak_step`` (may be fractional), then to ``end`` at ``last_step``.

    Both parts are half a cosine, as in PyTorch's ``OneCycleLR``. If the warm-up is shorter than a step, the value
    falls from step 0 on; if ``peak_step`` is 0, by which PyTorch divides, step 0 has the peak.
    """

    start: float
    peak: float
    end: float
    peak_step: float
    last_step: int

    def __call__(self, step: int) -> float:
        if step <= self.peak_step:
            return cosmix(self.start, self.peak, step / self.peak_step) if self.peak_step > 0 else self.peak
        return cosmix(self.peak, self.end, (step - self.peak_step) / (self.last_step - self.peak_step))


Curve = Constant | EpochSteps | Cosine | OneCycle


def _check_length(epochs: int, steps_per_epoch: int) -> None:
    if epochs < 0:
        raise ScheduleError(f"epochs must be 0 or more, found {epochs}")
    if steps_per_epoch < 1:
        raise ScheduleError(f"steps_per_epoch must be 1 or more, found {steps_per_epoch}")


__all__ = [
    "Budget",
    "Constant",
    "Cosine",
    "EpochSteps",
    "OneCycle",
    "Schedule",
    "ScheduleError",
    "cosmix",
    "dense_schedule",
    "lowest_lr",
    "momentum_cycle",
    "one_cycle",
    "step_recipe",
    "whole_epochs",
]
