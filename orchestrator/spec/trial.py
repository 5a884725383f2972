"""One trial, fully resolved: frozen, hashable, and identified by the hash of its specification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

KEY_VERSION = 1
"""Part of every id and key, raised when the same specification would give other numbers: old results then keep their
old ids."""

_WHERE = frozenset({"path", "download"})
"""Parameters of a data set that locate it and do not identify it; `fingerprint` does."""


class Value(BaseModel):
    """A frozen value; unknown names and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Choice(Value):
    """A named plug-in and those of its parameters that differ from their defaults."""

    name: str
    params: Mapping[str, Any] = Field(default_factory=dict)

    def canonical(self) -> dict[str, Any]:
        return {"name": self.name, **{k: v for k, v in self.params.items() if k not in _WHERE}}


class Baseline(Value):
    """The training of the dense network: SGD under a step, cosine or CLR schedule."""

    epochs: int = Field(default=160, ge=0)
    """Passes over the training images."""
    lr: float = Field(default=0.1, gt=0)
    """The highest learning rate of the schedule."""
    schedule: Literal["step", "cosine", "clr"] = "step"
    """Course of the rate: in steps, along half a cosine, or in one cycle with a warm-up."""
    milestones: list[float] = Field(default=[0.5, 0.75])
    """`step`: shares of the epochs after which the rate is multiplied by `gamma`."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """`step`: factor of the rate at a milestone."""
    batch_size: int = Field(default=64, ge=1)
    """Images of one optimizer step."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Factor of the weight that is added to its gradient."""
    nesterov: bool = False
    """Nesterov's momentum instead of the plain one."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Adam takes the schedule's rates; its own first moment stands for the momentum."""

    @model_validator(mode="after")
    def _milestones_in_order(self) -> Baseline:
        if sorted(self.milestones) != self.milestones or any(not 0 < m < 1 for m in self.milestones):
            raise ValueError(f"milestones must be increasing shares between 0 and 1, found {self.milestones}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, found 0")
        return self


class Target(Value):
    """The target of pruning: a share of a quantity, or exact kept counts for every layer."""

    quantity: Literal["channels", "weights", "params", "macs"] = "macs"
    """Quantity that is counted; `weights` removes single weights, the others whole channels."""
    sparsity: float | None = Field(default=None, ge=0, lt=1)
    """Share of the quantity to remove."""
    scope: Literal["global", "uniform"] | None = None
    """`global`: one ranking over all layers; `uniform`: the same share of every layer; None: as the method prefers."""
    kept: dict[str, int] | list[int] | None = None
    """Kept counts by layer, or of every prunable layer in order."""
    layers: list[str | int] | None = None
    """Layers to prune, by name or by index among the prunable ones in order; the sparsity is a share of their own
    quantity. None: all of them."""
    steps: list[float] | None = None
    """Iterative pruning: sparsities to pass on the way, retraining after each, e.g. 0.5, 0.75, 0.875 before 0.9."""

    @field_validator("layers")
    @classmethod
    def _different_layers(cls, layers: list[str | int] | None) -> list[str | int] | None:
        if layers == []:
            raise ValueError("must name at least one layer, found []")
        for i, layer in enumerate(layers or []):
            if layer in (layers or [])[:i]:
                raise ValueError(f"names {layer!r} twice")
            if isinstance(layer, int) and layer < 0:
                raise ValueError(f"layers are counted from 0, found {layer}")
        return layers

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        if self.sparsity is not None and self.kept is not None:
            raise ValueError("give either sparsity or kept, found both")
        if self.layers is not None and self.sparsity is None:
            raise ValueError(f"layers need a sparsity, which is missing; found layers {self.layers}")
        if self.layers is not None and self.steps is not None:
            raise ValueError(f"give either layers or steps, found both: {self.layers} and {self.steps}")
        if self.steps is not None:
            way = [0.0, *self.steps, self.sparsity if self.sparsity is not None else 0.0]
            if not self.steps or any(a >= b for a, b in pairwise(way)):
                raise ValueError(f"steps must rise from above 0 to below the sparsity, found {self.steps}")
        if self.kept is not None:
            counts = list(self.kept.values()) if isinstance(self.kept, dict) else self.kept
            if not counts or any(count < 1 for count in counts):
                raise ValueError(f"kept counts must be 1 or more, found {self.kept}")
        return self

    @property
    def granularity(self) -> Literal["weights", "channels"]:
        """Single weights where weights are counted, else whole channels."""
        return "weights" if self.quantity == "weights" else "channels"


