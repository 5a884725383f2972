"""What trials have in common before any has run: the networks they build, and the trainings that weigh alike."""

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
"""Axes that decide what a training weighs, beside those of model and data."""
_MOST = 1000
"""Combinations of such axes that are looked at: more would be no search space that somebody wrote."""


@dataclass(frozen=True)
class Training:
    """One kind of training; any of its trials describes it."""

    spec: TrialSpec
    """Its `baseline` has the batch size of this training."""
    sparse: bool
    """The method trains along."""

    @property
    def label(self) -> str:
        on = f"{self.spec.model.name} on {self.spec.data.name}, batch {self.spec.baseline.batch_size}"
        return f"{self.spec.method.name} with {on}" if self.sparse else on


def training_kinds(specs: Iterable[TrialSpec]) -> list[Training]:
    """The distinct trainings, those on one data set together.

    A retraining weighs less than the training of the dense network at its batch size, and is not told from it.
    """
    found: dict[str, Training] = {}
    for spec in specs:
        parts: dict[str, Any] = {
            "model": spec.model.canonical(),
            "data": spec.data.canonical(),
            "optimizer": spec.baseline.optimizer,
        }
        size = max(spec.baseline.batch_size, spec.retrain.batch_size or 0)
        plain = spec.model_copy(update={"baseline": spec.baseline.model_copy(update={"batch_size": size})})
        found.setdefault(key_of("training", parts | {"batch_size": size}), Training(plain, sparse=False))
        if METHODS.describe(spec.method.name).attributes.get("trains"):
            parts |= {"method": spec.method.name, "granularity": spec.target.granularity}
            key = key_of("training", parts | {"batch_size": spec.baseline.batch_size})
            found.setdefault(key, Training(spec, sparse=True))
    return sorted(found.values(), key=lambda one: key_of("data", one.spec.data.canonical()))


@dataclass(frozen=True)
class Network:
    """A network on a data set, and where the search space says so."""

    spec: TrialSpec
    where: str


def networks(trials: Iterable[PlannedTrial], arms: Sequence[ExpandedArm]) -> list[Network]:
    """The distinct networks on distinct data."""
    found: dict[str, Network] = {}
    for trial in trials:
        key = key_of("network", {"model": trial.spec.model.canonical(), "data": trial.spec.data.canonical()})
        if key not in found:
            found[key] = Network(trial.spec, arms[trial.arm_index].origin(trial.point, "model"))
    return list(found.values())


def representative_trials(planned: Plan, waiting: Collection[str]) -> list[PlannedTrial]:
    """Trials that stand for all that have still to run: those ``waiting`` (ids), and of what a search has still to draw
    one of each kind.

    A value that no training's weight depends on is taken at one end of its axis.
    """
    found = [trial for trial in planned.trials if trial.trial_id in waiting]
    for arm in planned.arms if planned.to_draw else ():
        shaping = [name for name in arm.axes if name in _SHAPING or name.split(".")[0] in ("model", "data")]
        choices = itertools.product(*(endpoints(arm.axes[name]) for name in shaping))
        for chosen in itertools.islice(choices, _MOST):
            for end in (0, -1):
                others = {name: endpoints(axis)[end] for name, axis in arm.axes.items()}
                try:
                    found.append(arm.trial(others | dict(zip(shaping, chosen, strict=True))))
                except SpecError:
                    continue
                break
    return found
