"""MaskConvNet: masks, multipliers, and a controller that holds the budget."""

import math

import pytest
import torch
from torch import nn
from weight_tasks import decide, task_of

from orchestrator.methods.learned.mask_convnet.method import MaskConvNet, hard_sigmoid, second_term
from orchestrator.methods.parts.target_counts import target_counts
from orchestrator.spec.trial import Baseline
from orchestrator.surgery.selection import ChannelSelection
from orchestrator.testing.networks import images, network
from orchestrator.training.loop import Batch, Recipe, train
from orchestrator.training.schedule import dense_schedule

BATCHES = [(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4))]


def prepared(model: nn.Module, steps: int = 10, target: dict[str, object] | None = None, **fields: object):  # type: ignore[no-untyped-def]
    method = MaskConvNet(**{"warm_up": 0.0, **fields})  # type: ignore[arg-type]
    task = task_of(model, BATCHES, steps=steps, **(target or {"quantity": "macs", "sparsity": 0.5}))
    method.prepare(model, task)
    method._push = method.scale  # as in a network of 5504 masks, trained for 6000 steps
    return method, task, method._gates.values


def penalty(model: nn.Module, method: MaskConvNet) -> torch.Tensor | None:
    return method.penalty(model, Batch(*BATCHES[0], torch.zeros(4, 4)))


def test_masks_start_inside_the_live_range() -> None:
    assert hard_sigmoid(torch.tensor([-3.0, -2.5, 0.0, 2.4, 2.5, 9.0])).tolist() == pytest.approx(
        [0, 0, 0.5, 0.98, 1, 1]
    )
    v = torch.tensor(2.4, requires_grad=True)
    hard_sigmoid(v).backward()
    assert float(v.grad) == pytest.approx(0.2)  # type: ignore[arg-type]


def test_second_terms_by_hand() -> None:
    v = torch.tensor([-2.5, 0.0, 2.5, 2.5])  # masks 0, .5, 1, 1: mean .625
    variance = (0.625**2 + 0.125**2 + 2 * 0.375**2) / 4
    assert float(second_term(v, "variance", met=False)) == pytest.approx(-variance)
    assert float(second_term(v, "variance", met=True)) == pytest.approx(-2.25 / 4)
    for met in (False, True):
        assert float(second_term(v, "squares", met=met)) == pytest.approx(3 * 6.25 / 4)
        assert float(second_term(v, "bernoulli", met=met)) == pytest.approx(0.25 / 4)


def test_masks_part_until_the_budget_is_met_and_rise_afterwards() -> None:
    """The push on a mask is lambda_v * 2 (m - c) * 0.2 / N, away from c: the mean of the masks, then 0."""
    model = network("chain")
    method, _, v = prepared(model, base_lambda_m=0.0, base_lambda_v=3.0, scale=1.0)
    with torch.no_grad():
        v.copy_(torch.linspace(-2.0, 2.0, len(v)))
    m = hard_sigmoid(v).detach()
    (parting,) = torch.autograd.grad(penalty(model, method), v)  # type: ignore[arg-type]
    torch.testing.assert_close(parting, -3.0 * 2 * (m - m.mean()) * 0.2 / len(v))
    method, _, v = prepared(
        network("chain"), target={"quantity": "macs", "sparsity": 0.01}, base_lambda_m=0.0, base_lambda_v=3.0, scale=1.0
    )
    with torch.no_grad():
        v.copy_(torch.linspace(-2.6, 2.0, len(v)))  # one mask is 0, which is more than the budget
    m = hard_sigmoid(v).detach()
    (rising,) = torch.autograd.grad(penalty(model, method), v)  # type: ignore[arg-type]
    torch.testing.assert_close(rising, -3.0 * 2 * m * 0.2 / len(v))


def test_the_multiplier_is_the_gap_to_the_target() -> None:
    """One group's masks are zero; sparsity is counted from the networks that would be left."""
    model = network("chain")
    method, task, v = prepared(model, base_lambda_m=2.0, base_lambda_v=0.0, scale=1.0)
    with torch.no_grad():
        v[:6] = -3.0  # half of conv1
    gone = 1 - task.costs.macs({"conv1": 6}) / task.costs.dense("macs")
    assert method.sparsity("macs") == pytest.approx(gone)
    value = penalty(model, method)
    assert value is not None
    assert value.item() == pytest.approx(2 * 2 * (0.5 - gone) / 0.5 * hard_sigmoid(v).mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, v)
    assert not gradient[:6].any()
    assert gradient[6:].tolist() == pytest.approx([2 * 2 * (0.5 - gone) / 0.5 * 0.2 / len(v)] * (len(v) - 6), rel=1e-4)
    with torch.no_grad():
        v.fill_(-3.0)
    assert penalty(model, method) is None  # the budget is met: nothing pushes any more


