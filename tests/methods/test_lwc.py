"""LWC's threshold by hand."""

import torch
from torch import nn
from weight_tasks import decide, task_of

from orchestrator.methods.one_shot.lwc import LearningWeightsAndConnections
from orchestrator.surgery.selection import WeightSelection

BATCHES = [(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))]


def two_layers() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -1.0, 1.0, -3.0]]))  # std sqrt(5) = 2.236
        model[1].weight.copy_(torch.tensor([[0.1], [0.3]]))  # mean 0.2, std 0.1
    return model


def test_the_threshold_is_quality_times_the_standard_deviation() -> None:
    model = two_layers()
    selection = decide(LearningWeightsAndConnections(quality=1.2), model, task_of(model, BATCHES, sparsity=None))
    assert isinstance(selection, WeightSelection)
    # Thresholds 2.683 and 0.12.
    assert selection.masks["0.weight"].flatten().tolist() == [True, False, False, True]
    assert selection.masks["1.weight"].flatten().tolist() == [False, True]
    assert selection.achieved == 0.5


def test_a_sparsity_finds_one_quality_for_all_layers() -> None:
    model = two_layers()
    selection = decide(LearningWeightsAndConnections(), model, task_of(model, BATCHES, sparsity=0.5))
    assert isinstance(selection, WeightSelection)
    # |w| / std: 1.34, 0.45, 0.45, 1.34 and 1, 3; magnitude would take 0.1 and 0.3 first.
    assert selection.masks["0.weight"].flatten().tolist() == [True, False, False, True]
    assert selection.masks["1.weight"].flatten().tolist() == [False, True]


def test_weights_that_have_gone_count_no_more() -> None:
    model = two_layers()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 2.0, 4.0, 0.0]]))  # of 2 and 4: std 1
    scores = LearningWeightsAndConnections().scores(model, task_of(model, BATCHES))
    torch.testing.assert_close(scores["0.weight"], torch.tensor([[0.0, 2.0, 4.0, 0.0]]))
