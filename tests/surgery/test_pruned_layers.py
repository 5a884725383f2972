"""A target may name the layers to prune: the others stay whole, and the share is of what the named ones carry."""

from __future__ import annotations

import pytest
import torch
from surgery_nets import subject

from orchestrator.surgery.budgets import CannotMeetTarget
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.layer_lookup import NotPrunable
from orchestrator.surgery.selection import select_channels, select_weights


@pytest.mark.parametrize("layers", [["second"], [1]])
@pytest.mark.parametrize("quantity", ["channels", "weights", "params", "macs"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_of_one_layer_every_quantity_is_the_share_of_its_filters(layers, quantity, scope):
    it = subject("Chain")  # 12, 10 and 14 units
    scores = {"first.0": torch.zeros(12), "second": torch.arange(10.0), "hidden": torch.zeros(14)}
    selection = select_channels(
        scores, it.groups, it.costs, quantity=quantity, sparsity=0.4, scope=scope, layers=layers
    )
    assert selection.kept == {"second": (4, 5, 6, 7, 8, 9)}
    assert selection.achieved == pytest.approx(0.4)
    assert selection.within
    small = cut(it.model, it.example, selection)
    assert sum(p.numel() for p in small.parameters()) == it.costs.params({"second": 6})


def test_two_layers_share_a_budget():
    it = subject("Chain")
    scores = {"first.0": torch.arange(12.0), "second": torch.arange(10) + 100.0, "hidden": torch.zeros(14)}
    chosen = {"quantity": "channels", "sparsity": 0.5, "layers": ["first.0", 1]}
    ranked = select_channels(scores, it.groups, it.costs, scope="global", **chosen)
    assert {name: len(units) for name, units in ranked.kept.items()} == {"first.0": 1, "second": 10}
    even = select_channels(scores, it.groups, it.costs, scope="uniform", **chosen)
    assert {name: len(units) for name, units in even.kept.items()} == {"first.0": 6, "second": 5}


def test_what_the_named_layers_carry_is_counted_by_hand():
    it = subject("Chain")
    part = it.costs.of_groups([1])
    whole, without = it.costs.dense("macs"), {"second": 0}
    assert part.dense("macs") == whole - it.costs.macs(without)
    assert part.dense("params") == it.costs.dense("params") - it.costs.params(without)
    assert part.measure("macs", part.dense_counts * 0) == 0
    assert part.params({"second": 5}) * 2 == part.dense("params")
    # The subject itself is not touched.
    assert it.costs.dense("macs") == Costs(it.model, it.example, it.groups).dense("macs") == whole


def test_tied_layers_go_together():
    it = subject("Residual")
    tied = next(group for group in it.groups if sum(m.axis == "out" for m in group.members) > 2)
    other = next(m.layer for m in tied.members if m.axis == "out" and m.layer != tied.name)
    picks = [
        select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=0.5, layers=layers).kept
        for layers in ([tied.name], [other], [tied.name, other])
    ]
    assert picks[0] == picks[1] == picks[2]
    assert set(picks[0]) == {tied.name}


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_single_weights_of_named_layers(scope):
    scores = {"a.weight": torch.arange(10.0), "b.weight": torch.arange(20.0), "c.weight": torch.zeros(4)}
    for layers in (["b"], ["b.weight"], [1]):
        selection = select_weights(scores, sparsity=0.25, scope=scope, layers=layers)
        assert list(selection.masks) == ["b.weight"]
        assert selection.masks["b.weight"].tolist() == [False] * 5 + [True] * 15
        assert selection.achieved == 0.25
    both = select_weights(scores, sparsity=0.5, scope=scope, layers=["a", "b"])
    assert sum(int((~mask).sum()) for mask in both.masks.values()) == 15


def test_layers_that_cannot_be_pruned_are_refused():
    it = subject("Chain")
    for layers, message in (
        (["secnd"], "no prunable layer 'secnd'; did you mean 'second'"),
        ([3], r"no prunable layer 3; there are 3: first\.0, second, hidden"),
    ):
        with pytest.raises(NotPrunable, match=message):
            select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=0.5, layers=layers)
    with pytest.raises(NotPrunable, match="no prunable layer 'bb'"):
        select_weights({"a.weight": torch.zeros(3)}, sparsity=0.5, layers=["bb"])
    with pytest.raises(CannotMeetTarget, match=r"cannot remove 97\.0% of 22 channels: with one unit left in each of 2"):
        select_channels(it.scores(), it.groups, it.costs, quantity="channels", sparsity=0.97, layers=[0, 1])
