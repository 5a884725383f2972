"""Dynamic network surgery: thresholds, splicing, the straight-through gradient, quotas."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import decide, step_of, task_of

from orchestrator.methods.dynamic.dns.method import DynamicNetworkSurgery, UnusableThresholds
from orchestrator.methods.parts.reparametrization import Reparametrization, straight_through

INPUT = [(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0]))]


def linear(weights: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def masks(method: DynamicNetworkSurgery) -> list[list[float]]:
    return [part.mask.flatten().tolist() for part in method._masked]


def test_thresholds_are_those_of_the_weights_that_are_not_zero() -> None:
    """|w| = 1, 2, 3, 0: mean 2, variance 14/3 - 4 = 2/3 over three weights."""
    model = linear([1.0, -2.0, 3.0, 0.0])
    method = DynamicNetworkSurgery(c=0.5)
    method.prepare(model, task_of(model, INPUT))
    (part,) = method._masked
    assert float(part.threshold()) == pytest.approx(2 + 0.5 * math.sqrt(2 / 3))
    assert masks(method) == [[0.0, 0.0, 1.0, 0.0]]  # a = 2.167, b = 2.649


def test_a_low_c_masks_nothing() -> None:
    model = linear([1.0, -2.0, 3.0, 4.0])
    method = DynamicNetworkSurgery(c=-5.0)
    method.prepare(model, task_of(model, INPUT))
    assert masks(method) == [[1.0, 1.0, 1.0, 1.0]]


def test_masked_weights_return_above_the_band_only() -> None:
    model = linear([1.0, 1.0, 1.0, 1.0])  # deviation 0: a = 0.9, b = 1.1
    method = DynamicNetworkSurgery(c=1.0, gamma=0.0, iter_stop=1.0)
    method.prepare(model, task_of(model, INPUT, steps=100))
    assert masks(method) == [[1.0, 1.0, 1.0, 1.0]]

    def after(weights: list[float]) -> list[float]:
        with torch.no_grad():
            model.weight.copy_(torch.tensor([weights]))
        method.after_step(model)
        return masks(method)[0]

    assert after([0.89, -0.89, 0.91, 1.5]) == [0.0, 0.0, 1.0, 1.0]
    assert after([1.05, -1.05, 1.05, 1.05]) == [0.0, 0.0, 1.0, 1.0]  # in the band: as they were
    assert after([1.11, -1.11, 0.5, 1.05]) == [1.0, 1.0, 0.0, 1.0]  # spliced back


def test_masked_weights_train_on() -> None:
    """Forward and the gradient to the input see w * mask, the weight's own gradient is that of an unmasked weight."""
    model = linear([0.1, 2.0, 0.1, 2.0])
    method = DynamicNetworkSurgery(c=0.0)  # mean 1.05
    task = task_of(model, INPUT, loss=lambda out, _: out.sum())
    method.prepare(model, task)
    inputs = INPUT[0][0].clone().requires_grad_()
    output = model(inputs)
    assert float(output.detach()) == 2 * 2 + 2 * 4
    output.backward()
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[0.0, 2.0, 0.0, 2.0]]
    step_of(model, method, torch.optim.SGD(model.parameters(), lr=0.1), INPUT[0], task)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.0, 1.8, -0.2, 1.6]]))


def test_masks_stay_after_iter_stop() -> None:
    model = linear([0.1, 2.0, 0.1, 2.0])
    method = DynamicNetworkSurgery(c=0.0, gamma=0.0, iter_stop=0.2)
    method.prepare(model, task_of(model, INPUT, steps=10))
    method.after_step(model)
    method.after_step(model)
    with torch.no_grad():
        model.weight.fill_(5.0)
    method.after_step(model)
    assert masks(method) == [[0.0, 1.0, 0.0, 1.0]]


def test_updates_grow_rare() -> None:
    """(1 + gamma i)^-power: with a large power only iteration 0 updates."""
    model = linear([1.0, 1.0, 1.0, 1.0])
    method = DynamicNetworkSurgery(gamma=1.0, power=40.0, iter_stop=1.0)
    method.prepare(model, task_of(model, INPUT, steps=20))
    with torch.no_grad():
        model.weight.fill_(0.1)
    for _ in range(10):
        method.after_step(model)
    assert masks(method) == [[1.0, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_the_target_is_met_exactly_at_the_end(scope: str) -> None:
    """Two layers of equal, evenly spread weights, one ten times the other: one c for both takes as many of both."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        for layer, size in ((model[0], 1.0), (model[2], 10.0)):
            layer.weight.copy_(size * torch.linspace(-1, 1, 64).view(8, 8))
    batches = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3]))]
    task = task_of(model, batches, steps=10, sparsity=0.5, scope=scope)
    method = DynamicNetworkSurgery()
    method.prepare(model, task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(10):
        step_of(model, method, optimizer, batches[0], task)
    before = model(batches[0][0])
    selection = decide(method, model, task)
    method.finish(model)
    gone = [int((~mask).sum()) for mask in selection.masks.values()]  # type: ignore[union-attr]
    assert gone == [32, 32]
    for name, mask in selection.masks.items():  # type: ignore[union-attr]
        assert torch.equal(mask, model.get_parameter(name) != 0)
    torch.testing.assert_close(model(batches[0][0]), before)


def test_its_own_rule_keeps_what_is_not_masked() -> None:
    model = linear([0.1, 2.0, -0.1, -2.0])
    method = DynamicNetworkSurgery(c=0.0)
    task = task_of(model, INPUT)
    method.prepare(model, task)
    selection = decide(method, model, task)
    assert selection.masks["weight"].tolist() == [[False, True, False, True]]  # type: ignore[union-attr]
    assert selection.achieved == 0.5


def test_factors_by_layer() -> None:
    model = nn.Sequential(linear([0.1, 2.0, 0.1, 2.0]), linear([1.0]))
    method = DynamicNetworkSurgery(c_by_layer=[-5.0, 0.0])
    method.prepare(model, task_of(model, INPUT))
    assert masks(method) == [[1.0, 1.0, 1.0, 1.0], [1.0]]
    with pytest.raises(UnusableThresholds, match="3 values for 2 layers: 0, 1"):
        DynamicNetworkSurgery(c_by_layer=[0.0, 0.0, 0.0]).prepare(model, task_of(model, INPUT))


def test_effective_weights_hide_the_parameter_in_the_forward_pass_only() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    parameter, images = layer.weight, torch.randn(2, 4, 5, 5)
    half = Reparametrization(layer, lambda weight: straight_through(weight, torch.tensor(0.5)))
    torch.testing.assert_close(layer(images), F.conv2d(images, parameter / 2, layer.bias, padding=1, groups=2))
    assert layer.weight is parameter
    assert list(layer.state_dict()) == ["weight", "bias"]
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 3, 5, 5))
    assert layer.weight is parameter
    half.remove()
    torch.testing.assert_close(layer(images), F.conv2d(images, parameter, layer.bias, padding=1, groups=2))
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_straight_through_is_exact() -> None:
    values, factor = torch.tensor([0.1, 1e-30, -3e7], requires_grad=True), torch.tensor([1.0, 0.0, 0.0])
    product: Tensor = straight_through(values, factor)
    assert product.tolist() == [values[0].item(), 0.0, 0.0]
    (gradient,) = torch.autograd.grad(product.sum(), values)
    assert gradient.tolist() == [1.0, 1.0, 1.0]
