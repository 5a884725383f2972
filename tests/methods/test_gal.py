"""GAL: FISTA as in the authors' code, the discriminator's losses, and a student without labels."""

import copy
import dataclasses
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from weight_tasks import decide, step_of, task_of

from orchestrator.methods.learned.gal.fista import fista, momenta
from orchestrator.methods.learned.gal.method import GAL, Discriminator
from orchestrator.testing.networks import network
from orchestrator.training.loop import Batch

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [(torch.rand(8, 3, 8, 8, generator=GENERATOR), torch.arange(8) % 4) for _ in range(2)]


def updates(start: float, count: int, *, weight: float, rates: list[float], momentum: bool = True) -> list[float]:
    """Gates by FISTA without a gradient from data: the code's gradient holds weight * sign(m)."""
    now, before, a, gates = torch.tensor([start]), torch.tensor([start]), None, []
    for update in range(count):
        factor, a = (0.0, 1.0) if a is None else momenta(a)
        factor = factor if momentum else 0.0
        after = fista(now, before, weight * now.sign(), momentum=factor, rate=rates[update], weight=weight)
        now, before = after, now
        gates.append(float(now))
    return gates


def test_the_first_updates_by_hand() -> None:
    assert updates(1.0, 4, weight=0.5, rates=[0.1] * 4) == pytest.approx([0.9, 0.8, 0.6718, 0.5162], abs=1e-4)


def test_a_negative_gate_closes_and_returns_only_against_more_than_lambda() -> None:
    assert updates(-0.3, 1, weight=0.5, rates=[0.1]) == [0.0]
    zero = torch.zeros(1)
    for gradient, expected in ((-0.4, 0.0), (-0.6, 0.01)):
        moved = fista(zero, zero, torch.tensor([gradient]), momentum=0.0, rate=0.1, weight=0.5)
        assert float(moved) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("weight", "shrink", "without", "zero_at"), [(0.6, 3.73, 0.40, 23), (0.8, 4.97, 0.53, 20)])
def test_a_hundred_updates_shrink_as_far_as_momentum_carries(
    weight: float, shrink: float, without: float, zero_at: int
) -> None:
    rates = [0.01 * 0.1 ** (update // 30) for update in range(100)]
    assert 10 - updates(10.0, 100, weight=weight, rates=rates)[-1] == pytest.approx(shrink, abs=0.01)
    assert 10 - updates(10.0, 100, weight=weight, rates=rates, momentum=False)[-1] == pytest.approx(without, abs=0.01)
    assert updates(1.0, 100, weight=weight, rates=rates).index(0.0) + 1 == zero_at


def test_the_discriminator_passes_two_sigmoids() -> None:
    discriminator = Discriminator(4, torch.Generator().manual_seed(0))
    assert [tuple(layer.weight.shape) for layer in discriminator.layers] == [
        (b, a) for a, b in pairwise((4, 128, 256, 128, 1))
    ]
    for parameter in discriminator.parameters():
        torch.nn.init.zeros_(parameter)
    assert discriminator(torch.ones(1, 4)).item() == 0.5
    assert discriminator.loss(torch.ones(3, 4), torch.zeros(3, 4)).item() == pytest.approx(1.9223, abs=1e-4)


def test_the_student_is_trained_without_labels_and_without_the_discriminator() -> None:
    model = network("chain")
    teacher = copy.deepcopy(model)
    task = dataclasses.replace(task_of(model, BATCHES, quantity="macs"), dense=lambda: copy.deepcopy(teacher))
    method = GAL(penalty_weight=0.2, mu=0.7)
    assert method.task_loss_weight == 0
    method.prepare(model, task)
    inputs, targets = BATCHES[0]
    logits = torch.randn(8, 4, generator=GENERATOR).requires_grad_()
    penalty = method.penalty(model, Batch(inputs, targets, logits))
    assert penalty is not None
    fooled = F.binary_cross_entropy_with_logits(method._discriminator(logits), torch.ones(8, 1))
    expected = 0.7 * (logits - teacher.eval()(inputs)).square().mean() + fooled
    expected = expected + 0.2 * method._gates.values.abs().sum()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    before = [parameter.clone() for parameter in method._discriminator.parameters()]
    method._optimizer.zero_grad()
    penalty.backward()
    assert all(parameter.grad is None for parameter in method._discriminator.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, method._discriminator.parameters(), strict=True))
    torch.testing.assert_close(
        method._gates.values.grad, 0.2 * method._gates.values.detach().sign(), atol=1e-6, rtol=1e-5
    )


def test_gates_move_every_interval_and_those_above_zero_stay() -> None:
    model = network("residual")
    teacher = copy.deepcopy(model)
    task = dataclasses.replace(task_of(model, BATCHES, steps=9, quantity="macs"), dense=lambda: teacher)
    method = GAL(fista_interval=3)
    method.prepare(model, task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    moved = []
    for step in range(6):
        before = method._gates.values.detach().clone()
        step_of(model, method, optimizer, BATCHES[step % 2], task)
        moved.append(not torch.equal(before, method._gates.values))
    assert moved == [False, False, True, False, False, True]
    scores = method.scores(model, task)
    closed = sum(int((score == 0).sum()) for score in scores.values())
    assert closed > 0  # those that started below 0
    selection = decide(method, model, task)
    for name, kept in selection.kept.items():
        assert list(kept) == (scores[name] > 0).nonzero().flatten().tolist()
    model.eval()
    before = model(BATCHES[0][0])
    method.finish(model)
    torch.testing.assert_close(model(BATCHES[0][0]), before, atol=1e-5, rtol=1e-4)


def test_the_private_rate_falls_after_30_60_and_90_percent() -> None:
    method = GAL()
    method._steps = 100
    rates = []
    for method._step in (0, 29, 30, 59, 60, 89, 90, 99):
        rates.append(method._rate())
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
