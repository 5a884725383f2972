"""Gates with one trained number for every unit of all groups, on every path of its channels (BAR, GAL, MaskConvNet)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from orchestrator.methods.base import Channels
from orchestrator.methods.parts.gates import fold_into, gate_sites
from orchestrator.surgery.groups import ChannelGroup


class UnitGates:
    """One trained number for every unit of every group, and the factor that it puts on the unit's channels.

    The factor applies wherever the channels pass a layer (see :func:`closing_sites`): at 0, every layer reads zeros
    from them. ``example`` is one image as the network takes it; ``start`` the first values, one for all or of shape
    (units of all groups,); ``factor(values, training)`` makes factors of values, element by element, at every forward
    pass.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        example: Tensor,
        start: Tensor | float,
        factor: Callable[[Tensor, bool], Tensor],
    ) -> None:
        self._sizes = {group.name: group.size for group in groups}
        count = sum(self._sizes.values())
        first = torch.as_tensor(start, dtype=torch.float32, device=example.device)
        self.values = nn.Parameter(first.expand(count).clone())
        """Shape (units of all groups,), the groups in order."""
        self._factor = factor
        self._now = self._extended(training=False)
        self._indices: dict[str, Tensor] = {}
        before = 0
        sites = closing_sites(model, groups, example)
        for group in groups:
            for layer, channels in sites[group.name]:
                width = len(model.get_submodule(layer).get_parameter("weight"))
                # Channels of no gated group take the 1 that `_extended` appends to the factors.
                indices = self._indices.setdefault(layer, torch.full((width,), count))
                for unit, members in enumerate(channels):
                    indices[list(members)] = before + unit
            before += group.size
        self._handles = [model.register_forward_pre_hook(self._refresh)]
        for layer, indices in self._indices.items():
            self._indices[layer] = indices.to(example.device)
            self._handles.append(model.get_submodule(layer).register_forward_hook(_UnitScaling(self, layer)))

    def factors(self, *, training: bool = False) -> Tensor:
        """Return the factors of all units. Shape (units of all groups,)."""
        return self._factor(self.values, training)

    def by_group(self, flat: Tensor) -> dict[str, Tensor]:
        """Split values of all units by group: shape (units,) for every group."""
        return dict(zip(self._sizes, torch.split(flat.detach(), list(self._sizes.values())), strict=True))

    def channel_factors(self, layer: str) -> Tensor:
        """Return the factors that the last forward pass put on the channels of a layer. Shape (channels,)."""
        return self._now.index_select(0, self._indices[layer])

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """Multiply the factors of evaluation into weights, scales and biases, and remove the gates."""
        self._now = self._extended(training=False)
        for layer in self._indices:
            fold_into(model.get_submodule(layer), self.channel_factors(layer))
        for handle in self._handles:
            handle.remove()

    def _refresh(self, model: nn.Module, inputs: Any) -> None:
        self._now = self._extended(training=model.training)

    def _extended(self, *, training: bool) -> Tensor:
        return torch.cat([self.factors(training=training), self.values.new_ones(1)])


def closing_sites(
    model: nn.Module, groups: Sequence[ChannelGroup], example: Tensor
) -> dict[str, list[tuple[str, Channels]]]:
    """Return for every group the layers to gate so that, at 0, every layer reads zeros from its channels.

    Those of :func:`gate_sites`, and every layer the channels pass where there is a path around them (a branch
    without batch-norm in a residual sum, a shortcut taken before the norm, a group norm).
    """
    sites = {group.name: gate_sites(model, group) for group in groups}
    leaking = _leaking(model, groups, sites, example)
    for group in groups:
        if group.name in leaking:
            outputs = [(m.layer, m.channels) for m in group.members if m.axis == "out"]
            sites[group.name] = [(name, channels) for name, channels in outputs if _scales(model.get_submodule(name))]
    return sites


def _scales(layer: nn.Module) -> bool:
    """Return whether a factor on a layer's output channels equals one on its bias and the first axis of its weight."""
    kinds = nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm
    return isinstance(layer, kinds) and isinstance(layer.weight, Tensor)


@torch.no_grad()
def _leaking(
    model: nn.Module, groups: Sequence[ChannelGroup], sites: dict[str, list[tuple[str, Channels]]], example: Tensor
) -> set[str]:
    """Return the groups from which some layer reads non-zeros when their sites output zeros, others noise."""
    generator = torch.Generator().manual_seed(0)
    closed: dict[str, list[int]] = {}
    for own in sites.values():
        for layer, channels in own:
            closed.setdefault(layer, []).extend(c for unit in channels for c in unit)
    leaking: set[str] = set()
    handles: list[RemovableHandle] = []

    def noise(layer: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            values = (torch.rand(output.shape, generator=generator) + 0.5).to(output)
            values[:, closed.get(layer, [])] = 0
            return values

        return hook

    def check(group: str, channels: list[int]) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if inputs[0][:, channels].any():
                leaking.add(group)

        return hook

    training = {module: module.training for module in model.modules()}
    try:
        for name, module in model.named_modules():
            if _scales(module):
                handles.append(module.register_forward_hook(noise(name)))
        for group in groups:
            for member in group.members:
                if member.axis == "in" and member.sees_zero:
                    read = [c for unit in member.channels for c in unit]
                    reader = model.get_submodule(member.layer)
                    handles.append(reader.register_forward_pre_hook(check(group.name, read)))
        model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return leaking


@dataclass
class _UnitScaling:
    gates: UnitGates
    layer: str

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        factors = self.gates.channel_factors(self.layer).to(output.dtype)
        return output * factors.view(1, -1, *[1] * (output.dim() - 2))
