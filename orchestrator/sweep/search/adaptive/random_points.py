"""Independent draws from the axes by Optuna's random sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna

from orchestrator.spec.axes import Axis, Range
from orchestrator.sweep.search.adaptive.verbosity import errors_only
from orchestrator.sweep.search.base import ArmPoint


def random_points(arms: Sequence[Mapping[str, Axis]], trials: int, seed: int) -> Iterator[ArmPoint]:
    """Yield independent draws: index of an arm, and a value for each of its axes."""
    errors_only()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        index = trial.suggest_int("arm", 0, len(arms) - 1) if len(arms) > 1 else 0
        yield index, {name: _suggest(trial, f"{index}/{name}", axis) for name, axis in arms[index].items()}


def _suggest(trial: optuna.Trial, name: str, axis: Axis) -> Any:
    if isinstance(axis, list):
        return axis[trial.suggest_int(name, 0, len(axis) - 1)]
    if axis.whole:
        step = int(axis.step or 1)
        high = int(axis.high) - (int(axis.high) - int(axis.low)) % step
        return trial.suggest_int(name, int(axis.low), high, step=step, log=axis.log)
    return _float(trial, name, axis)


def _float(trial: optuna.Trial, name: str, axis: Range) -> float:
    points = axis.points() if axis.step is not None else None
    high = axis.high if points is None else points[-1]
    return trial.suggest_float(name, float(axis.low), float(high), step=axis.step, log=axis.log)
