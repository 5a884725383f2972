"""What every stage of a trial needs: its data, its networks, its method and what that method may look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from orchestrator.data.images import ImageData, Split, batches, calibration_batches, open_data
from orchestrator.methods import METHODS
from orchestrator.methods.base import PruneTask, Ranking, filters
from orchestrator.models.build import build
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.groups import ChannelGroup, channel_groups
from orchestrator.training.loop import Recipe, Report, steps_per_epoch
from orchestrator.training.rng import generator_for, seed_for
from orchestrator.training.schedule import dense_schedule

_CALIBRATION_IMAGES = 1024


@dataclass(frozen=True)
class Context:
    """One trial at work."""

    spec: TrialSpec
    workspace: Workspace
    report: Report

    @cached_property
    def data(self) -> ImageData:
        params = {name: value for name, value in self.spec.data.params.items() if name != "fingerprint"}
        device = torch.device(self.workspace.device)
        return open_data(self.spec.data.name, params, device=device, folder=self.workspace.data_cache)

    @cached_property
    def example(self) -> torch.Tensor:
        """One empty image. Shape (1, channels, size, size)."""
        return torch.zeros(1, self.data.channels, self.data.size, self.data.size, device=self.workspace.device)

    def fresh_model(self, purpose: str = "init") -> nn.Module:
        """A dense network with the trial's own first weights, the same on every device."""
        torch.manual_seed(seed_for(self.spec.seed, purpose))
        choice = self.spec.model
        shape = {"classes": self.data.class_count, "channels": self.data.channels, "size": self.data.size}
        return build(choice.name, choice.params, **shape).to(self.workspace.device)

    def method(self) -> Ranking:
        """The trial's method, new."""
        method = METHODS.load(self.spec.method.name)(**self.spec.method.params)
        assert isinstance(method, Ranking), f"{type(method).__name__} gives no scores"
        return method

    def dense_recipe(self, epochs: int | None = None, data: ImageData | None = None, lr: float | None = None) -> Recipe:
        """The dense training's recipe; or with its own number of epochs, images, or highest learning rate."""
        baseline = self.spec.baseline if lr is None else self.spec.baseline.model_copy(update={"lr": lr})
        schedule = dense_schedule(baseline, steps_per_epoch(data or self.data, baseline.batch_size), epochs)
        return Recipe(schedule, baseline.batch_size, baseline.weight_decay, baseline.nesterov, baseline.optimizer)

    def task(
        self, model: nn.Module, dense: dict[str, torch.Tensor], steps: int = 0, held_out: Split | None = None
    ) -> PruneTask:
        """What a method may look at, for a network as it stands; `dense` is the state of the dense network."""
        groups = prunable_groups(model, self.example) if self.spec.target.granularity == "channels" else []
        spec, data = self.spec, self.data

        def trained() -> nn.Module:
            network = self.fresh_model()
            network.load_state_dict(dense)
            return network

        def shuffled(split: Split, purpose: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            generator = generator_for(spec.seed, purpose)
            return batches(split, spec.baseline.batch_size, data=data, generator=generator, augment=False)

        return PruneTask(
            target=spec.target,
            groups=groups,
            costs=Costs(model, self.example, groups),
            calibration=lambda: calibration_batches(
                data, _CALIBRATION_IMAGES, spec.baseline.batch_size, seed_for(spec.seed, "calibration")
            ),
            loss=F.cross_entropy,
            training_size=len(data.train),
            generator=generator_for(spec.seed, "method"),
            example=self.example,
            training=lambda: batches(data.train, spec.baseline.batch_size, data=data, generator=None, augment=False),
            validation=lambda: shuffled(data.val, "validation"),
            held_out=lambda: shuffled(held_out or data.train, "held_out"),
            dense=trained,
            steps=steps,
        )


def prunable_groups(model: nn.Module, example: torch.Tensor) -> list[ChannelGroup]:
    """The channel groups that a target may shrink: those of convolution filters.

    The papers prune filters and leave the hidden units of a classifier alone (ranked beside filters, its hundreds of
    small scores would empty it first). A network without convolutions has its hidden units pruned.
    """
    groups = channel_groups(model, example)
    of_filters = [group for group in groups if any(isinstance(m, nn.Conv2d) for _, m, _ in filters(group, model))]
    return of_filters or groups
