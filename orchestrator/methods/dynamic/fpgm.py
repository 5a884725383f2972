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
    """Filters nearest to all others of their layer are held at zero in training, then removed: the others can replace
    them.

    Comparators, section 6 (He et al., CVPR 2019): g(i) = sum_j ||f_i - f_j||_2 over the filters of a layer. Of the
    filters to remove, ``norm_share`` are those of smallest l2 norm (FPGM-mix), the others those of smallest g among
    the rest. They are set to zero before training, held there after every step, and selected again every
    ``interval`` epochs. Batch-norm scales and shifts stay. Filters that are zero at the end are removed.

    Differs from the paper: how many are removed follows from the target; channels that several layers share are removed
    together, by the mean of g over these layers; the released code stops gradients, here zeros are restored after each
    step (the momentum of a zeroed filter still changes, which matters only if the filter is released). Cutting drops
    the constant relu(shift) that a zeroed filter's batch-norm still outputs; SFP here does the same.
    """

    norm_share: Share = 0.25
    """Share of the removed filters that are chosen by norm: 0 is FPGM alone, 0.25 the paper's mix (10 % of 40 %), 0.75
    its scripts'."""
    interval: Count = 1
    """Epochs between two selections."""
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    default_scope: ClassVar[Scope] = "uniform"
    paper: ClassVar[str] = "comparators, section 6"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._task = task
        self._zeroed: dict[str, Tensor] = {}
        self._select(model)

    def after_step(self, model: nn.Module) -> None:
        self._masks.apply()

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        if (epoch + 1) % self.interval == 0:
            self._select(model)

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """Return g of the filters that are not held at zero; -1 for those that are."""
        scores = {group.name: distance_sums(model, group) for group in task.groups}
        for name, units in self._zeroed.items():
            scores[name][units] = -1.0
        return scores

    def finish(self, model: nn.Module) -> None:
        self._zeroed = {}

    @torch.no_grad()
    def _select(self, model: nn.Module) -> None:
        distances = {group.name: distance_sums(model, group) for group in self._task.groups}
        quota = select(self, distances, self._task)
        assert isinstance(quota, ChannelSelection)
        self._zeroed = {}
        masks: dict[str, Tensor] = {}
        for group in self._task.groups:
            units = units_to_zero(model, group, group.size - len(quota.kept[group.name]), self.norm_share)
            self._zeroed[group.name] = units
            for name, layer, channels in filters(group, model):
                zeroed = torch.tensor([c for unit in units.tolist() for c in channels[unit]], dtype=torch.long)
                for part in ("weight", "bias"):
                    if getattr(layer, part) is not None:
                        mask = masks.setdefault(f"{name}.{part}", torch.ones_like(layer.get_parameter(part)))
                        mask[zeroed.to(mask.device)] = 0
        self._masks = WeightMasks(model, masks)
        self._masks.apply()


def distance_sums(model: nn.Module, group: ChannelGroup, among: Tensor | None = None) -> Tensor:
    """Return g of each unit, the mean over its layers; only ``among`` these units where given. Shape (units,)."""
    sums = []
    for _, layer, channels in filters(group, model):
        index = torch.tensor([list(unit) for unit in channels], device=layer.weight.device)
        vectors = layer.weight.detach()[index].flatten(1)
        vectors = vectors if among is None else vectors[among]
        # Not by matrix products, which lose the small distances of filters that are nearly equal.
        sums.append(torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").sum(1))
    return torch.stack(sums).mean(0)


def units_to_zero(model: nn.Module, group: ChannelGroup, count: int, norm_share: float) -> Tensor:
    """Return the ``count`` units to zero: floor(count * norm_share) by norm, others by g. Shape (count,)."""
    by_norm = int(count * norm_share)
    order = filter_norms(model, group, power=2).sqrt().argsort(stable=True)
    rest = order[by_norm:].sort().values
    nearest = distance_sums(model, group, rest).argsort(stable=True)[: count - by_norm]
    return torch.cat([order[:by_norm], rest[nearest]])
