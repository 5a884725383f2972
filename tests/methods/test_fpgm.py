"""FPGM: which filters, and that they stay at zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import decide

from orchestrator.methods.base import PruneTask
from orchestrator.methods.dynamic.fpgm import FPGM, distance_sums, units_to_zero
from orchestrator.spec.trial import Target
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.selection import ChannelSelection

torch.set_num_threads(1)
FIVE = torch.tensor([[3.0, 0.0], [0.0, 3.0], [1.0, 1.0], [2.0, 2.0], [-0.5, 0.0]])


def net(filters: Tensor) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, len(filters), 1), nn.BatchNorm2d(len(filters)), nn.ReLU(), nn.Conv2d(len(filters), 3, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.copy_(filters.view(-1, 2, 1, 1))
    return model


def task(model: nn.Module, **target: object) -> PruneTask:
    example = torch.zeros(1, 2, 4, 4)
    groups = channel_groups(model, example)
    return PruneTask(
        target=Target(**{"quantity": "channels", **target}),
        groups=groups,
        costs=Costs(model, example, groups),
        calibration=list,
        loss=F.cross_entropy,
        training_size=8,
        generator=torch.Generator().manual_seed(0),
        example=example,
        training=lambda: iter(()),
        validation=lambda: iter(()),
        held_out=lambda: iter(()),
        dense=lambda: model,
    )


def test_distances_to_all_others() -> None:
    model = net(FIVE)
    (group,) = task(model, sparsity=0.4).groups
    expected = torch.tensor([12.215, 11.756, 7.689, 9.088, 11.546])
    torch.testing.assert_close(distance_sums(model, group), expected, atol=6e-4, rtol=0)


@pytest.mark.parametrize(
    ("count", "norm_share", "gone"),
    [(1, 0.0, [2]), (2, 0.0, [2, 3]), (1, 1.0, [4]), (2, 1.0, [4, 2]), (3, 0.4, [4, 2, 3]), (4, 0.25, [4, 2, 3, 0])],
)
def test_distance_norm_and_mix_choose_different_filters(count: int, norm_share: float, gone: list[int]) -> None:
    model = net(FIVE)
    (group,) = task(model, sparsity=0.4).groups
    assert sorted(units_to_zero(model, group, count, norm_share).tolist()) == sorted(gone)


def test_the_mix_measures_distances_among_the_rest_only() -> None:
    """5 is the middle of all, 9 that of 5, 9 and 10."""
    model = net(torch.tensor([[0.1, 0.0], [-0.1, 0.0], [5.0, 0.0], [9.0, 0.0], [10.0, 0.0]]))
    (group,) = task(model, sparsity=0.4).groups
    assert units_to_zero(model, group, 3, 0.67).tolist() == [0, 1, 3]


def test_a_common_shift_does_not_change_the_choice() -> None:
    filters = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    choices = []
    for shift in (torch.zeros(2), torch.tensor([5.0, -3.0])):
        model = net(filters + shift)
        (group,) = task(model, sparsity=0.4).groups
        choices.append([sorted(units_to_zero(model, group, 6, share).tolist()) for share in (0.0, 1.0)])
    assert choices[0][0] == choices[1][0]
    assert choices[0][1] != choices[1][1]  # the norm's does


@pytest.mark.parametrize(("filters", "removed"), [(16, 6), (256, 102)])
def test_two_fifths_of_a_layer(filters: int, removed: int) -> None:
    model = net(torch.randn(filters, 2, generator=torch.Generator().manual_seed(0)))
    method = FPGM()
    method.prepare(model, task(model, sparsity=0.4))
    assert int((model[0].weight.flatten(1).abs().sum(1) == 0).sum()) == removed


def test_zeroed_filters_stay_zero_and_stay_chosen() -> None:
    model = net(torch.randn(16, 2, generator=torch.Generator().manual_seed(1)))
    job = task(model, sparsity=0.4)
    method = FPGM(norm_share=0.0)
    method.prepare(model, job)
    first = {i for i in range(16) if not model[0].weight[i].any()}
    assert len(first) == 6
    nn.init.constant_(model[1].bias, 0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    for epoch in range(3):
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(images), torch.arange(8) % 3).backward()
            optimizer.step()
            method.after_step(model)
            assert not model[0].weight[sorted(first)].any()
            assert not model[0].bias[sorted(first)].any()
        method.after_epoch(model, epoch)
        assert {i for i in range(16) if not model[0].weight[i].any()} == first
    selection = decide(method, model, job)
    assert isinstance(selection, ChannelSelection)
    assert set(selection.kept["0"]) == set(range(16)) - first
    assert (model[1].bias.detach()[sorted(first)] != 0.2).any()  # shifts go on being trained
    method.finish(model)
    maps = model.eval()[1](model[0](images))[:, sorted(first)]
    assert (maps == maps[:, :, :1, :1]).all()  # what cutting drops is a constant


def test_a_choice_lasts_for_the_interval() -> None:
    model = net(FIVE)
    method = FPGM(norm_share=0.0, interval=2)
    method.prepare(model, task(model, kept={"0": 4}))
    with torch.no_grad():
        model[0].weight[1] = torch.tensor([2.1, 0.5]).view(2, 1, 1)
        model[0].weight[2] = torch.tensor([-4.0, 4.0]).view(2, 1, 1)
    method.after_epoch(model, 0)
    method.after_step(model)
    assert not model[0].weight[2].any()
    with torch.no_grad():
        model[0].weight[2] = torch.tensor([-4.0, 4.0]).view(2, 1, 1)
    method.after_epoch(model, 1)
    assert model[0].weight[2].any()
    assert [i for i in range(5) if not model[0].weight[i].any()] == [1]


def test_the_share_by_norm_is_the_papers_split() -> None:
    """Mix 40 % is 10 % by norm and 30 % by distance."""
    assert FPGM().norm_share == 10 / 40
