"""Filter pruning by the rank of feature maps (HRank, Lin et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, first_images, per_unit
from orchestrator.methods.parts.gates import gate_sites
from orchestrator.plugins import Count
from orchestrator.surgery.selection import Scope


@dataclass
class HRank(Method):
    """Filters whose feature maps have the lowest rank, as matrices, are removed first.

    Paper 001, section 1.4 (HRank): score = rank of the filter's map after ReLU, averaged over images; ranked inside
    each layer. Channels that several layers share score the mean over these layers.

    Differs from the paper: the ReLU is applied to the output of the batch-norm (or convolution) itself, so the map is
    without what a residual sum adds; layers are pruned at once and not one after another with retraining between.
    """

    images: Count = 640
    """Calibration images to use, at most all there are: 5 batches of 128 in the paper."""
    default_scope: ClassVar[Scope] = "uniform"
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "001, section 1.4"

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        sites = {group.name: gate_sites(model, group) for group in task.groups}
        totals: dict[str, Tensor] = {}

        def add(layer: str, output: Tensor) -> None:
            ranks = map_ranks(output).sum(0)
            totals[layer] = totals[layer] + ranks if layer in totals else ranks

        layers = {layer for group_sites in sites.values() for layer, _ in group_sites}
        handles = [_observe(model, layer, add) for layer in layers]
        training = model.training
        model.eval()
        images = 0
        try:
            for inputs, _ in first_images(task.calibration(), self.images):
                model(inputs)
                images += len(inputs)
        finally:
            for handle in handles:
                handle.remove()
            model.train(training)
        return {
            name: torch.stack([per_unit(totals[layer] / images, channels) for layer, channels in group_sites]).mean(0)
            for name, group_sites in sites.items()
        }


def map_ranks(output: Tensor) -> Tensor:
    """Return the ranks of feature maps after ReLU. output: (images, channels, height, width), or (images, channels) as
    maps of one pixel; returns (images, channels)."""
    maps = output.relu().float() if output.dtype in (torch.float16, torch.bfloat16) else output.relu()
    if maps.dim() == 2:
        maps = maps[:, :, None, None]
    ranks: Tensor = torch.linalg.matrix_rank(maps)
    return ranks.to(maps.dtype)


def _observe(model: nn.Module, layer: str, add: Any) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        add(layer, output)

    return model.get_submodule(layer).register_forward_hook(hook)
