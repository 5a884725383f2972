"""Extra losses: classifiers behind some convolutions, trained along with a network (DCP)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle


def head_places(convolutions: int, heads: int) -> list[int]:
    """Convolutions behind which extra losses stand, counted from 1: every floor(convolutions / (heads + 1)) + 1."""
    segment = convolutions // (heads + 1) + 1
    return [place for place in range(segment, segment * heads + 1, segment) if place < convolutions]


def head_weights(places: Sequence[int]) -> list[float]:
    """g_p = max(0.01, (place / last place)^2), the extra losses' weights in the authors' code."""
    return [max(0.01, (place / places[-1]) ** 2) for place in places]


class ExtraLosses:
    """Heads behind convolutions that are spread evenly: batch-norm, ReLU, mean over positions, linear layer."""

    def __init__(self, model: nn.Module, example: Tensor, heads: int) -> None:
        self._order, classes = _running_order(model, example)
        convolutions = [name for name in self._order if isinstance(model.get_submodule(name), nn.Conv2d)]
        places = head_places(len(convolutions), heads)
        self.sites = [convolutions[place - 1] for place in places]
        self.heads = nn.ModuleList(_head(model.get_submodule(site), classes) for site in self.sites).to(example.device)
        self._weights = head_weights(places)
        self._seen: dict[str, Tensor] = {}
        self._handles = watch(model, self.sites, self._seen)

    def weighted(self, targets: Tensor) -> Tensor | None:
        """The sum of all extra losses of the last forward pass; None without any."""
        losses = [
            weight * F.cross_entropy(head(self._seen.pop(site).float()), targets)
            for weight, head, site in zip(self._weights, self.heads, self.sites, strict=True)
        ]
        return torch.stack(losses).sum() if losses else None

    def next_behind(self, layers: Collection[str]) -> tuple[str, nn.Module] | None:
        """The first site that runs with or after all of these layers, and its head; None for the network's own."""
        last = max(self._order.index(name) for name in layers)
        for site, head in zip(self.sites, self.heads, strict=True):
            if self._order.index(site) >= last:
                return site, head
        return None

    def detach(self) -> None:
        """Take the heads off the network; they are trained no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._seen.clear()
        self.heads.eval().requires_grad_(False)


def _running_order(model: nn.Module, example: Tensor) -> tuple[list[str], int]:
    """Convolutions and linear layers in the order in which they run, and the number of classes."""
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
    """Batch-norm, ReLU, mean over positions, linear layer."""
    assert isinstance(layer, nn.Conv2d)
    width = layer.out_channels
    return nn.Sequential(
        nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def watch(model: nn.Module, layers: Sequence[str], seen: dict[str, Tensor]) -> list[RemovableHandle]:
    """Keep in ``seen`` what the layers put out last."""
    return [model.get_submodule(name).register_forward_hook(partial(_keep, seen, name)) for name in layers]


def _keep(seen: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    seen[name] = output
