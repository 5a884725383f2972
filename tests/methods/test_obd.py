"""OBD on a quadratic loss with a diagonal Hessian, where it is exact."""

import torch
from torch import Tensor, nn
from weight_tasks import task_of

from orchestrator.methods.one_shot.curvature import squared_gradients
from orchestrator.methods.one_shot.obd import OptimalBrainDamage

SIZES = torch.tensor([1.0, 2.0, 3.0])


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).square().mean() / 2


def quadratic() -> tuple[nn.Linear, list[tuple[Tensor, Tensor]]]:
    """One input at a time is on, with noise of 1 on either side: Hessian and Fisher are the same diagonal."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.5, 0.4]]))
    inputs = torch.diag(SIZES).repeat_interleave(2, 0)
    targets = model(inputs)[:, 0].detach() + torch.tensor([1.0, -1.0]).repeat(3)
    return model, [(inputs, targets)]


def test_saliency_is_the_loss_that_removal_costs() -> None:
    model, batches = quadratic()
    saliency = OptimalBrainDamage().scores(model, task_of(model, batches, loss=half_square))["weight"][0]
    # h = E x^2 = 1/3, 4/3, 3; saliency h w^2 / 2.
    torch.testing.assert_close(saliency, torch.tensor([2 / 3, 1.5, 0.24]))
    (inputs, targets) = batches[0]
    before = half_square(model(inputs), targets)
    for i in range(3):
        without = model.weight.detach().clone()
        without[0, i] = 0
        torch.testing.assert_close(half_square(inputs @ without.T, targets) - before.detach(), saliency[i])


def test_filters_have_the_sum_of_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Flatten())
    batches = [(torch.randn(8, 2, 5, 5), torch.arange(8) % 4)]
    this = task_of(model, batches, quantity="channels")
    scores = OptimalBrainDamage().scores(model, this)
    curvature = squared_gradients(model, batches, this.loss)["0.weight"][0, :, :-1]  # without the bias
    expected = (curvature * model[0].weight.detach().flatten(1).square()).sum(1) / 2
    torch.testing.assert_close(scores["0"], expected.float())
    assert set(scores) == {"0"}
