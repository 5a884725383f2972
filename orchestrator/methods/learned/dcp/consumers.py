"""The layers that consume a group's channels, which are added and trained channel by channel (DCP)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from orchestrator.methods.base import unit_of_channel
from orchestrator.surgery.groups import ChannelGroup

Consumer = nn.Conv2d | nn.Linear


class Consumers:
    """Convolutions and linear layers with input channels of one group, and the units that they use.

    At first they use none: the weights that read the group's channels are 0; those of other channels are unchanged. The
    biases are trained with the weights.
    """

    def __init__(self, model: nn.Module, group: ChannelGroup) -> None:
        self.layers: dict[str, Consumer] = {}
        self._units: list[Tensor] = []
        for member in group.members:
            layer = model.get_submodule(member.layer)
            if member.axis == "in" and isinstance(layer, Consumer):
                self.layers[member.layer] = layer
                width = layer.weight.shape[1] * _filter_groups(layer)
                self._units.append(unit_of_channel(member.channels, width).to(layer.weight.device))
        self._before = [layer.weight.detach().clone() for layer in self.layers.values()]
        self.chosen = torch.zeros(group.size, dtype=torch.bool, device=_device(self._before))
        self._parameters = [p for layer in self.layers.values() for p in layer.parameters()]
        with torch.no_grad():
            for layer, mask in zip(self.layers.values(), self._masks(~self.chosen), strict=True):
                layer.weight.masked_fill_(mask, 0)
        for parameter in self._parameters:
            parameter.requires_grad_()

    @torch.no_grad()
    def add(self, units: Tensor) -> None:
        """Make the layers use units, with their original weights for them."""
        added = torch.zeros_like(self.chosen)
        added[units] = True
        self.chosen |= added
        for layer, before, mask in zip(self.layers.values(), self._before, self._masks(added), strict=True):
            layer.weight.copy_(torch.where(mask, before, layer.weight))

    def gradient(self, losses: list[Callable[[], Tensor]]) -> tuple[list[Tensor], float]:
        """Return the gradients of the mean loss by the layers' weights, and the loss."""
        weights = [layer.weight for layer in self.layers.values()]
        mean, means = torch.zeros((), device=weights[0].device), [torch.zeros_like(w) for w in weights]
        for loss in losses:
            value = loss()
            for sum_, gradient in zip(means, torch.autograd.grad(value, weights), strict=True):
                sum_ += gradient / len(losses)
            mean += value.detach() / len(losses)
        return means, float(mean)

    def norms(self, gradients: list[Tensor], norm: Literal["code", "paper"]) -> Tensor:
        """Return norms of the gradients by unit: sums of the kernels' l2 norms, or Frobenius norms. Shape (units,)."""
        total = torch.zeros(len(self.chosen) + 1, device=self.chosen.device)
        for layer, gradient, units in zip(self.layers.values(), gradients, self._units, strict=True):
            kernels = gradient.flatten(2).norm(dim=2) if gradient.dim() > 2 else gradient.abs()
            kernels = kernels if norm == "code" else kernels.square()
            total.index_add_(0, units, kernels.view(_filter_groups(layer), -1, kernels.shape[1]).sum(1).flatten())
        return total[:-1] if norm == "code" else total[:-1].sqrt()

    def train(self, losses: list[Callable[[], Tensor]], *, lr: float, momentum: float, decay: float) -> None:
        """Train the weights of chosen units, and the biases, for one pass of SGD with Nesterov momentum."""
        optimizer = torch.optim.SGD(self._parameters, lr=lr, momentum=momentum, nesterov=True)
        masks = self._masks(self.chosen)
        for loss in losses:
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in self._parameters:
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter, alpha=decay)
                for layer, mask in zip(self.layers.values(), masks, strict=True):
                    if layer.weight.grad is not None:
                        layer.weight.grad.mul_(mask)
            optimizer.step()

    def freeze(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)
            parameter.grad = None

    @torch.no_grad()
    def write_to(self, model: nn.Module) -> None:
        """Copy the weights trained for the chosen units to the layers of another network."""
        for (name, layer), mask in zip(self.layers.items(), self._masks(self.chosen), strict=True):
            other = model.get_submodule(name)
            assert isinstance(other, Consumer)
            other.weight.copy_(torch.where(mask, layer.weight, other.weight))
            if layer.bias is not None and other.bias is not None:
                other.bias.copy_(layer.bias)

    def _masks(self, units: Tensor) -> list[Tensor]:
        """Return for every layer the weights that read the units, as booleans that broadcast to the weight's shape."""
        extended = torch.cat([units, units.new_zeros(1)])  # channels of other groups
        masks = []
        for layer, own in zip(self.layers.values(), self._units, strict=True):
            outputs, inputs = layer.weight.shape[:2]
            groups = _filter_groups(layer)
            mask = (
                extended[own].view(groups, 1, inputs).expand(groups, outputs // groups, inputs).reshape(outputs, inputs)
            )
            masks.append(mask.view(outputs, inputs, *[1] * (layer.weight.dim() - 2)))
        return masks


def _filter_groups(layer: Consumer) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def _device(tensors: list[Tensor]) -> torch.device:
    return tensors[0].device if tensors else torch.device("cpu")
