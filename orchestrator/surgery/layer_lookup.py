"""Which channel groups or weight tensors the layers of a target stand for."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.spec.errors import PrunesweepError, nearest
from orchestrator.surgery.groups import ChannelGroup

Layers = Sequence[str | int]
"""Layers by name, or by index among the prunable ones in order of execution."""


class NotPrunable(PrunesweepError, ValueError):
    """A layer to prune that the network does not have, or that cannot lose anything."""


def groups_of(layers: Layers, groups: Sequence[ChannelGroup]) -> list[int]:
    """Indices of the groups whose channels the layers make; layers that are tied name the same group.

    Raises:
        NotPrunable: a layer that makes the channels of no group.
    """
    makers = [{group.name, *(m.layer for m in group.members if m.axis == "out")} for group in groups]
    return _found(layers, makers, [group.name for group in groups])


def tensors_of(layers: Layers, names: Sequence[str]) -> list[str]:
    """The weight tensors of the layers, in the order of ``names``; a layer may be named as its tensor is.

    Raises:
        NotPrunable: a layer that has none of these tensors.
    """
    plain = [name.removesuffix(".weight") for name in names]
    return [names[i] for i in _found(layers, [{a, b} for a, b in zip(names, plain, strict=True)], plain)]


def _found(layers: Layers, called: Sequence[set[str]], names: Sequence[str]) -> list[int]:
    found: set[int] = set()
    for layer in layers:
        meant = [i for i, own in enumerate(called) if layer == i or layer in own]
        if not meant:
            known = f"; there are {len(names)}: {', '.join(names)}"
            remedy = nearest(layer, set().union(*called)) if isinstance(layer, str) else known
            raise NotPrunable(f"no prunable layer {layer!r}{remedy}")
        found.update(meant)
    return sorted(found)
