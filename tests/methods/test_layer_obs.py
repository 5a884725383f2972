"""L-OBS against least squares, and its predicted loss against the measured one."""

import pytest
import torch
from torch import Tensor, nn
from weight_tasks import decide, task_of

from orchestrator.methods.one_shot.curvature import damped_inverse, input_covariances, weights_by_block
from orchestrator.methods.one_shot.layer_obs import LayerwiseOptimalBrainSurgeon, compensated, sensitivities
from orchestrator.surgery.selection import WeightSelection


def linear() -> tuple[nn.Linear, Tensor]:
    """A layer and 50 inputs to it that resemble each other."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    inputs = torch.randn(50, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 0.3
    return model, inputs


def test_one_removal_is_least_squares_and_costs_what_was_predicted() -> None:
    model, inputs = linear()
    covariance = input_covariances(model, [(inputs, torch.zeros(50))])["weight"]
    inverse = damped_inverse(covariance, 1e-12)
    weights = weights_by_block(model)
    predicted = sensitivities(weights, inverse)
    rows = torch.cat([inputs, torch.ones(50, 1, dtype=torch.float64)], 1)
    outputs = rows @ weights[0].T
    for unit in range(3):
        for gone in range(4):
            kept = torch.ones_like(weights, dtype=torch.bool)
            kept[0, unit, gone] = False
            changed = compensated(weights, inverse, kept)[0]
            left = [i for i in range(5) if i != gone]
            best = torch.linalg.lstsq(rows[:, left], outputs[:, unit : unit + 1]).solution[:, 0]
            torch.testing.assert_close(changed[unit, left], best, rtol=1e-6, atol=1e-8)
            assert changed[unit, gone] == 0
            cost = (rows @ changed.T - outputs).square().sum() / 50 / 2
            torch.testing.assert_close(cost, predicted[0, unit, gone], rtol=1e-6, atol=1e-12)


def test_many_removals_are_the_papers_loop() -> None:
    """One weight after another, in the order of first sensitivities, each from what the others have left of it."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    root = torch.randn(2, 5, 9, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(root @ root.transpose(1, 2))
    kept = torch.rand(2, 3, 5, generator=generator) > 0.6
    expected = weights.clone()
    for block in range(2):
        order = [(float(weights[block, o, i] ** 2 / inverse[block, i, i]), o, i) for o in range(3) for i in range(5)]
        for _, o, i in sorted(order):
            if not kept[block, o, i]:
                expected[block, o] -= expected[block, o, i] / inverse[block, i, i] * inverse[block, :, i]
    torch.testing.assert_close(compensated(weights, inverse, kept), expected * kept)


@pytest.mark.parametrize("groups", [1, 4])
def test_compensation_lowers_what_pruning_does_to_the_outputs(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(4, 8, 3, padding=1, groups=groups)
    smooth = nn.functional.avg_pool2d(torch.randn(32, 4, 10, 10), 3, stride=1)
    this = task_of(model, [(smooth, torch.zeros(32))], sparsity=0.4)
    selection = decide(LayerwiseOptimalBrainSurgeon(damping=1e-3), model, this)
    assert isinstance(selection, WeightSelection)
    assert selection.values is not None
    mask = selection.masks["weight"]
    assert float((~mask).float().mean()) == pytest.approx(0.4, abs=0.01)
    assert not selection.values["weight"][~mask].any()

    def change(weight: Tensor, bias: Tensor) -> float:
        outputs = torch.func.functional_call(model, {"weight": weight, "bias": bias}, (smooth,))
        return float((outputs - model(smooth)).detach().square().mean())

    assert model.bias is not None
    plain = change(model.weight * mask, model.bias)
    assert change(selection.values["weight"], selection.values["bias"]) < 0.75 * plain
