"""The analytic size equals that of the network when it is really cut."""

from __future__ import annotations

import time

import pytest
import torch
from surgery_nets import LARGE, TINY, subject
from torch import nn

from orchestrator.metrics.macs import count_macs
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.selection import ChannelSelection, select_channels


@pytest.mark.parametrize("name", [*TINY, *LARGE])
def test_costs_are_exact_for_random_kept_sets(name):
    it = subject(name)
    generator = torch.Generator().manual_seed(7)
    for _ in range(3 if name in TINY else 1):
        kept = {
            g.name: tuple(
                torch.randperm(g.size, generator=generator)[: torch.randint(1, g.size + 1, ()).item()].tolist()
            )
            for g in it.groups
        }
        smaller = cut(it.model, it.example, ChannelSelection(kept))
        counts = {name: len(units) for name, units in kept.items()}
        assert it.costs.params(counts) == sum(p.numel() for p in smaller.parameters())
        assert it.costs.macs(counts) == count_macs(smaller, it.example)
        layers = {id(m): m for m in smaller.modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)}
        weights = sum(m.weight.numel() for m in layers.values())
        assert it.costs.measure("weights", it.costs.counts(counts)) == weights
    assert it.costs.dense("params") == sum(p.numel() for p in it.model.parameters())
    assert it.costs.dense("macs") == count_macs(it.model, it.example)


def test_channels_count_filters_and_neurons():
    it = subject("Chain")
    assert it.costs.dense("channels") == 12 + 10 + 14
    assert it.costs.channels({"first.0": 2}) == 2 + 10 + 14


def test_selecting_among_thousands_of_channels_takes_well_under_a_second():
    it = subject("densenet121")
    started = time.perf_counter()
    for scope in ("global", "uniform"):
        select_channels(it.scores(), it.groups, it.costs, quantity="macs", sparsity=0.5, scope=scope)
    assert time.perf_counter() - started < 1


# Paper 000, table 4: filters of VGG-16's convolutions on CIFAR-10, and how many of them go at Pr 0.5 (A) and 1 (B).
FILTERS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
REMOVED_A = (19, 3, 8, 17, 21, 18, 36, 146, 313, 223, 398, 395, 218)
REMOVED_B = (36, 19, 38, 26, 64, 64, 77, 329, 424, 438, 483, 432, 384)


@pytest.mark.parametrize(("removed", "share"), [(REMOVED_A, 0.410), (REMOVED_B, 0.669)])
def test_vgg16_of_paper_000_loses_the_multiply_adds_it_must(removed, share):
    layers: list[nn.Module] = []
    channels = 3
    for i, filters in enumerate(FILTERS):
        layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
        if i in (1, 3, 6, 9, 12):
            layers.append(nn.MaxPool2d(2))
        channels = filters
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
    example = torch.rand(1, 3, 32, 32)
    groups = channel_groups(model, example)
    costs = Costs(model, example, groups)
    kept = [filters - gone for filters, gone in zip(FILTERS, removed, strict=True)]
    scores = {g.name: torch.arange(g.size) for g in groups}
    selection = select_channels(scores, groups, costs, quantity="macs", kept=kept)
    smaller = cut(model, example, selection)
    assert [m.out_channels for m in smaller if isinstance(m, nn.Conv2d)] == kept
    dense_convs = count_macs(model, example) - 512 * 10
    convs = count_macs(smaller, example) - kept[-1] * 10
    assert 1 - convs / dense_convs == pytest.approx(share, abs=0.0005)
    assert selection.kept[groups[0].name] == tuple(range(removed[0], 64))
