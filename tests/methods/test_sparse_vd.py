"""Sparse variational dropout: the noise, its divergence from the prior, what goes."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from weight_tasks import decide, task_of

from orchestrator.methods.learned.sparse_vd.method import SparseVariationalDropout
from orchestrator.methods.learned.sparse_vd.noisy_layer import divergence
from orchestrator.training.loop import Batch

INPUT = [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))]
BATCH = Batch(*INPUT[0], torch.zeros(1, 1))


def prepared(method: SparseVariationalDropout, log_variances: list[float]) -> nn.Linear:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.25]]))
    method.prepare(layer, task_of(layer, INPUT, size=50, steps=200))
    with torch.no_grad():
        method._noisy[0].log_variance.copy_(torch.tensor([log_variances]))
    return layer


def test_divergence_has_the_values_of_the_notes() -> None:
    log_alpha = torch.tensor([-8.0, -5.0, 0.0, 3.0, 8.0])
    expected = torch.tensor([4.6359, 3.1367, 0.43124, 0.02542, 0.00017])
    torch.testing.assert_close(divergence(log_alpha), expected, atol=5e-5, rtol=0)
    at = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(divergence(at), at)
    assert float(slope) == pytest.approx(-0.359, abs=5e-4)


def test_the_noise_has_the_variance_of_the_weights() -> None:
    method = SparseVariationalDropout()
    layer = prepared(method, [-10.0, -2.0])
    (noisy,) = method._noisy
    expected = [[-8.0, -2 - math.log(0.0625)]]
    torch.testing.assert_close(noisy.log_alpha().detach(), torch.tensor(expected), atol=1e-5, rtol=0)
    assert float(noisy.variance(INPUT[0][0])) == pytest.approx(0.541425, abs=1e-6)
    drawn = layer.train()(INPUT[0][0].expand(100_000, 2)).detach()
    assert abs(float(drawn.mean())) < 0.01
    assert float(drawn.var()) == pytest.approx(0.5414, rel=0.02)
    assert layer.eval()(INPUT[0][0]).tolist() == [[0.0]]


def test_noise_in_grouped_convolutions() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    images = [(torch.randn(2, 4, 5, 5), torch.tensor([0, 1]))]
    method = SparseVariationalDropout(start=-1.0)
    method.prepare(layer, task_of(layer, images))
    (noisy,) = method._noisy
    spread = noisy.log_alpha().exp() * layer.weight.square()
    expected = F.conv2d(images[0][0].square(), spread, padding=1, groups=4)
    torch.testing.assert_close(noisy.variance(images[0][0]), expected)
    assert not torch.equal(layer(images[0][0]), layer(images[0][0]))
    method.finish(layer)
    assert torch.equal(layer(images[0][0]), layer(images[0][0]))


def test_the_penalty_warms_up_to_the_mean_divergence() -> None:
    """rw is 0 until step 5 of 200, 1 from step 20: rw / N times the sum of KL."""
    method = SparseVariationalDropout()
    layer = prepared(method, [-10.0, -2.0])
    whole = float(divergence(torch.tensor([-8.0, -2 - math.log(0.0625)])).sum()) / 50
    penalties = []
    for step in (4, 5, 11, 20, 150):
        method._step = step
        penalty = method.penalty(layer, BATCH)
        penalties.append(0.0 if penalty is None else float(penalty.detach()))
    assert penalties == pytest.approx([0.0, 0.0, 0.4 * whole, whole, whole], rel=1e-4)


def test_log_variances_rise_where_nothing_holds_them() -> None:
    method = SparseVariationalDropout(lr=0.1, warmup_from=0.0, warmup_to=0.0)
    layer = prepared(method, [-2.0, -2.0])
    before = method._noisy[0].log_variance.detach().clone()
    penalty = method.penalty(layer, BATCH)
    assert penalty is not None
    penalty.backward()
    method.after_step(layer)
    torch.testing.assert_close(method._noisy[0].log_variance.detach(), before + 0.1)  # Adam's first step


def test_noisy_weights_go() -> None:
    method = SparseVariationalDropout()
    layer = prepared(method, [-10.0, 0.5])  # log alpha -8 and 3.27
    task = task_of(layer, INPUT)
    assert layer.eval()(INPUT[0][0]).tolist() == [[0.5]]
    assert layer(INPUT[0][0]).tolist() == [[0.5]]
    selection = decide(method, layer, task)
    assert selection.masks["weight"].tolist() == [[True, False]]  # type: ignore[union-attr]
    method.finish(layer)
    assert layer.weight.tolist() == [[0.5, -0.25]]


def test_clipped_means_are_left_out_in_training_too() -> None:
    means = []
    for clip in (False, True):
        method = SparseVariationalDropout(train_clip=clip)
        layer = prepared(method, [-10.0, 0.5]).train()
        drawn = layer(INPUT[0][0].expand(100_000, 2)).detach()
        means.append(float(drawn.mean()))
    assert means == pytest.approx([0.0, 0.5], abs=0.05)
