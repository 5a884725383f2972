"""Lookup of the channel groups or weight tensors of a target's layers."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.spec.errors import PrunesweepError, nearest
from orchestrator.surgery.groups import ChannelGroup

Layers = Sequence[str | int]
"""Layers by name, or by index among the prunable ones in order of execution."""


class NotPrunable(PrunesweepError, ValueError):
    """Raised for a layer that the network does not have, or that cannot be pruned."""


def groups_of(layers: Layers, groups: Sequence[ChannelGroup]) -> list[int]:
    """Return the indices of the groups whose channels the layers output; tied layers belong to the same group.

    Raises:
        NotPrunable: a layer that outputs the channels of no group.
    """
    layer_names = [{group.name, *(m.layer for m in group.members if m.axis == "out")} for group in groups]
    return _indices(layers, layer_names, [group.name for group in groups])


def tensors_of(layers: Layers, names: Sequence[str]) -> list[str]:
    """Return the weight tensors of the layers, in the order of ``names``; a layer may be named by its tensor.

    Raises:
        NotPrunable: a layer that has none of these tensors.
    """
    plain = [name.removesuffix(".weight") for name in names]
    return [names[i] for i in _indices(layers, [{a, b} for a, b in zip(names, plain, strict=True)], plain)]


def _indices(layers: Layers, aliases: Sequence[set[str]], names: Sequence[str]) -> list[int]:
    """Return the indices of the entries that have a layer's name among their aliases, or its index."""
    indices: set[int] = set()
    for layer in layers:
        matches = [i for i, own in enumerate(aliases) if layer == i or layer in own]
        if not matches:
            available = f"; there are {len(names)}: {', '.join(names)}"
            remedy = nearest(layer, set().union(*aliases)) if isinstance(layer, str) else available
            raise NotPrunable(f"no prunable layer {layer!r}{remedy}")
        indices.update(matches)
    return sorted(indices)
