"""One factor a unit, wherever its channels pass: zero closes the unit, folding changes nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.parts.gates import gate_sites
from orchestrator.methods.parts.unit_gates import UnitGates, closing_sites
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.selection import select_kept
from orchestrator.testing.networks import CHANNELS, NETWORKS, SIZE, network

EXAMPLE = torch.zeros(1, CHANNELS, SIZE, SIZE)


class HalfNormed(nn.Module):
    """A sum of a branch with batch-norm and one without, and a norm that comes after the channels were read."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(CHANNELS, 6, 3, padding=1)
        self.conv = nn.Conv2d(CHANNELS, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.late = nn.GroupNorm(4, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        summed = F.relu(self.plain(images) + self.norm(self.conv(images)))
        logits: Tensor = self.last(F.relu(self.late(self.grouped(summed))).mean((2, 3)))
        return logits


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return HalfNormed() if kind == "half normed" else network(kind)


@pytest.mark.parametrize("kind", [*NETWORKS, "half normed"])
def test_closed_gates_make_the_cut_network_and_folding_changes_nothing(kind: str) -> None:
    model = made(kind).eval()
    groups = channel_groups(model, EXAMPLE)
    units = sum(group.size for group in groups)
    start = torch.rand(units, generator=torch.Generator().manual_seed(1)) + 0.2
    start[::3] = 0
    images = torch.randn(4, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    before = model.state_dict().keys()
    gates = UnitGates(model, groups, EXAMPLE, start, lambda values, training: values)
    gated = model(images)
    gates.fold(model)
    torch.testing.assert_close(model(images), gated, atol=1e-5, rtol=1e-4)
    assert model.state_dict().keys() == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    keep = {name: values > 0 for name, values in gates.by_group(start).items()}
    selection = select_kept(keep, groups, Costs(model, EXAMPLE, groups), quantity="macs")
    torch.testing.assert_close(cut(model, EXAMPLE, selection).eval()(images), gated, atol=1e-5, rtol=1e-4)


def test_more_than_the_norms_are_gated_only_where_channels_find_another_way() -> None:
    for kind in NETWORKS:
        model = made(kind)
        groups = channel_groups(model, EXAMPLE)
        assert closing_sites(model, groups, EXAMPLE) == {g.name: gate_sites(model, g) for g in groups}
    model = made("half normed")
    sites = closing_sites(model, channel_groups(model, EXAMPLE), EXAMPLE)
    assert [sorted(layer for layer, _ in own) for own in sites.values()] == [
        ["conv", "norm", "plain"],
        ["grouped", "late"],
    ]


def test_the_gradient_of_a_gate_is_that_of_a_factor_on_all_its_channels() -> None:
    model = made("residual").eval()
    groups = channel_groups(model, EXAMPLE)
    images = torch.randn(2, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    gates = UnitGates(model, groups, EXAMPLE, 0.7, lambda values, training: values)
    (gradient,) = torch.autograd.grad(model(images).square().sum(), gates.values)
    for unit in (0, 17, 27):
        with torch.no_grad():
            around = []
            for step in (1e-2, -1e-2):
                gates.values[unit] += step
                around.append(float(model(images).square().sum()))
                gates.values[unit] -= step
        assert float(gradient[unit]) == pytest.approx((around[0] - around[1]) / 2e-2, rel=1e-2, abs=1e-3)


def test_gates_may_differ_between_training_and_evaluation() -> None:
    model = made("chain")
    groups = channel_groups(model, EXAMPLE)
    gates = UnitGates(model, groups, EXAMPLE, 1.0, lambda values, training: values * (0 if training else 1))
    assert not model.train()(torch.rand(4, CHANNELS, SIZE, SIZE)).sub(model.fc2.bias).any()
    assert model.eval()(torch.rand(4, CHANNELS, SIZE, SIZE)).sub(model.fc2.bias).any()
    gates.fold(model)
