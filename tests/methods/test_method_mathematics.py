"""The mathematics of each method, on layers small enough to do by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import decide

from orchestrator.methods.base import PruneTask
from orchestrator.methods.dynamic.sfp import SoftFilterPruning
from orchestrator.methods.learned.network_slimming import NetworkSlimming
from orchestrator.methods.one_shot.l1_norm import L1Norm
from orchestrator.methods.one_shot.magnitude import Magnitude
from orchestrator.methods.one_shot.random import Random
from orchestrator.methods.one_shot.taylor import Taylor
from orchestrator.spec.trial import Target
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.selection import ChannelSelection, WeightSelection
from orchestrator.training.loop import Batch


class Small(nn.Module):
    """Two convolutions and a mean: scores can be written down."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.last = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -3.0, 2.0]).view(3, 1, 1, 1))
            self.last.weight.copy_(torch.tensor([[1.0, 0.5, -1.0], [0.0, 0.5, 2.0]]).view(2, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.norm(self.conv(images))).mean((2, 3))
        return logits


INPUTS = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)


def task(
    model: nn.Module, *, loss: object = None, example: Tensor = INPUTS, seed: int = 0, **target: object
) -> PruneTask:
    groups = channel_groups(model, example)
    batches = [(INPUTS, torch.tensor([0])), (2 * INPUTS, torch.tensor([1]))]
    return PruneTask(
        target=Target(**{"quantity": "channels", "sparsity": 0.34, **target}),
        groups=groups,
        costs=Costs(model, example, groups),
        calibration=lambda: batches,
        loss=loss or F.cross_entropy,  # type: ignore[arg-type]
        training_size=100,
        generator=torch.Generator().manual_seed(seed),
        example=example,
        training=lambda: iter(batches),
        validation=lambda: iter(batches),
        held_out=lambda: iter(batches),
        dense=lambda: model,
    )


def test_l1_norm_is_the_sum_of_absolute_weights() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 2, bias=False), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(-8.0, 8.0).view(2, 2, 2, 2))
    scores = L1Norm().scores(model, task(model, example=torch.zeros(1, 2, 4, 4)))
    assert scores["0"].tolist() == [36.0, 28.0]  # 8+7+...+1 and 0+1+...+7


def test_l1_norm_keeps_the_largest_filters() -> None:
    model = Small()
    selection = decide(L1Norm(), model, task(model))
    assert isinstance(selection, ChannelSelection)
    assert selection.kept["conv"] == (1, 2)


def test_taylor_is_the_square_of_the_gates_gradient() -> None:
    """A gate z on channel c changes logit k by sum over positions of last[k, c] conv[c] x / 4."""
    model = Small()

    def first_logit(logits: Tensor, targets: Tensor) -> Tensor:
        return logits[:, 0].sum()

    mean = INPUTS.mean()
    by_hand = []
    for c in range(3):
        gradients = [float(model.last.weight[0, c].detach() * model.conv.weight[c].detach() * k * mean) for k in (1, 2)]
        by_hand.append(sum(g * g for g in gradients) / 2)
    scores = Taylor().scores(model, task(model, loss=first_logit))
    torch.testing.assert_close(scores["conv"], torch.tensor(by_hand))


def test_taylor_gates_stand_behind_batch_norm() -> None:
    """Finite differences of the loss by a factor on the channel after batch-norm."""
    model = Small(norm=True).eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        model.norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    this = task(model)

    def loss_with(channel: int, factor: float, batch: tuple[Tensor, Tensor]) -> float:
        scaled = Small(norm=True).eval()
        scaled.load_state_dict(model.state_dict())
        with torch.no_grad():
            scaled.norm.weight[channel] *= factor
            scaled.norm.bias[channel] *= factor
            return float(F.cross_entropy(scaled(batch[0]).double(), batch[1]))

    step = 1e-2
    for channel in range(3):
        squares = [
            ((loss_with(channel, 1 + step, batch) - loss_with(channel, 1 - step, batch)) / (2 * step)) ** 2
            for batch in this.calibration()
        ]
        score = Taylor().scores(model, this)["conv"][channel]
        assert abs(float(score) - sum(squares) / 2) < 1e-3


