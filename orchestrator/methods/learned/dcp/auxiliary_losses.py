"""Auxiliary losses: classifiers behind some convolutions, trained along with a network (DCP)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle


def head_positions(convolutions: int, heads: int) -> list[int]:
    """Return the convolutions that get a head, counted from 1: every floor(convolutions / (heads + 1)) + 1."""
    segment = convolutions // (heads + 1) + 1
    return [position for position in range(segment, segment * heads + 1, segment) if position < convolutions]


def head_weights(positions: Sequence[int]) -> list[float]:
    """Return the losses' weights of the authors' code: g_p = max(0.01, (position / last position)^2)."""
    return [max(0.01, (position / positions[-1]) ** 2) for position in positions]


class AuxiliaryLosses:
    """Heads behind evenly spaced convolutions: batch-norm, ReLU, mean over positions, linear layer."""

    def __init__(self, model: nn.Module, example: Tensor, heads: int) -> None:
        self._order, classes = _execution_order(model, example)
        convolutions = [name for name in self._order if isinstance(model.get_submodule(name), nn.Conv2d)]
        positions = head_positions(len(convolutions), heads)
        self.sites = [convolutions[position - 1] for position in positions]
        self.heads = nn.ModuleList(_head(model.get_submodule(site), classes) for site in self.sites).to(example.device)
        self._weights = head_weights(positions)
        self._outputs: dict[str, Tensor] = {}
        self._handles = record_outputs(model, self.sites, self._outputs)

    def weighted(self, targets: Tensor) -> Tensor | None:
        """Return the sum of all auxiliary losses of the last forward pass; None without any."""
        losses = [
            weight * F.cross_entropy(head(self._outputs.pop(site).float()), targets)
            for weight, head, site in zip(self._weights, self.heads, self.sites, strict=True)
        ]
        return torch.stack(losses).sum() if losses else None

    def next_behind(self, layers: Collection[str]) -> tuple[str, nn.Module] | None:
        """Return the first site that runs with or after these layers, and its head; None for the network's own."""
        last = max(self._order.index(name) for name in layers)
        for site, head in zip(self.sites, self.heads, strict=True):
            if self._order.index(site) >= last:
                return site, head
        return None

    def detach(self) -> None:
        """Remove the heads from the network and freeze them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outputs.clear()
        self.heads.eval().requires_grad_(False)


def _execution_order(model: nn.Module, example: Tensor) -> tuple[list[str], int]:
    """Return the convolutions and linear layers in order of execution, and the number of classes."""
    order: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(partial(_note, order, name)))
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        classes = model.eval()(example).shape[-1]
    for module, mode in modes.items():
        module.training = mode
    for handle in handles:
        handle.remove()
    return order, classes


def _note(order: list[str], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    order.append(name)


def _head(layer: nn.Module, classes: int) -> nn.Module:
    """Return a classifier: batch-norm, ReLU, mean over positions, linear layer."""
    assert isinstance(layer, nn.Conv2d)
    width = layer.out_channels
    return nn.Sequential(
        nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def record_outputs(model: nn.Module, layers: Sequence[str], outputs: dict[str, Tensor]) -> list[RemovableHandle]:
    """Record the layers' last outputs in ``outputs``, until the handles are removed."""
    return [model.get_submodule(name).register_forward_hook(partial(_keep, outputs, name)) for name in layers]


def _keep(outputs: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    outputs[name] = output