def test_both_metrics_add_up_with_gaps_of_their_own() -> None:
    model = network("chain")
    method, _, v = prepared(
        model, metric="both", base_lambda_m=2.0, base_lambda_v=0.0, base_lambda_m_macs=3.0, scale=1.0
    )
    with torch.no_grad():
        v[:4] = -3.0
    gaps = [min(1.0, max(0.0, 2 * (0.5 - method.sparsity(quantity)) / 0.5)) for quantity in ("params", "macs")]
    assert gaps[0] != gaps[1]
    expected = (2 * gaps[0] + 3 * gaps[1]) * hard_sigmoid(v).mean().item()
    assert penalty(model, method).item() == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


def test_the_push_on_a_mask_depends_on_neither_width_nor_length() -> None:
    """What an unopposed mask travels: rate * steps * push / masks * 0.2 lambda_m."""
    for kind, steps in (("chain", 60), ("chain", 6000), ("depthwise", 60000)):
        model = network(kind)
        method = MaskConvNet()
        method.prepare(model, task_of(model, BATCHES, steps=steps, quantity="macs", sparsity=0.5))
        rate = method._optimizer.param_groups[0]["lr"]
        travel = rate * steps * method._push / len(method._gates.values) * 0.2 * method.base_lambda_m
        assert travel == pytest.approx(6000 * 100 / 5504 * 0.2 * 3)
        assert 1.4 <= method._gates.values.min() <= method._gates.values.max() <= 2.4


def test_nothing_is_pushed_during_warm_up() -> None:
    model = network("chain")
    method, _, _ = prepared(model, steps=8, warm_up=0.25)
    pushed = []
    for _ in range(4):
        pushed.append(penalty(model, method) is not None)
        method.after_step(model)
    assert pushed == [False, False, True, True]


def trained(kind: str, epochs: int, **target: object) -> tuple[MaskConvNet, nn.Module, object]:
    model = network(kind)
    task = task_of(model, BATCHES, steps=6 * epochs, **target)
    method = MaskConvNet()
    method.prepare(model, task)
    recipe = Recipe(dense_schedule(Baseline(epochs=epochs, lr=0.05, batch_size=16), 6), 16, 1e-4)
    generator = torch.Generator().manual_seed(0)
    train(
        model, images(), recipe, stage="s", generator=generator, report=lambda row, epochs: None, hook=method
    )  # fmt: skip
    return method, model, task


@pytest.mark.parametrize("kind", ["chain", "residual"])
def test_the_controller_reaches_the_budget_and_holds_it(kind: str) -> None:
    method, model, task = trained(kind, 30, quantity="macs", sparsity=0.5)
    assert abs(method.sparsity("macs") - 0.5) < 0.1
    model.eval()
    outputs = model(BATCHES[0][0])
    selection = decide(method, model, task)  # type: ignore[arg-type]
    method.finish(model)
    torch.testing.assert_close(model(BATCHES[0][0]), outputs, atol=1e-5, rtol=1e-4)
    assert isinstance(selection, ChannelSelection)
    assert selection.requested == 0.5


def test_without_a_sparsity_the_budget_is_aimed_at_and_the_open_masks_stay() -> None:
    method, model, task = trained("chain", 30, quantity="macs")
    sparsity = method.sparsity("macs")
    assert abs(sparsity - method.budget) < 0.1
    selection = decide(method, model, task)  # type: ignore[arg-type]
    assert selection.achieved == pytest.approx(sparsity)


def test_the_size_of_stated_counts_is_the_goal() -> None:
    model = network("chain")
    method, task, _ = prepared(model, target={"quantity": "macs", "kept": {"conv1": 6, "conv2": 4}})
    assert target_counts(task).tolist() == [6, 4, 20]
    assert method._controller.goals["macs"] == pytest.approx(
        1 - task.costs.macs({"conv1": 6, "conv2": 4}) / task.costs.dense("macs")
    )
    assert not math.isnan(method._controller.goals["macs"])