def test_taylor_leaves_no_trace() -> None:
    model = Small(norm=True).train()
    Taylor().scores(model, task(model))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_magnitude_takes_the_smallest_of_all_layers() -> None:
    model = Small()
    selection = decide(Magnitude(), model, task(model, quantity="weights", sparsity=4 / 9))
    assert isinstance(selection, WeightSelection)
    # |w|: conv 1 3 2; last 1 .5 1 / 0 .5 2. The four smallest: 0, .5, .5, and the first of the 1s.
    assert selection.masks["conv.weight"].flatten().tolist() == [False, True, True]
    assert selection.masks["last.weight"].flatten().tolist() == [True, False, True, False, False, True]


def test_magnitude_layer_by_layer() -> None:
    model = Small()
    selection = decide(Magnitude(), model, task(model, quantity="weights", sparsity=1 / 3, scope="uniform"))
    assert isinstance(selection, WeightSelection)
    assert {name: int(mask.sum()) for name, mask in selection.masks.items()} == {"conv.weight": 2, "last.weight": 4}


def test_random_is_uniform_and_of_the_seed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4000, 1), nn.Conv2d(4000, 1, 1))

    def scores(seed: int) -> Tensor:
        return Random().scores(model, task(model, example=torch.zeros(1, 1, 1, 1), seed=seed))["0"]

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))
    assert abs(float(scores(1).mean()) - 0.5) < 0.02
    assert abs(float(scores(1).var()) - 1 / 12) < 0.005


def test_sfp_zeroes_the_smallest_filters_and_lets_them_grow_back() -> None:
    model = Small()
    method = SoftFilterPruning()
    method.prepare(model, task(model))
    method.after_epoch(model, 0)
    assert model.conv.weight.flatten().tolist() == [0.0, -3.0, 2.0]
    assert model.conv.weight.requires_grad
    # Training gives the filter weight again: it is trained like any other, and stays if it outgrows one.
    loss = model(INPUTS)[:, 0].sum()
    loss.backward()
    assert model.conv.weight.grad is not None
    assert float(model.conv.weight.grad[0].abs()) > 0
    with torch.no_grad():
        model.conv.weight[0] = 2.5
    method.after_epoch(model, 1)
    assert model.conv.weight.flatten().tolist() == [2.5, -3.0, 0.0]


def test_sfp_ranks_by_the_l2_norm() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [2.0, 2.0]]).view(2, 2, 1, 1))
    this = task(model, example=torch.zeros(1, 2, 1, 1))
    soft, l1 = SoftFilterPruning().scores(model, this)["0"], L1Norm().scores(model, this)["0"]
    assert soft[0] > soft[1]  # 3 against sqrt(8)
    assert l1[0] < l1[1]  # 3 against 4


def test_network_slimming_penalises_the_scales_by_their_l1_norm() -> None:
    model = Small(norm=True)
    method = NetworkSlimming(penalty_weight=0.01)
    method.prepare(model, task(model))
    assert model.norm.weight.tolist() == [0.5, 0.5, 0.5]
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([-0.5, 0.2, 0.0]))
    penalty = method.penalty(model, Batch(INPUTS, torch.tensor([0]), torch.zeros(1, 2)))
    assert penalty is not None
    assert abs(float(penalty) - 0.007) < 1e-8
    (gradient,) = torch.autograd.grad(penalty, model.norm.weight)
    torch.testing.assert_close(gradient, torch.tensor([-0.01, 0.01, 0.0]))  # s sign(gamma), as in the paper's code
    selection = decide(method, model, task(model))
    assert isinstance(selection, ChannelSelection)
    assert selection.kept["conv"] == (0, 1)


def test_network_slimming_folds_its_own_scales_into_the_weights() -> None:
    model = Small()
    method = NetworkSlimming()
    before = model(INPUTS)
    method.prepare(model, task(model))
    torch.testing.assert_close(model(INPUTS), before / 2)  # gates start at a half
    (group,) = method.extra_parameters()
    assert group["weight_decay"] == 0
    with torch.no_grad():
        group["params"][0].copy_(torch.tensor([0.1, 0.9, 0.4]))
    gated = model(INPUTS)
    scores = method.scores(model, task(model))
    torch.testing.assert_close(scores["conv"], torch.tensor([0.1, 0.9, 0.4]))
    method.finish(model)
    torch.testing.assert_close(model(INPUTS), gated)
    torch.testing.assert_close(model.conv.weight.flatten(), torch.tensor([0.1, -2.7, 0.8]))
