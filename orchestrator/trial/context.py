"""The inputs of every stage of a trial: data, networks, method, and what the method may use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from orchestrator.data.images import ImageData, Split, open_data
from orchestrator.methods import METHODS
from orchestrator.methods.base import Method, PruneTask, filters
from orchestrator.models.build import build
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.workspace import Workspace
from orchestrator.surgery.groups import ChannelGroup, channel_groups
from orchestrator.training.loop import Recipe, Report, steps_per_epoch
from orchestrator.training.rng import seed_for
from orchestrator.training.schedule import dense_schedule
from orchestrator.trial.pruning import prune_task


@dataclass(frozen=True)
class Context:
    """A trial with the folders and the device that it runs on, and the callback that it reports to."""

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
        """Return a dense network with the trial's own first weights, the same on every device."""
        torch.manual_seed(seed_for(self.spec.seed, purpose))
        choice = self.spec.model
        shape = {"classes": self.data.class_count, "channels": self.data.channels, "size": self.data.size}
        return build(choice.name, choice.params, **shape).to(self.workspace.device)

    def method(self) -> Method:
        """Return a new instance of the trial's method."""
        method: Method = METHODS.load(self.spec.method.name)(**self.spec.method.params)
        return method

    def dense_recipe(self, epochs: int | None = None, data: ImageData | None = None, lr: float | None = None) -> Recipe:
        """Return the dense training's recipe, with other epochs, images, or highest learning rate where given."""
        baseline = self.spec.baseline if lr is None else self.spec.baseline.model_copy(update={"lr": lr})
        schedule = dense_schedule(baseline, steps_per_epoch(data or self.data, baseline.batch_size), epochs)
        return Recipe(schedule, baseline.batch_size, baseline.weight_decay, baseline.nesterov, baseline.optimizer)

    def task(
        self, model: nn.Module, dense: dict[str, torch.Tensor], steps: int = 0, held_out: Split | None = None
    ) -> PruneTask:
        """Return what the method may use for a network as it stands; `dense` is the state of the dense network."""

        def trained() -> nn.Module:
            network = self.fresh_model()
            network.load_state_dict(dense)
            return network

        return prune_task(
            model,
            prunable_groups(model, self.example) if self.spec.target.granularity == "channels" else [],
            target=self.spec.target,
            data=self.data,
            example=self.example,
            batch_size=self.spec.baseline.batch_size,
            seed=self.spec.seed,
            dense=trained,
            steps=steps,
            held_out=held_out,
        )


def prunable_groups(model: nn.Module, example: torch.Tensor) -> list[ChannelGroup]:
    """Return the channel groups that a target may shrink: those of convolution filters.

    The papers prune filters and leave the hidden units of a classifier alone (ranked beside filters, its hundreds of
    small scores would empty it first). Of a network without convolutions, the hidden units are pruned.
    """
    groups = channel_groups(model, example)
    of_filters = [group for group in groups if any(isinstance(m, nn.Conv2d) for _, m, _ in filters(group, model))]
    return of_filters or groups
