"""Soft weight-sharing: the mixture, its hyper-priors, merging, quantising."""

import math

import pytest
import torch
from torch import nn
from weight_tasks import decide, step_of, task_of

from orchestrator.methods.learned.soft_weight_sharing.method import NothingLeft, SoftWeightSharing
from orchestrator.methods.learned.soft_weight_sharing.mixture import (
    Mixture,
    divergence,
    log_joint,
    merge,
    negative_log_likelihood,
)
from orchestrator.training.loop import Batch


def two(deviation: float) -> Mixture:
    return Mixture(torch.tensor([0.0, 0.5]), torch.tensor([deviation**2, 0.01]), torch.tensor([0.99, 0.01]))


WEIGHT = torch.tensor([0.3])


def test_a_weight_near_a_wide_zero_is_pruned() -> None:
    mixture = two(0.25)
    joint = log_joint(WEIGHT, *mixture.parts).exp()[0]
    torch.testing.assert_close(joint, torch.tensor([0.76898, 0.0053991]), atol=1e-5, rtol=0)
    assert float(negative_log_likelihood(WEIGHT, *mixture.parts)) == pytest.approx(0.25570, abs=1e-4)
    assert float(torch.sigmoid(-mixture.log_odds(WEIGHT))) == pytest.approx(0.9930, abs=1e-4)
    assert mixture.quantized(WEIGHT).tolist() == [0.0]


def test_a_weight_far_from_a_narrow_zero_takes_its_cluster_s_mean() -> None:
    mixture = two(0.05)
    assert float(negative_log_likelihood(WEIGHT, *mixture.parts)) == pytest.approx(5.2215, abs=1e-4)
    assert float(torch.sigmoid(mixture.log_odds(WEIGHT))) == pytest.approx(0.99998, abs=1e-5)
    assert mixture.quantized(WEIGHT).tolist() == [0.5]


def test_divergences_of_the_notes() -> None:
    assert divergence(0.0, 0.01, 0.1, 0.01) == pytest.approx(0.5)
    assert divergence(0.0, 0.01, 0.0, 0.04) == pytest.approx(0.3181, abs=1e-4)


@pytest.mark.parametrize(("by", "variance"), [("variance", 0.02), ("precision", 0.013333)])
def test_merging_averages_by_shares(by: str, variance: float) -> None:
    mixture = Mixture(torch.tensor([0.5, 0.8]), torch.tensor([0.01, 0.04]), torch.tensor([0.2, 0.1]))
    merged = merge(mixture, math.inf, by)  # type: ignore[arg-type]
    assert [float(part) for part in merged.parts] == pytest.approx([0.6, variance, 0.3], abs=1e-6)
    assert len(merge(mixture, 1e-10, by).means) == 2  # type: ignore[arg-type]


def test_the_mean_nearest_zero_becomes_zero() -> None:
    mixture = Mixture(torch.tensor([0.01, 0.5, -0.5]), torch.full((3,), 0.01), torch.tensor([0.5, 0.25, 0.25]))
    assert mixture.quantized(torch.tensor([0.05, 0.4, -0.6])).tolist() == [0.0, 0.5, -0.5]


def test_the_start_is_the_tutorial_s() -> None:
    model = nn.Linear(10, 10)
    method = SoftWeightSharing()
    method.prepare(model, task_of(model, [(torch.zeros(1, 10), torch.tensor([0]))]))
    mixture = method.mixture()
    assert len(mixture.means) == 16
    assert mixture.means[[0, 1, 15]].tolist() == pytest.approx([0.0, -0.6, 0.6])
    assert mixture.variances.sqrt().tolist() == pytest.approx([0.25] * 16)
    assert mixture.shares.tolist() == pytest.approx([0.99] + [0.01 / 15] * 15)
    method = SoftWeightSharing(means_within=None)
    method.prepare(model, task_of(model, [(torch.zeros(1, 10), torch.tensor([0]))]))
    ends = [float(model.weight.detach().min()), float(model.weight.detach().max())]
    assert method.mixture().means[[1, 15]].tolist() == pytest.approx(ends)


def test_the_penalty_is_the_prior_and_the_hyper_priors() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    method = SoftWeightSharing(components=3, tau=0.5)
    method.prepare(model, task_of(model, [(torch.zeros(1, 3), torch.tensor([0]))], size=10))
    normals = [torch.distributions.Normal(mean, 0.25) for mean in (0.0, -0.6, 0.6)]
    shares = (0.99, 0.005, 0.005)
    likelihood = sum(s * n.log_prob(model.weight.detach()).exp() for s, n in zip(shares, normals, strict=True))
    assert isinstance(likelihood, torch.Tensor)
    hyper = (1 - 5000) * math.log(16) + 2 * 16 + 2 * ((1 - 250) * math.log(16) + 0.1 * 16)
    expected = 0.05 * (-float(likelihood.log().sum()) + hyper)
    penalty = method.penalty(model, Batch(torch.zeros(1, 3), torch.tensor([0]), torch.zeros(1, 2)))
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)


def test_hyper_priors_alone_settle_at_a_deviation_of_a_fiftieth() -> None:
    model = nn.Linear(1, 1)
    batch = Batch(torch.zeros(1, 1), torch.tensor([0]), torch.zeros(1, 1))
    method = SoftWeightSharing(components=3, tau=1.0, precision_lr=0.02)
    method.prepare(model, task_of(model, [(batch.inputs, batch.targets)], size=1, steps=7050))
    method._weights = {"weight": torch.zeros(0)}
    for _ in range(600):
        penalty = method.penalty(model, batch)
        assert penalty is not None
        penalty.backward()
        method.after_step(model)
    assert method.mixture().variances.sqrt().tolist() == pytest.approx([0.020] * 3, abs=5e-4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    batch = Batch(torch.zeros(1, 8), torch.tensor([0]), torch.zeros(1, 8))
    gradients = []
    for size in (2**18, 10):
        monkeypatch.setattr("orchestrator.methods.learned.soft_weight_sharing.mixture._CHUNK", size)
        method = SoftWeightSharing()
        method.prepare(model, task_of(model, [(batch.inputs, batch.targets)]))
        penalty = method.penalty(model, batch)
        assert penalty is not None
        gradients.append(torch.autograd.grad(penalty, [model.weight, method._means]))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_after_training_weights_are_few_values_and_zeros() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 4))
    batches = [(torch.randn(16, 1, 4, 4), torch.arange(16) % 4)]
    task = task_of(model, batches, steps=100, size=16)
    method = SoftWeightSharing(components=5)
    method.prepare(model, task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        step_of(model, method, optimizer, batches[0], task)
    selection = decide(method, model, task)
    merged = method._merged()
    method.finish(model)
    allowed = {0.0, *merged.means.tolist()}
    for name in ("0.weight", "4.weight"):
        weight = model.get_parameter(name)
        assert torch.equal(weight != 0, selection.masks[name])  # type: ignore[union-attr]
        assert set(weight.flatten().tolist()) <= allowed
    assert 0 < selection.achieved < 1
    # Batch-norm statistics are those of the new weights.
    made = model[0](batches[0][0])
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, made.mean((0, 2, 3)))
    assert norm.momentum == 0.1


def test_an_empty_network_is_refused() -> None:
    scores = {"one": torch.tensor([-1.0, -2.0]), "two": torch.tensor([[-0.5]])}
    with pytest.raises(NothingLeft, match="all 3 weights for zeros: train longer"):
        SoftWeightSharing().keep(scores)
    scores["two"] = torch.tensor([[0.5]])
    assert [mask.tolist() for mask in SoftWeightSharing().keep(scores).values()] == [[False, False], [[True]]]
