"""Iterative filter pruning by the first-order Taylor expansion of the loss (Molchanov et al. 2019), gate form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, select
from orchestrator.methods.parts.gates import SharedGate
from orchestrator.plugins import Count, OpenShare, Positive, Share
from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.trial import Target
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.selection import ChannelSelection, Scope


class NothingMeasured(PrunesweepError, ValueError):
    """Raised where the training had no step in which gates could be measured."""


@dataclass
class TaylorIterative(Method):
    """Gates that affect the loss least are closed a few at a time while the dense network trains on, and stay closed.

    Paper 001, section 1.4 (Taylor, gate after BN): a gate z = 1 on every channel; score = (z dL/dz)^2 of a minibatch,
    averaged over the ``minibatches`` before a pruning event, then over events with weight ``memory`` on the past. At
    an event the lowest gates over all layers are closed. Events are spread evenly over the first
    ``pruning_share`` of the training; the rest retrains. A gate that several layers share is one gate; its score is
    divided by their number.

    Differs from the paper: every event removes an equal share of what the target removes, and not 100 gates; events are
    spread out, and not 30 minibatches apart; the dense training's rates and weight decay are used; the
    optimizer's momentum, which a method cannot reach, is left as it is after an event.
    """

    events: Count = 32
    """Pruning events: 3200 gates, 100 at a time, in the paper."""
    minibatches: Count = 30
    """Minibatches before an event that scores are averaged over."""
    memory: OpenShare = 0.9
    """Weight of the past events in the scores' average."""
    pruning_share: Share = 0.67
    """Share of the training in which gates are closed."""
    sparse_epochs: Count | None = 25
    """Epochs of the sparse training; None: as many as the dense training has."""
    sparse_lr: Positive | None = None
    """Highest learning rate of the sparse training; None: as in the dense training."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    default_scope: ClassVar[Scope] = "global"
    paper: ClassVar[str] = "001, section 1.4"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._task = task
        self._gates = {group.name: SharedGate.on(model, group) for group in task.groups}
        window = int(task.steps * self.pruning_share) or min(task.steps, 1)
        count = min(self.events, window)
        self._event_steps = [window * event // count for event in range(1, count + 1)]
        self._step = 0
        self._events_done = 0
        self._since_event: list[dict[str, Tensor]] = []
        self._average: dict[str, Tensor] = {}
        self._at_last_event: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        if self._events_done == len(self._event_steps):
            return
        self._step += 1
        to_go = self._event_steps[self._events_done] - self._step
        if to_go < self.minibatches:
            self._since_event.append({name: gate.score() for name, gate in self._gates.items()})
        for gate in self._gates.values():
            gate.values.grad = None
        if to_go == 0:
            self._close()

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """Return the scores of the last event; -1 for gates that were closed before it."""
        if not self._at_last_event:
            raise NothingMeasured(f"taylor_iterative needs at least one step of training, found {self._step}")
        return self._at_last_event

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        for gate in self._gates.values():
            gate.fold(model)
        self._gates = {}

    def _close(self) -> None:
        self._events_done += 1
        share = self._events_done / len(self._event_steps)
        for name, gate in self._gates.items():
            mean = torch.stack([scores[name] for scores in self._since_event]).mean(0)
            past = self._average.get(name, mean)
            self._average[name] = self.memory * past + (1 - self.memory) * mean
            self._at_last_event[name] = torch.where(gate.values == 0, -1.0, self._average[name])
        self._since_event = []
        partial = replace(self._task, target=_partial_target(self._task.target, self._task.groups, share))
        selection = select(self, self._at_last_event, partial)
        assert isinstance(selection, ChannelSelection)
        for name, gate in self._gates.items():
            gate.values.zero_()
            gate.values[list(selection.kept[name])] = 1
            gate.values.requires_grad_(share < 1)


def _partial_target(target: Target, groups: Sequence[ChannelGroup], share: float) -> Target:
    """Return the target of an event, which removes a share of what the target removes."""
    if target.sparsity is not None:
        return target.model_copy(update={"sparsity": target.sparsity * share})
    sizes = {group.name: group.size for group in groups}
    kept: dict[str, int] | list[int]
    if isinstance(target.kept, dict):
        kept = {name: _between(sizes.get(name, count), count, share) for name, count in target.kept.items()}
    else:
        kept = [_between(size, count, share) for size, count in zip(sizes.values(), target.kept or [], strict=False)]
        kept += (target.kept or [])[len(kept) :]  # too many: selection refuses them
    return target.model_copy(update={"kept": kept})


def _between(size: int, count: int, share: float) -> int:
    return size - int((size - count) * share)
