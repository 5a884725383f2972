"""Contribution of filters: the sensitivity of the true class's logit to their feature maps (paper 000)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.methods.base import per_unit
from orchestrator.methods.one_shot.functionality.activation_maximisation import filter_site
from orchestrator.surgery.groups import ChannelGroup


def contribution_index(
    model: nn.Module, groups: Sequence[ChannelGroup], batches: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Return the mean over images and positions of |d(true class's logit) / d(feature map)|; (units,) for each group.

    One backward pass a batch: in eval mode, images are independent of each other. Feature maps are those of
    `filter_site`. Paper 000, section 1.1 step 3.
    """
    training = model.training
    model.eval()
    sites = {group.name: filter_site(group, model) for group in groups}
    maps: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    handles = [_record(model, layer, maps) for layer in {layer for layer, _ in sites.values()}]
    try:
        for inputs, targets in batches:
            logits = model(inputs)
            outputs = list(maps.values())
            gradients = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), outputs) if outputs else ()
            for layer, gradient in zip(maps, gradients, strict=True):
                total = gradient.abs().flatten(2).mean(2).sum(0) if gradient.dim() > 2 else gradient.abs().sum(0)
                totals[layer] = totals[layer] + total if layer in totals else total
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    images = sum(len(targets) for _, targets in batches)
    return {name: per_unit(totals[layer] / images, channels) for name, (layer, channels) in sites.items()}


def _record(model: nn.Module, layer: str, maps: dict[str, Tensor]) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        maps[layer] = output
        return output.clone()  # an activation that works in place must not change what is recorded

    return model.get_submodule(layer).register_forward_hook(keep)
