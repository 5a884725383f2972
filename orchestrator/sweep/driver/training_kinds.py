"""The distinct networks of a plan, and its trainings that need the same resources."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.methods import METHODS
from orchestrator.spec.errors import SpecError
from orchestrator.spec.trial import TrialSpec, key_of
from orchestrator.sweep.planning import Plan
from orchestrator.sweep.space.arms import ExpandedArm, PlannedTrial, endpoints

_SHAPING = frozenset(
    {"method", "baseline", "baseline.batch_size", "baseline.optimizer", "retrain", "retrain.batch_size", "target"}
    | {"target.quantity"}
)
"""Axes, besides those of model and data, that decide the resources a training needs."""
_MOST = 1000
"""Combinations of such axes that are looked at, at most; no search space written by hand has more."""


@dataclass(frozen=True)
class Training:
    """A kind of training; `spec` is that of any of its trials."""

    spec: TrialSpec
    """Its `baseline` has the batch size of this training."""
    sparse: bool
    """Whether it is the sparse training of the method, not a plain one."""

    @property
    def label(self) -> str:
        """The training, for a person."""
        on = f"{self.spec.model.name} on {self.spec.data.name}, batch {self.spec.baseline.batch_size}"
        return f"{self.spec.method.name} with {on}" if self.sparse else on


def training_kinds(specs: Iterable[TrialSpec]) -> list[Training]:
    """Return the distinct trainings, those on one data set together.

    A retraining needs less than the training of the dense network at its batch size, and counts as that one.
    """
    kinds: dict[str, Training] = {}
    for spec in specs:
        parts: dict[str, Any] = {
            "model": spec.model.canonical(),
            "data": spec.data.canonical(),
            "optimizer": spec.baseline.optimizer,
        }
        size = max(spec.baseline.batch_size, spec.retrain.batch_size or 0)
        plain = spec.model_copy(update={"baseline": spec.baseline.model_copy(update={"batch_size": size})})
        kinds.setdefault(key_of("training", parts | {"batch_size": size}), Training(plain, sparse=False))
        if METHODS.describe(spec.method.name).attributes.get("trains"):
            parts |= {"method": spec.method.name, "granularity": spec.target.granularity}
            key = key_of("training", parts | {"batch_size": spec.baseline.batch_size})
            kinds.setdefault(key, Training(spec, sparse=True))
    return sorted(kinds.values(), key=lambda training: key_of("data", training.spec.data.canonical()))


@dataclass(frozen=True)
class Network:
    """A network on a data set, and where the search space names it."""

    spec: TrialSpec
    where: str
    """Path in the search space, e.g. ``arms[1].model``."""


def networks(trials: Iterable[PlannedTrial], arms: Sequence[ExpandedArm]) -> list[Network]:
    """Return the distinct networks on distinct data."""
    networks_by_key: dict[str, Network] = {}
    for trial in trials:
        key = key_of("network", {"model": trial.spec.model.canonical(), "data": trial.spec.data.canonical()})
        if key not in networks_by_key:
            networks_by_key[key] = Network(trial.spec, arms[trial.arm_index].origin(trial.point, "model"))
    return list(networks_by_key.values())


def representative_trials(planned: Plan, waiting: Collection[str]) -> list[PlannedTrial]:
    """Return trials that stand for all that have still to run: those ``waiting`` (ids), and one of each kind that a
    search may draw.

    An axis on which no training's needs depend is represented by one of its ends.
    """
    representatives = [trial for trial in planned.trials if trial.trial_id in waiting]
    for arm in planned.arms if planned.to_draw else ():
        shaping = [name for name in arm.axes if name in _SHAPING or name.split(".")[0] in ("model", "data")]
        choices = itertools.product(*(endpoints(arm.axes[name]) for name in shaping))
        for chosen in itertools.islice(choices, _MOST):
            for end in (0, -1):
                others = {name: endpoints(axis)[end] for name, axis in arm.axes.items()}
                try:
                    representatives.append(arm.trial(others | dict(zip(shaping, chosen, strict=True))))
                except SpecError:
                    continue
                break
    return representatives
