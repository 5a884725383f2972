"""AutoPrune: the rule that moves m, recovery, the two losses, filters."""

import math

import pytest
import torch
from torch import Tensor, nn
from weight_tasks import decide, step_of, task_of

from orchestrator.methods.learned.autoprune.method import AutoPrune
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.selection import ChannelSelection

TRAINING = [(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))]
VALIDATION = [(torch.tensor([[1.0, 3.0]]), torch.tensor([0]))]


def total(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.sum()


def linear() -> nn.Linear:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -2.0]]))
    return layer


SIGMOID = {m: 1 / (1 + math.exp(-m)) for m in (1.0, -1.0)}


@pytest.mark.parametrize(
    ("surrogate", "above", "below"),
    [("leaky_relu", 1.0, 0.2), ("softplus", SIGMOID[1.0], SIGMOID[-1.0]), ("linear", 1.0, 1.0), ("relu", 1.0, 0.0)],
)
def test_m_moves_by_the_formula(surrogate: str, above: float, below: float) -> None:
    """The validation input (1, 3) is dL/dt; signs of w are +, -; m is 1 and -1; eta 0.1, mu 0.01."""
    model = linear()
    task = task_of(model, TRAINING, loss=total, validation=VALIDATION)
    method = AutoPrune(surrogate=surrogate, alpha=0.2, eta=0.1, mu=0.01)  # type: ignore[arg-type]
    method.prepare(model, task)
    (mask,) = method._masks
    mask.m = torch.tensor([[1.0, -1.0]])
    method.after_step(model)
    by_hand = [[1 - 0.1 * above * (1 + 0.01), -1 - 0.1 * below * (-3 + 0.01)]]
    torch.testing.assert_close(method.scores(model, task)["weight"], torch.tensor(by_hand))
    assert model.weight.grad is None


@pytest.mark.parametrize(("surrogate", "returns"), [("leaky_relu", True), ("relu", False)])
def test_an_unused_weight_returns_with_its_value(surrogate: str, returns: bool) -> None:
    model = linear()
    task = task_of(model, TRAINING, loss=total, validation=VALIDATION)
    method = AutoPrune(surrogate=surrogate, eta=0.1, mu=0.01)  # type: ignore[arg-type]
    method.prepare(model, task)
    (mask,) = method._masks
    mask.m = torch.tensor([[0.5, -0.01]])
    assert float(model(TRAINING[0][0]).detach()) == 0.5
    method.after_step(model)  # the loss wants weight 1 further from 0: dL/dt sgn(w) = -3
    assert float(model(TRAINING[0][0]).detach()) == (-1.5 if returns else 0.5)


def test_only_weights_in_use_learn_from_the_task() -> None:
    """dL/dw = dL/dt h(m) + 2 l2 w + l1 sgn(w); the training input is (1, 1)."""
    model = linear()
    task = task_of(model, TRAINING, loss=total, validation=VALIDATION)
    method = AutoPrune(eta=1e-9, l2=0.1, l1=0.01)
    method.prepare(model, task)
    method._masks[0].m = torch.tensor([[1.0, -1.0]])
    step_of(model, method, torch.optim.SGD(model.parameters(), lr=1.0), TRAINING[0], task)
    expected = [[0.5 - (1 + 0.1 + 0.01), -2.0 - (0 - 0.4 - 0.01)]]
    torch.testing.assert_close(model.weight.detach(), torch.tensor(expected))


def test_training_batches_may_train_m() -> None:
    model = linear()
    task = task_of(model, TRAINING, loss=total, validation=VALIDATION)
    method = AutoPrune(eta=0.1, mu=0.01, on_training=True, l2=0.0, l1=0.0)
    method.prepare(model, task)
    step_of(model, method, torch.optim.SGD(model.parameters(), lr=0.0), TRAINING[0], task)
    scores = method.scores(model, task)["weight"]
    torch.testing.assert_close(scores, torch.tensor([[1 - 0.101, 1 + 0.099]]))


