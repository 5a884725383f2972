"""BAR: the gate, the budget function, volumes, and what the training does to them."""

import copy
import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F
from weight_tasks import decide, step_of, task_of

from orchestrator.methods import METHODS
from orchestrator.methods.learned.bar.activation_volume import budget_factor, progress, unit_areas
from orchestrator.methods.learned.bar.method import BAR, stretched
from orchestrator.methods.parts.target_counts import NoBudget
from orchestrator.surgery.selection import ChannelSelection
from orchestrator.testing.networks import network
from orchestrator.training.loop import Batch

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [(torch.rand(8, 3, 8, 8, generator=GENERATOR), torch.arange(8) % 4) for _ in range(2)]


def test_the_budget_function_by_hand() -> None:
    volumes = torch.tensor([0.0, 10.0, 15.0, 19.0, 20.0, 30.0])
    # r = 0, 0, 1/2, 9/10, at and above the budget
    assert budget_factor(volumes, 10.0, 20.0).tolist() == pytest.approx([0, 0, 0.5, 8.1, 1e10, 1e10], rel=1e-4)


def test_progress_goes_from_start_to_end_along_a_sigmoid() -> None:
    assert progress(0) == 0
    assert progress(0.5) == pytest.approx(0.5)
    assert progress(1) == progress(2) == pytest.approx(1)
    edge = 1 / (1 + math.exp(5))
    assert progress(0.25) == pytest.approx((1 / (1 + math.exp(2.5)) - edge) / (1 - 2 * edge))


def test_areas_are_positions_of_all_maps_of_a_unit() -> None:
    example = torch.zeros(1, 3, 8, 8)
    model = network("chain")
    # conv1 8 x 8, conv2 4 x 4 behind a pooling, one position for a neuron
    assert unit_areas(model, task_of(model, BATCHES, quantity="macs").groups, example).tolist() == (
        [64.0] * 12 + [16.0] * 16 + [1.0] * 20
    )
    model = network("depthwise")
    # stem and projection share their channels, expansion and depthwise convolution theirs
    groups = task_of(model, BATCHES, quantity="macs").groups
    assert set(unit_areas(model, groups, example).tolist()) == {128.0}


def test_the_hard_concrete_gate() -> None:
    """P(z > 0) = sigmoid(alpha - beta log(-gamma / zeta)) and P(z = 1) follow from the distribution of u."""
    model = network("chain")
    method = BAR()
    method.prepare(model, task_of(model, BATCHES, quantity="macs", sparsity=0.5))
    alpha = torch.full((100_000,), 0.3)
    drawn = method._gate(alpha, True)
    alive = 1 / (1 + math.exp(-(0.3 - 0.667 * math.log(0.1 / 1.1))))
    whole = 1 / (1 + math.exp(-(0.3 - 0.667 * math.log(1.1 / 0.1))))
    assert float((drawn > 0).float().mean()) == pytest.approx(alive, abs=0.005)
    assert float((drawn == 1).float().mean()) == pytest.approx(whole, abs=0.005)
    assert float(method._gate(alpha, False)[0]) == pytest.approx(1.2 / (1 + math.exp(-0.3)) - 0.1)
    assert stretched(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-0.1, 1.1])


def test_the_loss_is_distillation_and_weighted_aliveness() -> None:
    model = network("chain")
    teacher = copy.deepcopy(model)
    task = dataclasses.replace(
        task_of(model, BATCHES, quantity="macs", sparsity=0.5), dense=lambda: copy.deepcopy(teacher)
    )
    method = BAR(penalty_weight=0.0)
    method.prepare(model, task)
    inputs, targets = BATCHES[0]
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    penalty = method.penalty(model, Batch(inputs, targets, logits))
    p, q = (F.softmax(x / 4, 1) for x in (teacher.eval()(inputs), logits))
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.9 * 16 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4)
    method.penalty_weight = 0.8
    weighed = method.penalty(model, Batch(inputs, targets, logits))
    assert weighed is not None
    areas = torch.tensor([64.0] * 12 + [16.0] * 16 + [1.0] * 20)
    alive = (areas * torch.sigmoid(method._gates.values - 0.667 * math.log(1 / 11))).sum().item()
    r = (areas.sum().item() - method._bounds()[0]) / (1.01 * areas.sum().item() - method._bounds()[0])
    assert (weighed - penalty).item() == pytest.approx(0.8 / 8 * r * r / (1 - r) * alive, rel=1e-2)


def test_the_budget_is_the_volume_of_the_evenly_pruned_network() -> None:
    model = network("chain")
    method = BAR()
    method.prepare(model, task_of(model, BATCHES, quantity="macs", kept={"conv1": 6, "conv2": 8, "fc1": 10}))
    assert method._budget == pytest.approx(method._whole / 2)
    task = task_of(network("chain"), BATCHES, quantity="macs")
    method = BAR(volume=0.3)
    method.prepare(network("chain"), task)
    assert method._budget == pytest.approx(0.3 * method._whole)
    with pytest.raises(NoBudget, match=r"target\.sparsity"):
        BAR().prepare(network("chain"), task)


def test_the_volume_is_brought_to_the_budget_and_held() -> None:
    steps = 300
    model = network("residual")
    teacher = copy.deepcopy(model)
    method = BAR(volume=0.5)
    task = dataclasses.replace(task_of(model, BATCHES, steps=steps, quantity="macs"), dense=lambda: teacher)
    method.prepare(model, task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        step_of(model, method, optimizer, BATCHES[step % 2], task)
    assert 0.3 < float(method.volume_now()) / method._whole <= 0.5
    model.eval()
    before = model(BATCHES[0][0])
    selection = decide(method, model, task)
    assert isinstance(selection, ChannelSelection)
    kept = sum(int((score > 0).sum()) for score in method.scores(model, task).values())
    assert sum(len(units) for units in selection.kept.values()) == kept
    method.finish(model)
    torch.testing.assert_close(model(BATCHES[0][0]), before, atol=1e-5, rtol=1e-4)


def test_gradients_are_clipped_to_5() -> None:
    """Those of the weights by the loop, those of the gates by the method: Adam's moments tell what it was given."""
    assert METHODS.describe("bar").attributes["gradient_clip"] == BAR.gradient_clip == 5
    model = network("chain")
    method = BAR()
    method.prepare(model, task_of(model, BATCHES, quantity="macs", sparsity=0.5))
    (1e6 * method._gates.values.sum()).backward()
    method.after_step(model)
    (state,) = method._optimizer.state.values()
    assert float(state["exp_avg"].norm()) == pytest.approx(0.1 * 5, rel=1e-4)
