"""DCP: norms of gradients, auxiliary losses, and channels added one by one."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import decide, task_of

from orchestrator.methods.learned.dcp.auxiliary_losses import AuxiliaryLosses, head_positions, head_weights
from orchestrator.methods.learned.dcp.consumers import Consumers
from orchestrator.methods.learned.dcp.method import DCP, converged
from orchestrator.testing.networks import network
from orchestrator.training.loop import Batch

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [(torch.rand(8, 3, 8, 8, generator=GENERATOR), torch.arange(8) % 4) for _ in range(2)]


class Reading(nn.Module):
    """A convolution that makes three channels and one of size 1 that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 3, 1, bias=False)
        self.read = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.make.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.read.weight.copy_(torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]).view(2, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.make(images)).mean((2, 3))


X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0]]).view(2, 3, 1, 1)


def consumers_of(model: Reading) -> Consumers:
    (group,) = task_of(model, [(X, torch.tensor([0, 1]))], quantity="macs").groups
    return Consumers(model, group)


def half_distance(model: Reading) -> Tensor:
    return F.mse_loss(model(X), torch.tensor([[2.0, 1.0], [1.0, 2.0]])) / 2


def test_the_channel_with_the_largest_gradient_is_not_the_one_with_the_largest_weights() -> None:
    model = Reading()
    consumers = consumers_of(model)
    assert not model.read.weight.any()
    gradients, loss = consumers.gradient([lambda: half_distance(model)])
    assert loss == pytest.approx(10 / 8)
    expected = torch.tensor([[-0.5, -0.25, -1.5], [-0.25, -0.5, -1.5]])
    torch.testing.assert_close(gradients[0].flatten(1), expected)
    assert consumers.norms(gradients, "paper").tolist() == pytest.approx([0.559, 0.559, 2.121], abs=1e-3)
    assert consumers.norms(gradients, "code").tolist() == pytest.approx([0.75, 0.75, 3.0])


def test_kernel_norms_and_frobenius_norms_can_disagree() -> None:
    consumers = consumers_of(Reading())
    gradient = torch.tensor([[3.0, 2.0, 0.0], [0.0, 2.0, 0.0]]).view(2, 3, 1, 1)
    assert consumers.norms([gradient], "paper").tolist() == pytest.approx([3, 8**0.5, 0])
    assert consumers.norms([gradient], "code").tolist() == pytest.approx([3, 4, 0])


def test_with_all_channels_back_nothing_is_lost() -> None:
    model = Reading()
    consumers = consumers_of(model)
    consumers.add(torch.tensor([2]))
    assert model.read.weight.flatten(1).tolist() == [[0, 0, 0.5], [0, 0, 0.5]]
    consumers.add(torch.tensor([0, 1]))
    assert half_distance(model).item() == 0


def test_only_weights_of_chosen_channels_are_trained() -> None:
    model = Reading()
    consumers = consumers_of(model)
    consumers.add(torch.tensor([2]))
    before = half_distance(model).item()
    consumers.train([lambda: half_distance(model)] * 3, lr=0.1, momentum=0.9, decay=1e-4)
    assert half_distance(model).item() < before
    assert not model.read.weight[:, :2].any()


def test_a_reader_of_two_groups_keeps_the_other_groups_weights() -> None:
    model = network("concatenating")
    groups = task_of(model, BATCHES, quantity="macs").groups
    left = next(group for group in groups if group.name == "left")
    before = model.reader.weight.detach().clone()
    Consumers(model, left)
    assert not model.reader.weight[:, :10].any()
    assert torch.equal(model.reader.weight[:, 10:], before[:, 10:])


def test_auxiliary_losses_weigh_by_the_square_of_their_depth() -> None:
    assert head_weights([15, 29, 43]) == pytest.approx([0.1217, 0.4548, 1], abs=1e-4)
    assert head_weights([1, 43]) == [0.01, 1]
    assert head_positions(55, 3) == [14, 28, 42]
    assert head_positions(2, 3) == [1]
    assert head_positions(9, 0) == []


def test_the_adaptive_rule_stops_when_the_loss_falls_no_more() -> None:
    assert not converged([1.0], 1e-3)
    assert not converged([1.0, 0.5], 1e-3)
    assert converged([1.0, 0.5, 0.4995], 1e-3)


def test_a_layer_is_judged_by_the_next_auxiliary_loss_behind_it() -> None:
    model = network("residual")
    auxiliary = AuxiliaryLosses(model, torch.zeros(1, 3, 8, 8), heads=1)
    assert auxiliary.sites == ["conv1"]  # of stem, conv1, conv2
    next_head = auxiliary.next_behind(["conv1"])
    assert next_head is not None
    assert next_head[0] == "conv1"
    assert auxiliary.next_behind(["conv1", "fc"]) is None
    logits = model(BATCHES[0][0])
    by_hand = F.cross_entropy(
        auxiliary.heads[0](model.conv1(F.relu(model.norm(model.stem(BATCHES[0][0]))))), BATCHES[0][1]
    )
    loss = auxiliary.weighted(Batch(*BATCHES[0], logits).targets)
    assert loss is not None
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4)
    auxiliary.detach()


def test_useful_channels_are_added_first_and_their_trained_weights_stay() -> None:
    """Three channels carry the image, the other three nothing: no gradient reaches what reads them."""
    model = network("chain")
    with torch.no_grad():
        model.norm1.weight[6:] = 0
        model.norm1.bias[6:] = -1  # closed by the ReLU
    before = model.conv2.weight.detach().clone()
    task = task_of(model, BATCHES, quantity="macs", kept={"conv1": 6})
    method = DCP(heads=0)
    method.prepare(model, task)
    scores = method.scores(model, task)
    assert sorted(scores["conv1"].argsort(descending=True)[:6].tolist()) == list(range(6))
    assert sorted(scores["conv1"][:6].tolist()) == pytest.approx([2 - k / 12 for k in (5, 4, 3, 2, 1, 0)])
    assert not scores["conv1"][6:].any()
    assert method.keep(scores)["conv1"].tolist() == [True] * 6 + [False] * 6
    assert not torch.equal(model.conv2.weight[:, :6], before[:, :6])
    assert torch.equal(model.conv2.weight[:, 6:], before[:, 6:])
    method.finish(model)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_without_a_sparsity_channels_are_added_until_the_loss_stands_still() -> None:
    model = network("chain")
    task = dataclasses.replace(task_of(model, BATCHES, quantity="macs"))
    kept = {}
    for tolerance in (1e-6, 1e3):
        method = DCP(heads=0, tolerance=tolerance, channels_per_round=2)
        method.prepare(model, task)
        kept[tolerance] = sum(len(units) for units in decide(method, model, task).kept.values())
        method.finish(model)
    assert kept[1e3] == 2 * len(task.groups)
    assert kept[1e-6] > kept[1e3]


def test_a_round_may_add_several_channels_but_no_more_than_the_target_leaves() -> None:
    model = network("residual")
    task = task_of(model, BATCHES, quantity="macs", kept={"stem": 5, "conv1": 4})
    method = DCP(heads=1, channels_per_round=3, images=4)
    method.prepare(model, task)
    selection = decide(method, model, task)
    assert {name: len(units) for name, units in selection.kept.items()} == {"stem": 5, "conv1": 4}
    method.finish(model)
