"""Axes as Optuna's parameters: an axis that all arms share is one parameter, any other is its arm's own."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.spec.axes import Axis, Range, rounded

SEED = "seed"
"""The axis that is noise: a search that drew it would fit the noise."""
_ARM = "arm"


class Parameters:
    """The parameters of a search space, and their values at points of its arms.

    A list of numbers is the index in their order, so that the sampler knows which are near; any other list is
    categorical; a range is a range. An axis of one value is no parameter.

    Args:
        labels: names of the arms.
        arms: their axes.
    """

    def __init__(self, labels: Sequence[str], arms: Sequence[Mapping[str, Axis]]) -> None:
        self._labels = [f"{i}: {label}" if labels.count(label) > 1 else label for i, label in enumerate(labels)]
        self._arms = [{name: axis for name, axis in axes.items() if name != SEED} for axes in arms]
        self._names = [
            {name: self._shared(name, axis) or f"{label}/{name}" for name, axis in axes.items()}
            for label, axes in zip(self._labels, self._arms, strict=True)
        ]
        self.distributions: dict[str, BaseDistribution] = {}
        if len(arms) > 1:
            self.distributions[_ARM] = CategoricalDistribution(self._labels)
        for axes, names in zip(self._arms, self._names, strict=True):
            for name, axis in axes.items():
                if not (isinstance(axis, list) and len(axis) == 1):
                    self.distributions[names[name]] = _distribution(axis)

    def draw(self, suggestion: Trial, *, joint: bool) -> tuple[int, dict[str, Any]]:
        """Draw the index of an arm and a point of its axes.

        ``joint``: the parameters of all arms are drawn, and those of the others ignored, for samplers that take no
        conditional parameters.
        """
        values: dict[str, Any] = {}
        if joint:
            values = {name: _ask(suggestion, name, distribution) for name, distribution in self.distributions.items()}
        index = 0
        if _ARM in self.distributions:
            index = self._labels.index(_ask(suggestion, _ARM, self.distributions[_ARM]))
        point: dict[str, Any] = {}
        for name, axis in self._arms[index].items():
            parameter = self._names[index][name]
            if parameter not in self.distributions:
                assert isinstance(axis, list)
                point[name] = axis[0]
                continue
            if parameter not in values:
                values[parameter] = _ask(suggestion, parameter, self.distributions[parameter])
            point[name] = _value(axis, values[parameter])
        return index, point

    def of(self, index: int, point: Mapping[str, Any], fill: random.Random | None) -> dict[str, Any]:
        """Return the parameters of a point; with ``fill``, those of the other arms too, at random."""
        params: dict[str, Any] = {}
        if _ARM in self.distributions:
            params[_ARM] = self._labels[index]
        for name, axis in self._arms[index].items():
            parameter = self._names[index][name]
            if parameter in self.distributions:
                params[parameter] = _parameter(axis, point[name])
        if fill is not None:
            for name, distribution in self.distributions.items():
                params.setdefault(name, _random(distribution, fill))
        return params

    def described(self) -> dict[str, str]:
        """Return a text by parameter that changes whenever its values do."""
        return {name: repr(distribution) for name, distribution in self.distributions.items()}

    def _shared(self, name: str, axis: Axis) -> str | None:
        return name if all(axes.get(name) == axis for axes in self._arms) else None


def _ask(suggestion: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return suggestion.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return suggestion.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return suggestion.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, list):
        return IntDistribution(0, len(axis) - 1) if _ordered(axis) else CategoricalDistribution(_texts(axis))
    if axis.whole:
        step = int(axis.step or 1)
        high = int(axis.high) - (int(axis.high) - int(axis.low)) % step
        return IntDistribution(int(axis.low), high, log=axis.log, step=step)
    points = axis.points() if axis.step is not None else None
    high_end = float(points[-1] if points else axis.high)
    return FloatDistribution(float(axis.low), high_end, log=axis.log, step=axis.step)


def _value(axis: Axis, parameter: Any) -> Any:
    """Return the value of an axis for that of its parameter."""
    if isinstance(axis, Range):
        if axis.whole:
            return parameter
        # Six digits of a draw are enough, and tables stay readable.
        value = rounded(parameter) if axis.step is not None else float(f"{parameter:.6g}")
        return min(max(value, axis.low), axis.high)
    return sorted(axis)[parameter] if _ordered(axis) else axis[_texts(axis).index(parameter)]


def _parameter(axis: Axis, value: Any) -> Any:
    """Return the value of a parameter for that of its axis."""
    if isinstance(axis, Range):
        return int(value) if axis.whole else float(value)
    return sorted(axis).index(value) if _ordered(axis) else _texts(axis)[axis.index(value)]


def _ordered(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _texts(values: Sequence[Any]) -> list[str]:
    return [value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str) for value in values]


def _random(distribution: BaseDistribution, numbers: random.Random) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return numbers.choice(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    at = math.exp(numbers.uniform(math.log(low), math.log(high))) if distribution.log else numbers.uniform(low, high)
    if distribution.step is not None:
        at = low + round((at - low) / distribution.step) * distribution.step
    return int(at) if isinstance(distribution, IntDistribution) else min(max(at, low), high)
