"""HRank: the rank of feature maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from weight_tasks import decide, task_of

from orchestrator.methods.base import PruneTask
from orchestrator.methods.one_shot.hrank import HRank, map_ranks
from orchestrator.surgery.selection import ChannelSelection

torch.set_num_threads(1)


def of_rank(rank: int, size: int, generator: torch.Generator) -> Tensor:
    """A map of known rank that a ReLU leaves alone."""
    matrix = torch.zeros(size, size)
    matrix[:rank, :rank] = torch.eye(rank)
    return matrix * (1 + torch.rand(size, 1, generator=generator))


def task(model: nn.Module, batches: list[tuple[Tensor, Tensor]], **target: object) -> PruneTask:
    return task_of(model, batches, size=4, **{"quantity": "channels", **target})


def passing_on(channels: int) -> nn.Sequential:
    """A layer that makes its input channels its feature maps."""
    model = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU(), nn.Conv2d(channels, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(channels).view(channels, channels, 1, 1))
    return model


def test_the_score_is_the_mean_rank_over_images() -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = torch.tensor([[1, 4, 6], [3, 2, 6], [2, 0, 5], [0, 0, 0]])
    images = torch.stack([torch.stack([of_rank(r, 6, generator) for r in row.tolist()]) for row in ranks])
    batches = [(images[:2], torch.zeros(2)), (images[2:], torch.zeros(2))]
    model = passing_on(3)
    job = task(model, batches, kept={"0": 2})
    assert HRank().scores(model, job)["0"].tolist() == [1.5, 1.5, 4.25]
    assert HRank(images=3).scores(model, job)["0"].tolist() == pytest.approx([2.0, 2.0, (6 + 6 + 5) / 3])
    selection = decide(HRank(images=2), model, job)  # means 2, 3, 6
    assert isinstance(selection, ChannelSelection)
    assert selection.kept["0"] == (1, 2)
    assert not model[0]._forward_hooks
    assert model.training


def test_the_rank_is_that_after_relu() -> None:
    column, row = torch.tensor([1.0, -1, 2]), torch.tensor([1.0, -2, -1])
    product = torch.outer(column, row)  # rank 1, and 2 without its negative values
    maps = torch.stack([product, -torch.ones(3, 3), torch.eye(3)])[None]
    assert torch.linalg.matrix_rank(product) == 1
    assert map_ranks(maps).tolist() == [[2.0, 0.0, 3.0]]
    assert map_ranks(torch.tensor([[0.5, -1.0]])).tolist() == [[1.0, 0.0]]


def test_the_map_is_that_behind_batch_norm() -> None:
    images = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.0, 0.0]))
        model[1].bias.copy_(torch.tensor([1.0, -1.0]))
    assert HRank().scores(model, task(model, [(images, torch.zeros(2))], kept={"0": 1}))["0"].tolist() == [1.0, 0.0]
