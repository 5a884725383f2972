"""Budgets: the channels or weights to keep, by scores, so that a target is met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.spec.errors import PrunesweepError, nearest
from orchestrator.surgery.budgets import TOLERANCE, CannotMeetTarget, counts_to_keep, removed_share, target_quantity
from orchestrator.surgery.costs import Costs, Counts, Quantity
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.layer_lookup import Layers, groups_of, tensors_of

Scope = Literal["global", "uniform"]
KeptCounts = Mapping[str, int] | Sequence[int]


class UnusableScores(PrunesweepError, ValueError):
    """Raised for scores that do not fit the network, or are not numbers."""


class UnusableCounts(PrunesweepError, ValueError):
    """Raised for counts to keep that do not fit the network."""


@dataclass(frozen=True)
class ChannelSelection:
    """The units each channel group keeps."""

    kept: dict[str, tuple[int, ...]]
    """Indices of units (not channels) in ascending order, by group; a group not named keeps all."""
    achieved: float = math.nan
    """Share of the dense quantity that is removed."""
    requested: float | None = None
    within: bool = True
    """Whether the target is met within 1 % of the dense quantity; a single unit may be larger than that."""
    values: dict[str, Tensor] | None = None
    """New values of whole dense parameters, by name, set before the cut (methods that compensate)."""
    granularity: ClassVar[str] = "channels"


@dataclass(frozen=True)
class WeightSelection:
    """The single weights each parameter keeps."""

    masks: dict[str, Tensor]
    """A boolean tensor for each pruned parameter, of its shape: True stays."""
    achieved: float = math.nan
    """Share of the weights in the masks that is removed."""
    requested: float | None = None
    within: bool = True
    values: dict[str, Tensor] | None = None
    """New values of parameters, by name, set before masking."""
    granularity: ClassVar[str] = "weights"


Selection = ChannelSelection | WeightSelection


def select_channels(
    scores: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    costs: Costs,
    *,
    quantity: Quantity,
    sparsity: float | None = None,
    scope: Scope | None = None,
    kept: KeptCounts | None = None,
    layers: Layers | None = None,
) -> ChannelSelection:
    """Keep the units with the highest scores, until ``sparsity`` of the dense ``quantity`` is removed.

    ``scores``: for each group a tensor of shape (size,). ``global`` (the default) ranks the units of all groups
    together; ``uniform`` removes the same share of every group's units; ``kept`` states the units to keep of each
    group, by name or in the order of the groups, instead of a sparsity. With ``layers`` (names, or indices of groups)
    only the groups of these layers' outputs are pruned, and the quantity is theirs: see :meth:`Costs.of_groups`. Every
    group keeps at least one unit. Ties are broken by the order of groups and units: the first is removed first. Raises
    :class:`CannotMeetTarget`, :class:`UnusableScores`, :class:`UnusableCounts`, :class:`NotPrunable`.
    """
    if layers is not None:
        indices = groups_of(layers, groups)
        groups, costs = [groups[g] for g in indices], costs.of_groups(indices)
    arrays = [_checked(scores, group.name, (group.size,)).double().cpu().numpy() for group in groups]
    dense = costs.dense(quantity)
    if kept is not None:
        counts = _stated(kept, {group.name: group.size for group in groups}, "units")
        return _channel_selection(
            groups, arrays, counts, removed_share(costs.measure(quantity, counts), dense), None, True
        )
    target = target_quantity(sparsity, dense)
    if sparsity and not groups:
        raise CannotMeetTarget(f"cannot remove {sparsity:.1%} of the {quantity}: no channel of the network can go")
    counts = counts_to_keep(arrays, costs, quantity, target, uniform=scope == "uniform")
    measured = costs.measure(quantity, counts)
    within = abs(measured - target) <= TOLERANCE * dense
    return _channel_selection(groups, arrays, counts, removed_share(measured, dense), sparsity, within)


def select_weights(
    scores: Mapping[str, Tensor],
    *,
    sparsity: float | None = None,
    scope: Scope | None = None,
    kept: KeptCounts | None = None,
    layers: Layers | None = None,
) -> WeightSelection:
    """Keep the weights with the highest scores; exactly round(sparsity * weights) are removed.

    ``scores``: for each parameter to prune a tensor of its shape. ``global`` (the default) ranks all weights together,
    ``uniform`` each tensor's by themselves; ``kept`` states how many stay in each tensor, by name or in order. With
    ``layers`` (names, or indices of tensors) the other tensors are not pruned and not counted. Every tensor keeps at
    least one weight. Ties: the first is removed first. Raises like :func:`select_channels`.
    """
    if layers is not None:
        scores = {name: scores[name] for name in tensors_of(layers, list(scores))}
    flat = {name: _checked(scores, name, None).detach().float().reshape(-1) for name in scores}
    numels = {name: values.numel() for name, values in flat.items()}
    total = sum(numels.values())
    if kept is not None:
        counts = _stated(kept, numels, "weights").tolist()
        masks = {n: _without_lowest(v, v.numel() - c) for (n, v), c in zip(flat.items(), counts, strict=True)}
    else:
        target_quantity(sparsity, total)
        share = sparsity or 0.0
        if scope == "uniform":
            masks = {n: _without_lowest(v, min(_round(share * v.numel()), v.numel() - 1)) for n, v in flat.items()}
        else:
            masks = _global_masks(flat, _round(share * total), total)
    achieved = removed_share(sum(int(mask.sum()) for mask in masks.values()), total)
    requested = None if kept is not None else sparsity
    shaped = {name: mask.reshape(scores[name].shape) for name, mask in masks.items()}
    return WeightSelection(shaped, achieved, requested, requested is None or abs(achieved - requested) <= TOLERANCE)


def select_kept(
    keep: Mapping[str, Tensor], groups: Sequence[ChannelGroup], costs: Costs, *, quantity: Quantity | Literal["weights"]
) -> Selection:
    """Return the selection of a method's own rule; where it keeps nothing of a group or tensor, its first one stays.

    ``keep``: boolean tensors, one value a unit of every group, or one a weight of every parameter; True stays.
    """
    if quantity == "weights":
        masks = {name: _not_empty(mask.bool()) for name, mask in keep.items()}
        total, remaining = sum(m.numel() for m in masks.values()), sum(int(m.sum()) for m in masks.values())
        return WeightSelection(masks, removed_share(remaining, total))
    units = {group.name: _not_empty(keep[group.name].bool()).nonzero().flatten().tolist() for group in groups}
    counts = np.array([len(units[group.name]) for group in groups], dtype=np.int64)
    achieved = removed_share(costs.measure(quantity, counts), costs.dense(quantity))
    return ChannelSelection({name: tuple(kept) for name, kept in units.items()}, achieved)


def _not_empty(mask: Tensor) -> Tensor:
    if not mask.any():
        mask = mask.clone()
        mask.view(-1)[0] = True
    return mask


def _checked(scores: Mapping[str, Tensor], name: str, shape: tuple[int, ...] | None) -> Tensor:
    if name not in scores:
        raise UnusableScores(f"no scores for {name!r}")
    values = scores[name].detach()
    if shape is not None and tuple(values.shape) != shape:
        raise UnusableScores(f"scores of {name!r} have shape {tuple(values.shape)}, its units {shape}")
    if bool(values.isnan().any()):
        raise UnusableScores(f"scores of {name!r} are not numbers: {int(values.isnan().sum())} NaN")
    return values


def _stated(kept: KeptCounts, sizes: Mapping[str, int], what: str) -> Counts:
    """Return counts to keep, in the order of ``sizes``; all of what a mapping does not name."""
    if not isinstance(kept, Mapping):
        if len(kept) != len(sizes):
            raise UnusableCounts(f"{len(kept)} counts to keep for {len(sizes)} layers: {', '.join(sizes)}")
        kept = dict(zip(sizes, kept, strict=True))
    for name, count in kept.items():
        if name not in sizes:
            raise UnusableCounts(f"no layer {name!r} to keep {count} {what} of{nearest(name, sizes)}")
        if not 1 <= count <= sizes[name]:
            raise UnusableCounts(f"cannot keep {count} {what} of {name!r}, which has {sizes[name]}")
    return np.array([kept.get(name, size) for name, size in sizes.items()], dtype=np.int64)


def _channel_selection(
    groups: Sequence[ChannelGroup],
    arrays: Sequence[NDArray[np.float64]],
    counts: Counts,
    achieved: float,
    requested: float | None,
    within: bool,
) -> ChannelSelection:
    kept = {}
    for group, values, count in zip(groups, arrays, counts.tolist(), strict=True):
        order = np.argsort(values, kind="stable")
        kept[group.name] = tuple(sorted(order[group.size - count :].tolist()))
    return ChannelSelection(kept, achieved, requested, within)


def _global_masks(flat: Mapping[str, Tensor], removed: int, total: int) -> dict[str, Tensor]:
    if removed > total - len(flat):
        raise CannotMeetTarget(
            f"cannot remove {removed} of {total} weights: {len(flat)} tensors keep at least one weight each"
        )
    joined = torch.cat(list(flat.values()))
    end = 0
    for values in flat.values():
        end += values.numel()
        joined[end - 1 - int(values.flip(0).argmax())] = math.inf
    masks = torch.split(_without_lowest(joined, removed), [values.numel() for values in flat.values()])
    return {name: mask.clone() for name, mask in zip(flat, masks, strict=True)}


def _without_lowest(values: Tensor, removed: int) -> Tensor:
    """Return a mask without the ``removed`` lowest values, of equals the first; O(n), for millions of weights."""
    mask = torch.ones_like(values, dtype=torch.bool)
    if removed > 0:
        threshold = values.kthvalue(removed).values
        mask = values > threshold
        equal = (values == threshold).nonzero().flatten()
        mask[equal[removed - int((values < threshold).sum()) :]] = True
    return mask


def _round(number: float) -> int:
    return math.floor(number + 0.5)
