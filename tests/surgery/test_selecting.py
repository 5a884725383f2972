"""Budgets: what goes, what must stay, and what is refused."""

from __future__ import annotations

import pytest
import torch
from surgery_nets import subject

from orchestrator.surgery.budgets import CannotMeetTarget
from orchestrator.surgery.selection import (
    UnusableCounts,
    UnusableScores,
    select_channels,
    select_weights,
)


def test_global_removes_the_lowest_of_all_but_the_last_of_a_group():
    it = subject("Chain")  # 12, 10 and 14 units
    scores = {"first.0": torch.zeros(12), "second": torch.arange(10) + 1.0, "hidden": torch.arange(14) + 5.0}
    selection = select_channels(scores, it.groups, it.costs, quantity="channels", sparsity=14 / 36, scope="global")
    assert selection.kept["first.0"] == (11,)  # of equals the first go first
    assert selection.kept["second"] == tuple(range(3, 10))
    assert selection.kept["hidden"] == tuple(range(14))
    assert selection.achieved == pytest.approx(14 / 36)


def test_uniform_removes_the_same_share_everywhere():
    it = subject("Chain")
    scores = {"first.0": torch.zeros(12), "second": torch.arange(10), "hidden": -torch.arange(14.0)}
    selection = select_channels(scores, it.groups, it.costs, quantity="channels", sparsity=0.5, scope="uniform")
    assert [len(units) for units in selection.kept.values()] == [6, 5, 7]
    assert selection.kept["second"] == (5, 6, 7, 8, 9)
    assert selection.kept["hidden"] == tuple(range(7))


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("name", ["Residual", "densenet121"])
def test_selection_repeats_and_nothing_goes_at_zero(name, scope):
    it = subject(name)
    first, second = (
        select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=0.6, scope=scope) for _ in range(2)
    )
    assert first == second
    whole = select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=0.0, scope=scope)
    assert whole.achieved == 0
    assert all(len(whole.kept[g.name]) == g.size for g in it.groups)


def test_stated_counts_are_kept_exactly():
    it = subject("Chain")
    by_order = select_channels(it.scores(), it.groups, it.costs, quantity="macs", kept=[3, 4, 5])
    assert [len(units) for units in by_order.kept.values()] == [3, 4, 5]
    assert by_order.requested is None
    by_name = select_channels(it.scores(), it.groups, it.costs, quantity="macs", kept={"second": 4})
    assert [len(units) for units in by_name.kept.values()] == [12, 4, 14]
    assert by_name.kept["second"] == by_order.kept["second"]
    for kept, message in (
        ([3, 4], "2 counts to keep for 3 layers: first.0, second, hidden"),
        ({"secnd": 4}, "'secnd'.*'second'"),
        ({"second": 11}, "cannot keep 11 units of 'second', which has 10"),
        ([3, 0, 5], "cannot keep 0 units of 'second'"),
    ):
        with pytest.raises(UnusableCounts, match=message):
            select_channels(it.scores(), it.groups, it.costs, quantity="macs", kept=kept)


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_targets_out_of_reach_are_refused_with_numbers(scope):
    it = subject("Shuffled")
    dense = it.costs.dense("macs")
    with pytest.raises(CannotMeetTarget, match=rf"cannot remove 99\.0% of {dense} macs.*% removed"):
        select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=0.99, scope=scope)
    with pytest.raises(CannotMeetTarget, match=r"found 1\.0"):
        select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=1.0, scope=scope)
    with pytest.raises(CannotMeetTarget, match="no channel of the network can go"):
        select_channels({}, [], it.costs, quantity="channels", sparsity=0.5, scope=scope)
    # A hair below the smallest legal network is near enough.
    emptiest = 1 - it.costs.measure("macs", it.costs.dense_counts.clip(max=1)) / dense
    near = select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=emptiest + 0.005, scope=scope)
    assert [len(units) for units in near.kept.values()] == [1]
    assert near.within


def test_scores_that_do_not_fit_are_refused():
    it = subject("Chain")
    for change, message in (
        ({"second": torch.full((10,), torch.nan)}, "'second' are not numbers: 10 NaN"),
        ({"second": torch.zeros(9)}, r"'second' have shape \(9,\), its units \(10,\)"),
    ):
        with pytest.raises(UnusableScores, match=message):
            select_channels(it.scores() | change, it.groups, it.costs, quantity="macs", sparsity=0.5)
    with pytest.raises(UnusableScores, match=r"no scores for 'first\.0'"):
        select_channels({}, it.groups, it.costs, quantity="macs", sparsity=0.5)


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.7, 0.97])
def test_weights_go_exactly(scope, sparsity):
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.rand(8, 4, 3, 3, generator=generator), "b": torch.randint(0, 3, (50, 20), generator=generator)}
    selection = select_weights(scores, sparsity=sparsity, scope=scope)
    removed = {name: int((~mask).sum()) for name, mask in selection.masks.items()}
    if scope == "global":
        assert sum(removed.values()) == round(sparsity * (288 + 1000))
    else:
        assert removed == {"a": round(sparsity * 288), "b": round(sparsity * 1000)}
    assert selection.within
    assert all(mask.shape == scores[name].shape and mask.any() for name, mask in selection.masks.items())
    for name, mask in selection.masks.items():
        if 0 < removed[name] < mask.numel():
            assert scores[name][~mask].max() <= scores[name][mask].min()


def test_no_tensor_is_emptied_and_ties_go_in_order():
    scores = {"low": torch.zeros(4), "high": torch.ones(6)}
    selection = select_weights(scores, sparsity=0.5, scope="global")
    assert selection.masks["low"].tolist() == [False, False, False, True]
    assert selection.masks["high"].tolist() == [False, False, True, True, True, True]
    assert select_weights(scores, kept={"high": 2}).masks["high"].tolist() == [False] * 4 + [True] * 2
    with pytest.raises(CannotMeetTarget, match="cannot remove 9 of 10 weights"):
        select_weights(scores, sparsity=0.9)
    with pytest.raises(UnusableCounts, match="cannot keep 7 weights of 'high', which has 6"):
        select_weights(scores, kept=[4, 7])
