"""MLPrune against the exact Fisher matrix, where a Kronecker product is exact."""

import dataclasses

import torch
from torch import Tensor, nn
from weight_tasks import decide, task_of

from orchestrator.methods.one_shot.curvature import KroneckerFactors
from orchestrator.methods.one_shot.mlprune import MLPrune, compensated
from orchestrator.surgery.selection import WeightSelection


def test_saliency_is_that_of_the_exact_inverse_fisher() -> None:
    """One linear layer on Gaussian inputs, with weights too small to matter to its softmax: F = E[x x^T] (x) cov(p)."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=generator)
    inputs = torch.randn(40000, 3, generator=generator) @ root + torch.tensor([0.5, 0.0, -0.5])
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(1e-3 * torch.randn(3, 3, generator=generator))
        model.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
    scores = MLPrune(damping=0.01, images=40000).scores(model, task_of(model, [(inputs, torch.zeros(40000).long())]))

    mean = torch.tensor([0.5, 0.0, -0.5, 1.0], dtype=torch.float64)
    second = mean.outer(mean)
    second[:3, :3] += (root.T @ root).double()
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    covariance = p.diag() - p.outer(p)
    # sqrt(0.01) of the mean eigenvalue of each factor
    second += 0.1 * second.trace() / 4 * torch.eye(4, dtype=torch.float64)
    covariance += 0.1 * covariance.trace() / 3 * torch.eye(3, dtype=torch.float64)
    inverse = torch.linalg.inv(torch.kron(covariance, second)).diagonal().view(3, 4)[:, :3]
    expected = model.weight.detach().double().square() / (2 * inverse)
    torch.testing.assert_close(scores["weight"].double(), expected, rtol=0.05, atol=0)


def test_compensation_is_the_sum_of_single_updates() -> None:
    generator = torch.Generator().manual_seed(0)

    def inverse(edge: int) -> Tensor:
        root = torch.randn(2, edge, 2 * edge, generator=generator, dtype=torch.float64)
        return torch.linalg.inv(root @ root.transpose(1, 2))

    inverses = KroneckerFactors(inverse(4), inverse(3))
    weights = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    kept = torch.rand(2, 3, 4, generator=generator) > 0.4
    expected = weights.clone()
    for block in range(2):
        whole = torch.kron(inverses.gradients[block], inverses.inputs[block])
        for q in (~kept[block]).flatten().nonzero().flatten().tolist():
            update = weights[block].flatten()[q] / whole[q, q] * whole[:, q]
            expected[block] -= update.view(3, 4)
    torch.testing.assert_close(compensated(weights, inverses, kept), expected * kept)


def network() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs = torch.randn(300, 6) @ torch.randn(6, 6)
    return model, [(inputs, model(inputs).argmax(1))]


def test_compensation_lowers_the_loss_or_stays_off() -> None:
    model, batches = network()
    inputs = batches[0][0]

    def distance(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    near = task_of(model, [(inputs, model(inputs).detach())], sparsity=0.3, loss=distance)
    selection = decide(MLPrune(), model, near)
    assert isinstance(selection, WeightSelection)
    assert selection.values is not None
    assert set(selection.values) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(not selection.values[name][~mask].any() for name, mask in selection.masks.items())
    far = dataclasses.replace(near, loss=lambda outputs, targets: -distance(outputs, targets))
    assert decide(MLPrune(), model, far).values is None
    assert decide(MLPrune(compensation=False), model, near).values is None
    assert model.training


def test_one_threshold_for_all_layers() -> None:
    """A layer whose outputs hardly reach the loss loses more."""
    model, batches = network()
    before = decide(MLPrune(compensation=False), model, task_of(model, batches, sparsity=0.5))
    with torch.no_grad():
        model[0].weight[:, 3:] *= 0.01
    after = decide(MLPrune(compensation=False), model, task_of(model, batches, sparsity=0.5))
    assert isinstance(before, WeightSelection)
    assert isinstance(after, WeightSelection)
    assert int(after.masks["0.weight"].sum()) < int(before.masks["0.weight"].sum())
    assert sum(int(mask.sum()) for mask in after.masks.values()) == 36
