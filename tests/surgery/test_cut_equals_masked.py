"""A cut network computes what the masked one computes, is as small as asked, and can be trained."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch_pruning
from surgery_nets import LARGE, TINY, Subject, subject
from torch import nn

from orchestrator.metrics.macs import count_macs
from orchestrator.surgery.budgets import CannotMeetTarget
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.masks import mask_channels
from orchestrator.surgery.selection import ChannelSelection, select_channels

SETTINGS = list(itertools.product(("channels", "params", "macs"), (0.3, 0.5, 0.7), ("global", "uniform")))
# Every value of every axis once for a large network; all combinations for the tiny ones.
FEW = [
    ("macs", 0.5, "global"),
    ("macs", 0.7, "uniform"),
    ("params", 0.3, "uniform"),
    ("params", 0.7, "global"),
    ("channels", 0.5, "uniform"),
]
CASES = [(name, *s) for name in TINY for s in SETTINGS] + [(name, *s) for name in LARGE for s in FEW]


def measured(model: nn.Module, it: Subject, selection: ChannelSelection, quantity: str) -> int:
    if quantity == "params":
        return sum(p.numel() for p in model.parameters())
    if quantity == "macs":
        return count_macs(model, it.example)
    return it.costs.channels({name: len(units) for name, units in selection.kept.items()})


def one_unit(it: Subject, selection: ChannelSelection, quantity: str) -> int:
    """The largest change of the quantity that a single unit more or less can make."""
    counts = it.costs.counts({name: len(units) for name, units in selection.kept.items()})
    now = it.costs.measure(quantity, counts)
    changes = []
    for g in range(len(counts)):
        for by in (-1, 1):
            other = counts.copy()
            other[g] += by
            if 1 <= other[g] <= it.costs.dense_counts[g]:
                changes.append(abs(it.costs.measure(quantity, other) - now))
    return max(changes)


@pytest.mark.parametrize(("name", "quantity", "sparsity", "scope"), CASES)
def test_cut_equals_masked_and_meets_its_target(name, quantity, sparsity, scope):
    it = subject(name)
    dense = it.costs.dense(quantity)
    budget = {"quantity": quantity, "sparsity": sparsity, "scope": scope}
    # Out of reach by more than the one unit that a target may be missed by.
    if it.costs.measure(quantity, it.costs.dense_counts.clip(max=1)) > (1 - sparsity + 0.1) * dense:
        with pytest.raises(CannotMeetTarget):
            select_channels(it.scores(), it.groups, it.costs, **budget)
        return
    selection = select_channels(it.scores(), it.groups, it.costs, **budget)
    smaller = cut(it.model, it.example, selection)
    masked = mask_channels(it.model, it.groups, selection)
    with torch.no_grad():
        got, wanted, before = smaller(it.example), masked(it.example), it.model(it.example)
    scale = wanted.abs().max().item()
    assert (got - wanted).abs().max().item() <= 1e-4 * max(scale, 1e-3)
    assert (before - wanted).abs().max().item() > 1e-3 * scale  # the masks do something

    real = measured(smaller, it, selection, quantity)
    assert selection.achieved == pytest.approx(1 - real / dense, abs=1e-9)
    assert abs(real - (1 - sparsity) * dense) <= max(0.01 * dense, one_unit(it, selection, quantity))
    assert selection.within == (abs(real - (1 - sparsity) * dense) <= 0.01 * dense)
    assert all(selection.kept.values())


@pytest.mark.parametrize("name", [*TINY, "resnet18"])
def test_cut_network_trains_and_the_dense_one_is_untouched(name):
    it = subject(name)
    before = {key: value.clone() for key, value in it.model.state_dict().items()}
    selection = select_channels(it.scores(1), it.groups, it.costs, quantity="channels", sparsity=0.4)
    smaller = cut(it.model, it.example, selection).train()
    smaller(it.example).square().mean().backward()
    used = [p for p in smaller.parameters() if p.grad is not None]
    assert used
    assert all(torch.isfinite(p.grad).all() and p.grad.shape == p.shape for p in used)
    assert all(torch.equal(value, before[key]) for key, value in it.model.state_dict().items())
    assert not it.model.training
    for model in (it.model, smaller):
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
    assert all(p.grad is None for p in it.model.parameters())


@pytest.mark.parametrize("name", ["Chain", "Residual", "resnet18", "mobilenet_v2"])
def test_agrees_with_torch_prunings_own_cut(name):
    it = subject(name)
    selection = select_channels(it.scores(2), it.groups, it.costs, quantity="channels", sparsity=0.3)
    other = cut(it.model, it.example, ChannelSelection({}))
    graph = torch_pruning.DependencyGraph().build_dependency(other, [it.example], verbose=False)
    for group in it.groups:
        gone = [c for u, unit in enumerate(group.units) if u not in selection.kept[group.name] for c in unit]
        if gone:
            root = other.get_submodule(group.name)
            graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, gone).prune()
    smaller = cut(it.model, it.example, selection)
    with torch.no_grad():
        torch.testing.assert_close(smaller(it.example), other(it.example))


def test_values_are_set_before_the_cut():
    it = subject("Chain")
    weight = it.model.get_parameter("hidden.weight")
    selection = ChannelSelection({"second": (0, 3)}, values={"hidden.weight": torch.ones_like(weight)})
    smaller, masked = cut(it.model, it.example, selection), mask_channels(it.model, it.groups, selection)
    assert smaller.hidden.weight.shape == (14, 2 * 9)
    assert smaller.hidden.weight.unique().tolist() == [1]
    with torch.no_grad():
        torch.testing.assert_close(smaller(it.example), masked(it.example))


def test_frozen_parameters_and_channels_last_stay_so():
    it = subject("Chain")
    model = cut(it.model, it.example, ChannelSelection({})).to(memory_format=torch.channels_last)
    model.second.weight.requires_grad_(False)
    smaller = cut(model, it.example, ChannelSelection({"first.0": (0, 1, 5), "second": (2, 3)}))
    assert not smaller.second.weight.requires_grad
    assert smaller.first[0].weight.requires_grad
    assert smaller.second.weight.shape == (2, 3, 3, 3)
    assert smaller.second.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuts_on_a_cuda_device():
    it = subject("Residual")
    selection = select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=0.5)
    smaller = cut(it.model, it.example, selection)
    model = cut(it.model, it.example, ChannelSelection({})).cuda()
    on_device = cut(model, it.example.cuda(), selection)
    assert next(on_device.parameters()).is_cuda
    with torch.no_grad():
        torch.testing.assert_close(on_device(it.example.cuda()).cpu(), smaller(it.example), rtol=1e-3, atol=1e-3)