def test_validation_batches_come_round_again() -> None:
    model = linear()
    twice = [*VALIDATION, (torch.tensor([[0.0, 0.0]]), torch.tensor([0]))]
    task = task_of(model, TRAINING, loss=total, validation=twice)
    method = AutoPrune(eta=0.1, mu=0.01)
    method.prepare(model, task)
    for _ in range(3):
        method.after_step(model)
    expected = [[1 - 0.1 * (2 + 0.03), 1 - 0.1 * (-6 + 0.03)]]
    torch.testing.assert_close(method.scores(model, task)["weight"], torch.tensor(expected))


def test_what_nothing_opposes_is_gone_after_30_percent() -> None:
    model = linear()
    nothing = [(torch.zeros(1, 2), torch.tensor([0]))]
    task = task_of(model, nothing, loss=total, steps=100)
    method = AutoPrune()
    method.prepare(model, task)
    for _ in range(29):
        method.after_step(model)
    assert bool((method.scores(model, task)["weight"] > 0.01).all())
    for _ in range(2):
        method.after_step(model)
    assert bool((method.scores(model, task)["weight"] < 0).all())


class Filters(nn.Module):
    """Two filters behind a norm, and their reader."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.depthwise = nn.Conv2d(2, 2, 3, padding=1, groups=2, bias=False)
        self.read = nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.read(self.depthwise(torch.relu(self.norm(self.conv(images))))).mean((2, 3))
        return logits


def test_a_filter_s_m_moves_by_the_sum_over_its_weights() -> None:
    torch.manual_seed(0)
    model = Filters()
    nn.init.uniform_(model.norm.bias, 1, 2)
    images = [(torch.randn(4, 1, 3, 3), torch.tensor([0, 1, 0, 1]))]
    task = task_of(model, images, quantity="macs")
    method = AutoPrune(eta=0.1, mu=0.01)
    method.prepare(model, task)
    (group,) = task.groups
    expected = []
    weights = [model.conv.weight, model.depthwise.weight]
    gradients = torch.autograd.grad(task.loss(model.eval()(images[0][0]), images[0][1]), weights)
    for unit in range(2):
        sums = sum(float((g[unit] * w[unit].sign()).sum()) for g, w in zip(gradients, weights, strict=True))
        expected.append(1 - 0.1 * (sums + 0.01))
    method.after_step(model.train())
    assert model.training
    torch.testing.assert_close(method.scores(model, task)[group.name], torch.tensor(expected))


def test_a_gated_network_is_the_cut_network() -> None:
    torch.manual_seed(0)
    model = Filters()
    nn.init.uniform_(model.norm.bias, 1, 2)
    images = [(torch.randn(4, 1, 3, 3), torch.tensor([0, 1, 0, 1]))]
    task = task_of(model, images, quantity="macs")
    method = AutoPrune()
    method.prepare(model, task)
    method._masks[0].m = torch.tensor([-0.5, 0.5])
    gated = model.eval()(images[0][0])
    selection = decide(method, model, task)
    assert isinstance(selection, ChannelSelection)
    assert list(selection.kept.values()) == [(1,)]
    method.finish(model)
    torch.testing.assert_close(cut(model, task.example, selection).eval()(images[0][0]), gated)


def test_costs_by_macs_have_a_mean_of_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 2, 1))
    images = [(torch.randn(1, 1, 8, 8), torch.tensor([0]))]
    task = task_of(model, images, quantity="macs")
    method = AutoPrune(by_macs=True)
    method.prepare(model, task)
    # A first filter: 9 x 64 of its own and 6 x 9 x 4 read; a second: 36 x 4 and 2 x 4 read.
    macs = {4: 9 * 64 + 6 * 9 * 4, 6: 36 * 4 + 2 * 4}
    mean = (4 * macs[4] + 6 * macs[6]) / 10
    for mask in method._masks:
        assert mask.cost == pytest.approx(macs[len(mask.m)] / mean)