class Retrain(Value):
    """A retraining schedule and its budget. A value of None is that of the dense training."""

    name: str
    """Name of the schedule."""
    epochs: int = Field(default=40, ge=0)
    """Budget in passes over the training images; the two schedules from scratch train longer, by their own rules."""
    step_epochs: int | None = Field(default=None, ge=0)
    """Epochs after each step of iterative pruning but the last; None: as many as after the last."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images of one optimizer step."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay while retraining."""
    params: Mapping[str, Any] = Field(default_factory=dict)


class TrialSpec(Value):
    """Everything that a trial's result depends on, and nothing else."""

    model: Choice
    data: Choice
    baseline: Baseline = Baseline()
    method: Choice
    target: Target
    retrain: Retrain
    seed: int = Field(default=0, ge=0)

    def canonical(self) -> dict[str, Any]:
        """Return the specification without defaults and paths, so that a new option never orphans old results."""
        retrain = self.retrain.model_dump(exclude_defaults=True, exclude={"params"})
        return {
            "model": self.model.canonical(),
            "data": self.data.canonical(),
            "baseline": self.baseline.model_dump(exclude_defaults=True),
            "method": self.method.canonical(),
            "target": self.target.model_dump(exclude_defaults=True),
            "retrain": {**retrain, **self.retrain.params},
            "seed": self.seed,
        }

    @property
    def trial_id(self) -> str:
        return key_of("trial", self.canonical())

    @property
    def baseline_key(self) -> str:
        """Key of the dense network."""
        return key_of("baseline", self._parts("model", "data", "baseline", "seed"))

    def sparse_training_key(self, *, for_target: bool) -> str:
        """Return the key of the sparse training; ``for_target``: it aims at the target's sparsity."""
        parts = ["model", "data", "baseline", "method", "seed", *(["target"] if for_target else [])]
        return key_of("sparse_training", self._parts(*parts) | self._granularity)

    @property
    def importance_key(self) -> str:
        """Key of the importance scores of the dense network."""
        return key_of("importance", self._parts("model", "data", "baseline", "method", "seed") | self._granularity)

    @property
    def _granularity(self) -> dict[str, Any]:
        return {"granularity": self.target.granularity}

    @property
    def before_last_step(self) -> TrialSpec:
        """Specification of the step before the last, of a trial whose target has steps."""
        *before, last = self.target.steps or []
        target = self.target.model_copy(update={"sparsity": last, "steps": before or None})
        epochs = self.retrain.epochs if self.retrain.step_epochs is None else self.retrain.step_epochs
        return self.model_copy(update={"target": target, "retrain": self.retrain.model_copy(update={"epochs": epochs})})

    @property
    def step_key(self) -> str:
        """Key of the network that this specification leads to, as a step on the way to others."""
        return key_of("step", self.canonical())

    def _parts(self, *names: str) -> dict[str, Any]:
        canonical = self.canonical()
        return {name: canonical[name] for name in names}


def key_of(what: str, parts: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps([what, KEY_VERSION, parts], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted paths: ``{'method.penalty': 1}``; ``name`` stands under the bare path."""
    values: dict[str, Any] = {}
    for key, value in parts.items():
        path = prefix if key == "name" and prefix else (f"{prefix}.{key}" if prefix else key)
        if isinstance(value, Mapping):
            values |= flatten(value, path)
        else:
            values[path] = value
    return values
