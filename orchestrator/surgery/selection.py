"""Budgets: from scores to the channels or weights that stay, so that a target is met."""

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
from orchestrator.surgery.costs import Costs, Counts, Quantity
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.layer_lookup import Layers, groups_of, tensors_of

Scope = Literal["global", "uniform"]
KeptCounts = Mapping[str, int] | Sequence[int]
TOLERANCE = 0.01
"""A target counts as met within this share of the dense quantity."""


class CannotMeetTarget(PrunesweepError, ValueError):
    """Even the smallest legal network is above the target."""


class UnusableScores(PrunesweepError, ValueError):
    """Scores that do not fit the network, or are not numbers."""


class UnusableCounts(PrunesweepError, ValueError):
    """Counts to keep that do not fit the network."""


@dataclass(frozen=True)
class ChannelSelection:
    """The units each channel group keeps."""

    kept: dict[str, tuple[int, ...]]
    """Indices of units (not channels) in ascending order, by group; a group not named keeps all."""
    achieved: float = math.nan
    """Share of the dense quantity that is removed."""
    requested: float | None = None
    within: bool = True
    """The target is met within 1 % of the dense quantity; False where a single unit is larger than that."""
    values: dict[str, Tensor] | None = None
    """New values of whole dense parameters, by name, set before the cut (methods that compensate)."""
    granularity: ClassVar[str] = "channels"


@dataclass(frozen=True)
class WeightSelection:
    """The single weights each parameter keeps."""

    masks: dict[str, Tensor]
    """For each pruned parameter a boolean tensor of its shape: True stays."""
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
    only the groups that these layers make are touched, and the quantity is theirs: see :meth:`Costs.of_groups`. Every
    group keeps at least one unit. Ties go by the order of groups and units: the first is removed first. Raises
    :class:`CannotMeetTarget`, :class:`UnusableScores`, :class:`UnusableCounts`, :class:`NotPrunable`.
    """
    if layers is not None:
        chosen = groups_of(layers, groups)
        groups, costs = [groups[g] for g in chosen], costs.of_groups(chosen)
    arrays = [_checked(scores, group.name, (group.size,)).double().cpu().numpy() for group in groups]
    dense = costs.dense(quantity)
    if kept is not None:
        counts = _stated(kept, {group.name: group.size for group in groups}, "units")
        return _channel_selection(groups, arrays, counts, _share(costs.measure(quantity, counts), dense), None, True)
    target = _target(sparsity, dense)
    if sparsity and not groups:
        raise CannotMeetTarget(f"cannot remove {sparsity:.1%} of the {quantity}: no channel of the network can go")
    emptiest = np.ones_like(costs.dense_counts)
    if costs.measure(quantity, emptiest) > target:
        counts = emptiest
        _check_near(costs, quantity, emptiest, target)
    elif scope == "uniform":
        counts = _uniform_counts(costs, quantity, target)
    else:
        counts = _global_counts(arrays, costs, quantity, target)
    measured = costs.measure(quantity, counts)
    within = abs(measured - target) <= TOLERANCE * dense
    return _channel_selection(groups, arrays, counts, _share(measured, dense), sparsity, within)


def select_weights(
    scores: Mapping[str, Tensor],
    *,
    sparsity: float | None = None,
    scope: Scope | None = None,
    kept: KeptCounts | None = None,
    layers: Layers | None = None,
) -> WeightSelection:
    """Keep the weights with the highest scores; exactly round(sparsity * weights) go.

    ``scores``: for each parameter to prune a tensor of its shape. ``global`` (the default) ranks all weights together,
    ``uniform`` each tensor's by themselves; ``kept`` states how many stay in each tensor, by name or in order. With
    ``layers`` (names, or indices of tensors) the other tensors stay whole and are not counted. Every tensor keeps at
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
        _target(sparsity, total)
        share = sparsity or 0.0
        if scope == "uniform":
            masks = {n: _without_lowest(v, min(_round(share * v.numel()), v.numel() - 1)) for n, v in flat.items()}
        else:
            masks = _global_masks(flat, _round(share * total), total)
    achieved = _share(sum(int(mask.sum()) for mask in masks.values()), total)
    requested = None if kept is not None else sparsity
    shaped = {name: mask.reshape(scores[name].shape) for name, mask in masks.items()}
    return WeightSelection(shaped, achieved, requested, requested is None or abs(achieved - requested) <= TOLERANCE)


def select_kept(
    keep: Mapping[str, Tensor], groups: Sequence[ChannelGroup], costs: Costs, *, quantity: Quantity | Literal["weights"]
) -> Selection:
    """The selection that a method's own rule makes; where it would keep nothing of a group or tensor, one stays.

    ``keep``: boolean tensors, one value a unit of every group, or one a weight of every parameter; True stays.
    """
    if quantity == "weights":
        masks = {name: _not_empty(mask.bool()) for name, mask in keep.items()}
        total, left = sum(m.numel() for m in masks.values()), sum(int(m.sum()) for m in masks.values())
        return WeightSelection(masks, _share(left, total))
    units = {group.name: _not_empty(keep[group.name].bool()).nonzero().flatten().tolist() for group in groups}
    counts = np.array([len(units[group.name]) for group in groups], dtype=np.int64)
    achieved = _share(costs.measure(quantity, counts), costs.dense(quantity))
    return ChannelSelection({name: tuple(kept) for name, kept in units.items()}, achieved)


