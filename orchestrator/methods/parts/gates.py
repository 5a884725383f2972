"""Gates: factors on the channels of a network, for methods that differentiate by them or train them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from orchestrator.methods.base import Channels, filters, norms, unit_of_channel
from orchestrator.surgery.groups import ChannelGroup


@dataclass
class Gate:
    """A factor for each output channel of one layer. ``channels``: the layer's channels of each unit of the group."""

    group: str
    layer: str
    values: Tensor
    channels: Channels


def gate_sites(model: nn.Module, group: ChannelGroup) -> list[tuple[str, Channels]]:
    """Return the layers to gate so that each path into the group's channels passes one gate.

    Batch-norm layers where the group has any (a factor before batch-norm would be normalised away), else the
    convolutions and linear layers themselves. A layer fed by a layer of the same group (a depthwise convolution) is
    gated too: without a gate, its bias would turn a zero into something else.
    """
    sites = [(name, channels) for name, _, channels in norms(group, model)]
    return sites or [(name, channels) for name, _, channels in filters(group, model)]


@contextmanager
def gated(model: nn.Module, groups: Sequence[ChannelGroup]) -> Iterator[list[Gate]]:
    """Put gates of value 1 on every group for as long as the context lasts; differentiate by ``gate.values``."""
    gates: list[Gate] = []
    handles: list[RemovableHandle] = []
    try:
        for group in groups:
            for layer, channels in gate_sites(model, group):
                module = model.get_submodule(layer)
                weight = module.weight
                assert isinstance(weight, Tensor)
                gate = Gate(group.name, layer, torch.ones(len(weight), device=weight.device), channels)
                gate.values.requires_grad_()
                gates.append(gate)
                handles.append(module.register_forward_hook(_Scaling(gate.values)))
        yield gates
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class TrainedGate:
    """A trained factor on the channels of a layer that has no batch-norm behind it."""

    layer: str
    values: nn.Parameter
    handle: RemovableHandle


def insert(model: nn.Module, layer: str, start: float) -> TrainedGate:
    """Put a trained factor on the output channels of a convolution or linear layer, bias included."""
    module = model.get_submodule(layer)
    weight = module.weight
    assert isinstance(weight, Tensor)
    values = nn.Parameter(torch.full((len(weight),), start, device=weight.device))
    return TrainedGate(layer, values, module.register_forward_hook(_Scaling(values)))


@torch.no_grad()
def fold(model: nn.Module, gate: TrainedGate) -> None:
    """Multiply a gate into its layer's weights and bias and remove it; the network's function stays the same."""
    fold_into(model.get_submodule(gate.layer), gate.values)
    gate.handle.remove()


def fold_into(module: nn.Module, factors: Tensor) -> None:
    """Multiply factors of a layer's output channels into its weights and bias. factors: (channels,)."""
    weight, bias = module.get_parameter("weight"), module.bias
    weight.mul_(factors.view(-1, *[1] * (weight.dim() - 1)))
    if isinstance(bias, Tensor):
        bias.mul_(factors)


@dataclass
class _Scaling:
    values: Tensor

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * self.values.view(1, -1, *[1] * (output.dim() - 2))


@dataclass
class SharedGate:
    """One factor a unit, on the outputs of all layers that share the units; first 1."""

    values: Tensor
    sites: list[tuple[str, Channels]]
    handles: list[RemovableHandle]

    @classmethod
    def on(cls, model: nn.Module, group: ChannelGroup) -> SharedGate:
        sites = gate_sites(model, group)
        values = model.get_submodule(sites[0][0]).get_parameter("weight").new_ones(group.size)
        gate = cls(values.requires_grad_(), sites, [])
        for layer, channels in sites:
            module = model.get_submodule(layer)
            gate.handles.append(module.register_forward_hook(_UnitFactors.of(module, values, channels)))
        return gate

    def score(self) -> Tensor:
        """Return (z dL/dz)^2 of the last backward pass, divided by the number of layers. Shape (units,)."""
        assert self.values.grad is not None
        return (self.values.detach() * self.values.grad).square() / len(self.sites)

    def fold(self, model: nn.Module) -> None:
        """Multiply the factors into weights and biases and remove the gate; the network's function stays the same."""
        for layer, channels in self.sites:
            module = model.get_submodule(layer)
            fold_into(module, _UnitFactors.of(module, self.values, channels).factors())
        for handle in self.handles:
            handle.remove()


@dataclass
class _UnitFactors:
    values: Tensor
    units: Tensor

    @classmethod
    def of(cls, module: nn.Module, values: Tensor, channels: Channels) -> _UnitFactors:
        return cls(values, unit_of_channel(channels, len(module.get_parameter("weight"))).to(values.device))

    def factors(self) -> Tensor:
        """Return one factor a channel of the layer; 1 for channels of other groups."""
        return torch.cat([self.values, self.values.new_ones(1)]).index_select(0, self.units)

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * self.factors().view(1, -1, *[1] * (output.dim() - 2))
