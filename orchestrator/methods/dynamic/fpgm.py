"""Filter pruning via geometric median (FPGM, He et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, filter_norms, filters, select
from orchestrator.plugins import Count, Share
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.masks import WeightMasks
from orchestrator.surgery.selection import ChannelSelection, Scope


@dataclass
class FPGM(Method):
    """Trained with the filters nearest to all others of their layer held at zero: what they do, the others can do.

    Comparators, section 6 (He et al., CVPR 2019): g(i) = sum_j ||f_i - f_j||_2 over the filters of a layer. Of the
    filters to remove, ``norm_share`` are those of smallest l2 norm (FPGM-mix), the others those of smallest g among
    the rest. They are set to zero before training, held there after every step, and chosen anew every ``interval``
    epochs. Batch-norm scales and shifts stay. Those that are zero at the end are removed.

    Differs from the paper: how many go follows from the target; channels that several layers share go together, by
    the mean of g over these layers; the released code stops gradients, here zeros are restored after each step (the
    momentum of a zeroed filter still moves, which counts only if the filter is let go). Cutting drops the constant
    relu(shift) that a zeroed filter's batch-norm still sends on; SFP here does the same.
    """

    norm_share: Share = 0.25
    """Part of the removed chosen by norm: 0 is FPGM alone, 0.25 the paper's mix (10 % of 40 %), 0.75 its scripts'."""
    interval: Count = 1
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    default_scope: ClassVar[Scope] = "uniform"
    paper: ClassVar[str] = "comparators, section 6"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._task = task
        self._gone: dict[str, Tensor] = {}
        self._choose(model)

    def after_step(self, model: nn.Module) -> None:
        self._masks.apply()

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        if (epoch + 1) % self.interval == 0:
            self._choose(model)

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """g of the filters that are not held at zero; -1 for those that are."""
        found = {group.name: distance_sums(model, group) for group in task.groups}
        for name, gone in self._gone.items():
            found[name][gone] = -1.0
        return found

    def finish(self, model: nn.Module) -> None:
        self._gone = {}

    @torch.no_grad()
    def _choose(self, model: nn.Module) -> None:
        distances = {group.name: distance_sums(model, group) for group in self._task.groups}
        quota = select(self, distances, self._task)
        assert isinstance(quota, ChannelSelection)
        self._gone = {}
        masks: dict[str, Tensor] = {}
        for group in self._task.groups:
            gone = chosen(model, group, group.size - len(quota.kept[group.name]), self.norm_share)
            self._gone[group.name] = gone
            for name, layer, channels in filters(group, model):
                zeroed = torch.tensor([c for unit in gone.tolist() for c in channels[unit]], dtype=torch.long)
                for part in ("weight", "bias"):
                    if getattr(layer, part) is not None:
                        mask = masks.setdefault(f"{name}.{part}", torch.ones_like(layer.get_parameter(part)))
                        mask[zeroed.to(mask.device)] = 0
        self._masks = WeightMasks(model, masks)
        self._masks.apply()


def distance_sums(model: nn.Module, group: ChannelGroup, among: Tensor | None = None) -> Tensor:
    """g of each unit, averaged over the layers that make it; only ``among`` these units where given. Shape (units,)."""
    found = []
    for _, layer, channels in filters(group, model):
        index = torch.tensor([list(unit) for unit in channels], device=layer.weight.device)
        vectors = layer.weight.detach()[index].flatten(1)
        vectors = vectors if among is None else vectors[among]
        # Distances as such: the quick form by products loses those of filters that are nearly alike.
        found.append(torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").sum(1))
    return torch.stack(found).mean(0)


def chosen(model: nn.Module, group: ChannelGroup, count: int, norm_share: float) -> Tensor:
    """The ``count`` units to zero: floor(count * norm_share) by norm, then by g among the rest; indices, (count,)."""
    by_norm = int(count * norm_share)
    order = filter_norms(model, group, power=2).sqrt().argsort(stable=True)
    rest = order[by_norm:].sort().values
    nearest = distance_sums(model, group, rest).argsort(stable=True)[: count - by_norm]
    return torch.cat([order[:by_norm], rest[nearest]])