def _not_empty(mask: Tensor) -> Tensor:
    if not mask.any():
        mask = mask.clone()
        mask.view(-1)[0] = True
    return mask


def _target(sparsity: float | None, dense: int) -> float:
    if sparsity is None or not 0 <= sparsity < 1:
        raise CannotMeetTarget(f"a target needs a sparsity from 0 to below 1, or counts to keep; found {sparsity!r}")
    return (1 - sparsity) * dense


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
    """Counts to keep, in the order of ``sizes``; what a mapping does not name stays whole."""
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


def _check_near(costs: Costs, quantity: Quantity, emptiest: Counts, target: float) -> None:
    """Refuse a target that is more than one unit below the smallest legal network."""
    dense, measured = costs.dense(quantity), costs.measure(quantity, emptiest)
    steps = [costs.measure(quantity, _changed(emptiest, g, 1)) - measured for g in range(len(emptiest))]
    if measured - target > max(TOLERANCE * dense, min(steps, default=0)):
        raise CannotMeetTarget(
            f"cannot remove {1 - target / dense:.1%} of {dense} {quantity}: with one unit left in each of "
            f"{len(emptiest)} channel groups {measured} stay, which is {_share(measured, dense):.1%} removed"
        )


def _global_counts(arrays: Sequence[NDArray[np.float64]], costs: Costs, quantity: Quantity, target: float) -> Counts:
    sizes = costs.dense_counts
    owners = np.repeat(np.arange(len(sizes)), sizes)
    flat = np.concatenate(arrays) if arrays else np.zeros(0)
    order = np.argsort(flat, kind="stable")
    protected = np.zeros(len(flat), dtype=bool)
    for end, values in zip(np.cumsum(sizes), arrays, strict=True):
        # The unit a group would lose last: the best, of equals the last.
        protected[end - 1 - int(np.argmax(values[::-1]))] = True
    removable = owners[order[~protected[order]]]

    def counts_after(removed: int) -> Counts:
        counts: Counts = sizes - np.bincount(removable[:removed], minlength=len(sizes))
        return counts

    low, high = 0, len(removable)  # the fewest removals that bring the quantity to the target or below
    while low < high:
        middle = (low + high) // 2
        if costs.measure(quantity, counts_after(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return _nearest([counts_after(n) for n in (max(low - 1, 0), low)], costs, quantity, target)


def _uniform_counts(costs: Costs, quantity: Quantity, target: float) -> Counts:
    """The same share of every group, then single units of the groups that this share leaves undecided."""
    sizes = costs.dense_counts

    def counts_at(share: float) -> Counts:
        counts: Counts = sizes - np.minimum(np.floor(sizes * share + 0.5).astype(np.int64), sizes - 1)
        return counts

    low, high = 0.0, 1.0
    for _ in range(50):  # down to neighbouring shares, between which no group changes by more than a unit
        middle = (low + high) / 2
        if costs.measure(quantity, counts_at(middle)) <= target:
            high = middle
        else:
            low = middle
    counts, below = counts_at(low), counts_at(high)
    undecided = {int(g): _changed(counts, int(g), -1) for g in np.flatnonzero(counts != below)}
    gains = {g: costs.measure(quantity, counts) - costs.measure(quantity, c) for g, c in undecided.items()}
    left = []
    for g in sorted(gains, key=lambda g: (-gains[g], g)):
        smaller = _changed(counts, g, -1)
        if costs.measure(quantity, smaller) >= target:
            counts = smaller
        else:
            left.append(g)
    return _nearest([counts, *(_changed(counts, g, -1) for g in left)], costs, quantity, target)


def _changed(counts: Counts, group: int, by: int) -> Counts:
    changed = counts.copy()
    changed[group] += by
    return changed


def _nearest(choices: list[Counts], costs: Costs, quantity: Quantity, target: float) -> Counts:
    """The choice nearest to the target, of equals the first."""
    return min(choices, key=lambda counts: abs(costs.measure(quantity, counts) - target))


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
    """A mask without the ``removed`` lowest values, of equals the first; O(n), for millions of weights."""
    mask = torch.ones_like(values, dtype=torch.bool)
    if removed > 0:
        threshold = values.kthvalue(removed).values
        mask = values > threshold
        equal = (values == threshold).nonzero().flatten()
        mask[equal[removed - int((values < threshold).sum()) :]] = True
    return mask


def _share(left: int, dense: int) -> float:
    return 1 - left / dense if dense else 0.0


def _round(number: float) -> int:
    return math.floor(number + 0.5)
