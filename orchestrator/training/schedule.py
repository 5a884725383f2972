"""Learning rate and momentum by global step: the value every training follows, and the dense network's own."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.spec.trial import Baseline

STEP_MILESTONES = (0.5, 0.75)
STEP_GAMMA = 0.1
CYCLE_WARMUP = 0.1
CYCLE_DIV = 100.0
CYCLE_FINAL_DIV = 100.0
HIGHEST_CYCLED_MOMENTUM = 0.95
LOWEST_CYCLED_MOMENTUM = 0.85


class ScheduleError(ValueError):
    """A schedule or budget that cannot be; its message repeats the value found."""


def cosmix(a: float, b: float, p: float) -> float:
    """From ``a`` at p = 0 to ``b`` at p = 1 along half a cosine."""
    return b + (a - b) * (1 + math.cos(math.pi * p)) / 2


def whole_epochs(share: float, epochs: int) -> int:
    """``int(share * epochs)``, whole where the product is whole (0.57 * 100 is 56.99... in binary)."""
    return int(share * epochs + 1e-9)


def step_recipe(baseline: Baseline) -> tuple[tuple[float, ...], float]:
    """Milestones (shares of the epochs) and factor of the step schedule a baseline is equivalent to.

    A step baseline has its own. Cosine and CLR baselines have none: they count as x0.1 at 50 % and 75 %, the recipe
    that paper 001 retrains both its step-trained and its CLR-trained networks with (Table 14).
    """
    if baseline.schedule == "step":
        return tuple(baseline.milestones), baseline.gamma
    return STEP_MILESTONES, STEP_GAMMA


def lowest_lr(baseline: Baseline) -> float:
    """The last rate of dense training, at which fine-tuning goes on and every warm-up starts.

    For a step baseline ``lr * gamma ** len(milestones)``. Cosine and CLR end near 0, where nothing can be retrained:
    theirs is the last rate of the equivalent step recipe, ``lr * 0.01``; with ``lr: 0.1`` that is the 0.001 at which
    paper 001 fine-tunes its CLR-trained network (Table 14).
    """
    milestones, gamma = step_recipe(baseline)
    return _dropped(baseline.lr, gamma, len(milestones))


def dense_schedule(baseline: Baseline, steps_per_epoch: int, epochs: int | None = None) -> Schedule:
    """The dense network's schedule, over the baseline's own epochs or stretched over ``epochs``.

    - ``step``: by epoch, the rate times ``gamma`` from epoch ``int(milestone * epochs)`` on, never from epoch 0
      (a training of one epoch runs at the full rate). 160 epochs: 0.1, x0.1 at 80 and 120.
    - ``cosine``: by step, ``cosmix(lr, 0, k / steps)``; as with ``CosineAnnealingLR``, 0 would be the step after the
      last.
    - ``clr``: by step, as PyTorch's ``OneCycleLR`` with 10 % warm-up from ``lr / 100``, ending at ``lr / 10000``;
      the momentum goes 0.95, 0.85, 0.95 and the baseline's own is not used.

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
    """From ``start`` to ``peak`` in the first ``warmup`` share of ``steps``, then to ``end`` at the last step."""
    return OneCycle(start, peak, end, warmup * steps - 1, steps - 1)


def momentum_cycle(warmup: float, steps: int) -> OneCycle:
    """Momentum against the rate: 0.95, down to 0.85 at the end of the warm-up, back to 0.95."""
    return one_cycle(HIGHEST_CYCLED_MOMENTUM, LOWEST_CYCLED_MOMENTUM, HIGHEST_CYCLED_MOMENTUM, warmup, steps)


def _dropped(lr: float, gamma: float, drops: int) -> float:
    # One expression for every dropped rate: fine-tuning and a rewound tail are then equal to the last bit.
    return lr * float(gamma**drops)


@dataclass(frozen=True)
class Budget:
    """What a retraining may use.

    ``epochs``: of retraining, from 0; ``steps_per_epoch``: minibatches of one epoch; ``macs_ratio``: MACs of the dense
    network over those of the pruned one. Raises :class:`ScheduleError` on values out of range.
    """

    epochs: int
    steps_per_epoch: int
    macs_ratio: float = 1.0

    def __post_init__(self) -> None:
        _check_extent(self.epochs, self.steps_per_epoch)
        if not (math.isfinite(self.macs_ratio) and self.macs_ratio > 0):
            raise ScheduleError(f"macs_ratio must be finite and above 0, found {self.macs_ratio}")


@dataclass(frozen=True)
class Schedule:
    """How long to train, and at which rate and momentum.

    ``lr_at`` and ``momentum_at`` take the global step, 0 to ``steps - 1``, and are pure and picklable.
    ``reset_weights``: training starts from newly initialised weights of the same architecture.
    Raises :class:`ScheduleError` for negative epochs or less than one step an epoch.
    """

    epochs: int
    steps_per_epoch: int
    lr_at: Callable[[int], float]
    momentum_at: Callable[[int], float]
    reset_weights: bool = False

    def __post_init__(self) -> None:
        _check_extent(self.epochs, self.steps_per_epoch)

    @property
    def steps(self) -> int:
        """Steps in all: ``epochs * steps_per_epoch``."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Constant:
    """The same value at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class EpochSteps:
    """A rate multiplied by ``gamma`` at the beginning of each epoch in ``milestones`` (in increasing order)."""

    lr: float
    gamma: float
    milestones: tuple[int, ...]
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        return _dropped(self.lr, self.gamma, bisect_right(self.milestones, step // self.steps_per_epoch))


@dataclass(frozen=True)
class Cosine:
    """A rate falling along half a cosine to 0, which it would reach at ``steps``."""

    lr: float
    steps: int

    def __call__(self, step: int) -> float:
        return cosmix(self.lr, 0.0, step / self.steps)


@dataclass(frozen=True)
class OneCycle:
    """From ``start`` to ``peak`` at ``peak_step`` (a fraction of a step is legal), then to ``end`` at ``last_step``.

    Both ways run along half a cosine, as in PyTorch's ``OneCycleLR``. Where the warm-up is no step long, the value
    is already falling at step 0; where ``peak_step`` is 0, which PyTorch divides by, step 0 has the peak.
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


def _check_extent(epochs: int, steps_per_epoch: int) -> None:
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
