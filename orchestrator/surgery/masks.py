"""Pruning by zeros: what a cut network must compute, and weights held at zero while others are retrained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from orchestrator.spec.errors import PrunesweepError, nearest
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.layers import Convolution
from orchestrator.surgery.selection import ChannelSelection


class UnknownParameter(PrunesweepError, ValueError):
    """A mask for a parameter that the network does not have, or of another shape."""


def mask_channels(model: nn.Module, groups: Sequence[ChannelGroup], selection: ChannelSelection) -> nn.Module:
    """A copy of the network that computes, at full size, what the cut network computes.

    Removed units make nothing but zeros: filters, biases, the scale, shift and running mean of norms are zero. Where an
    activation such as a sigmoid would make something of that zero, the weights that read it are zero, too.
    """
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in (selection.values or {}).items():
            masked.get_parameter(name).copy_(value)
        for group in groups:
            kept = set(selection.kept.get(group.name, range(group.size)))
            for member in group.members:
                gone = [c for unit, channels in enumerate(member.channels) if unit not in kept for c in channels]
                layer = masked.get_submodule(member.layer)
                if member.axis == "out":
                    _silence(layer, gone)
                elif not member.sees_zero:
                    _ignore(layer, gone)
    return masked


class WeightMasks:
    """Holds pruned weights at zero while the others are trained.

    ``masks``: for each pruned parameter of ``model`` a boolean tensor of its shape, True for what is trained. Call
    :meth:`apply` after every optimizer step: momentum and weight decay move weights that have no gradient. Raises
    :class:`UnknownParameter`.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in masks.items():
            if name not in parameters:
                raise UnknownParameter(f"no parameter {name!r} to mask{nearest(name, parameters)}")
            if parameters[name].shape != mask.shape:
                raise UnknownParameter(
                    f"parameter {name!r} has shape {tuple(parameters[name].shape)}, its mask {tuple(mask.shape)}"
                )
        # In the parameter's own type and layout: a multiply over all tensors at once then needs no conversion.
        self._masks = [
            torch.empty_like(parameters[name], requires_grad=False).copy_(mask) for name, mask in masks.items()
        ]
        self._parameters: list[Tensor] = [parameters[name] for name in masks]

    @classmethod
    def of_zeros(cls, model: nn.Module, names: Sequence[str]) -> WeightMasks:
        """Hold at zero what is zero now in the named parameters."""
        return cls(model, {name: model.get_parameter(name).detach() != 0 for name in names})

    def apply(self) -> None:
        """Set pruned weights back to zero, in place."""
        if self._parameters:
            with torch.no_grad():
                _multiply(self._parameters, self._masks)

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero, so that clipping and momentum do not see them."""
        pairs = [(p.grad, m) for p, m in zip(self._parameters, self._masks, strict=True) if p.grad is not None]
        if pairs:
            _multiply([gradient for gradient, _ in pairs], [mask for _, mask in pairs])


def _multiply(tensors: list[Tensor], factors: list[Tensor]) -> None:
    torch._foreach_mul_(tensors, factors)


def _silence(layer: nn.Module, channels: list[int]) -> None:
    transposed = isinstance(layer, Convolution) and layer.transposed and layer.groups == 1
    for name in ("weight", "bias", "running_mean"):
        tensor = getattr(layer, name, None)
        if isinstance(tensor, Tensor):
            index = torch.tensor(channels, dtype=torch.long, device=tensor.device)
            tensor.index_fill_(1 if transposed and name == "weight" else 0, index, 0)


def _ignore(layer: nn.Module, channels: list[int]) -> None:
    weight = layer.get_parameter("weight")
    if not isinstance(layer, Convolution) or layer.groups == 1:
        axis = 0 if isinstance(layer, Convolution) and layer.transposed else 1
        weight.index_fill_(axis, torch.tensor(channels, dtype=torch.long, device=weight.device), 0)
        return
    filters, reads = weight.shape[0] // layer.groups, weight.shape[1]
    for channel in channels:
        group, position = divmod(channel, reads)
        weight[group * filters : (group + 1) * filters, position] = 0
