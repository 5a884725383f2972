"""Iterative Taylor pruning: what a gate scores, when gates close, and what stays behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import decide

from orchestrator.methods.base import PruneTask
from orchestrator.methods.dynamic.taylor_iterative import NothingMeasured, TaylorIterative
from orchestrator.spec.trial import Target
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.selection import ChannelSelection
from orchestrator.testing.networks import CHANNELS, SIZE, network

torch.set_num_threads(1)
EXAMPLE = torch.zeros(1, CHANNELS, SIZE, SIZE)
IMAGES = torch.randn(8, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
TARGETS = torch.arange(8) % 4


def task(model: nn.Module, steps: int, **target: object) -> PruneTask:
    groups = channel_groups(model, EXAMPLE)
    return PruneTask(
        target=Target(**{"quantity": "channels", "sparsity": 0.5, **target}),
        groups=groups,
        costs=Costs(model, EXAMPLE, groups),
        calibration=list,
        loss=F.cross_entropy,
        training_size=8,
        generator=torch.Generator().manual_seed(0),
        example=EXAMPLE,
        training=lambda: iter(()),
        validation=lambda: iter(()),
        held_out=lambda: iter(()),
        dense=lambda: copy.deepcopy(model),
        steps=steps,
    )


def train(model: nn.Module, method: TaylorIterative, steps: int, lr: float = 0.01) -> list[int]:
    """Gates closed after each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    closed = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(IMAGES), TARGETS).backward()
        optimizer.step()
        method.after_step(model)
        closed.append(sum(int((gate.values == 0).sum()) for gate in method._gates.values()))
    return closed


def loss_with_scale(model: nn.Module, norms: list[str], channel: int, scale: float) -> float:
    """The loss with one channel multiplied behind its batch-norms."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name in norms:
            norm = moved.get_submodule(name)
            norm.weight[channel] *= scale
            norm.bias[channel] *= scale
        return float(F.cross_entropy(moved(IMAGES.double()), TARGETS))


def test_a_score_is_the_square_of_the_losss_slope_along_the_gate() -> None:
    """Finite differences; a gate that two layers share is moved in both, and its score halved."""
    model = network("residual").double().train()
    method = TaylorIterative(events=1, minibatches=1, pruning_share=1.0)
    job = task(network("residual"), 1)
    untouched = copy.deepcopy(model)
    method.prepare(model, job)
    F.cross_entropy(model(IMAGES.double()), TARGETS).backward()
    for name, norms in {"conv1": ["norm1"], "stem": ["norm", "norm2"]}.items():
        score = method._gates[name].score()
        for channel in (0, 5, 11):
            up, down = (loss_with_scale(untouched, norms, channel, 1 + h) for h in (1e-5, -1e-5))
            slope = (up - down) / 2e-5
            assert float(score[channel]) == pytest.approx(slope**2 / len(norms), rel=1e-4, abs=1e-12)


def test_scores_are_averaged_over_minibatches_and_then_over_events() -> None:
    model = network("chain")
    method = TaylorIterative(events=2, minibatches=2, pruning_share=1.0, memory=0.9)
    method.prepare(model, task(model, 6, sparsity=0.0))
    seen: list[Tensor] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(6):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(IMAGES), TARGETS).backward()
        gate = method._gates["conv1"].values
        seen.append((gate.grad if gate.grad is not None else torch.zeros_like(gate)).square().detach())
        optimizer.step()
        method.after_step(model)
    # Events after steps 3 and 6; the first minibatch of each three is not looked at.
    expected = 0.9 * (seen[1] + seen[2]) / 2 + 0.1 * (seen[4] + seen[5]) / 2
    torch.testing.assert_close(method.scores(model, method._task)["conv1"], expected)


@pytest.mark.parametrize(
    "target", [{"sparsity": 0.5}, {"sparsity": 0.5, "quantity": "macs"}, {"kept": [6, 8, 10]}, {"kept": {"conv2": 4}}]
)
def test_gates_close_bit_by_bit_and_the_last_third_retrains(target: dict[str, object]) -> None:
    model = network("chain")
    job = task(model, 30, **{"sparsity": None, **target})
    method = TaylorIterative(events=5, minibatches=3)
    method.prepare(model, job)
    closed = train(model, method, 30)
    assert closed[2] == 0
    assert closed == sorted(closed)  # none opens again
    assert len(set(closed)) >= 4
    assert closed[19] > closed[15]
    assert len(set(closed[19:])) == 1
    selection = decide(method, model, job)
    assert isinstance(selection, ChannelSelection)
    for name, gate in method._gates.items():
        assert gate.values.nonzero().flatten().tolist() == list(selection.kept[name])


@pytest.mark.parametrize("kind", ["chain", "residual", "concatenating", "depthwise"])
def test_the_gated_the_folded_and_the_cut_network_compute_the_same(kind: str) -> None:
    model = network(kind).train()
    job = task(model, 12)
    keys = list(model.state_dict())
    method = TaylorIterative(events=4, minibatches=2)
    method.prepare(model, job)
    train(model, method, 12)
    model.eval()
    with torch.no_grad():
        gated = model(IMAGES)
        selection = decide(method, model, job)
        method.finish(model)
        assert list(model.state_dict()) == keys
        torch.testing.assert_close(model(IMAGES), gated)
        assert isinstance(selection, ChannelSelection)
        torch.testing.assert_close(cut(model, EXAMPLE, selection)(IMAGES), gated, atol=1e-5, rtol=1e-4)


def test_without_training_there_is_nothing_to_rank() -> None:
    model = network("chain")
    job = task(model, 0)
    method = TaylorIterative()
    method.prepare(model, job)
    with pytest.raises(NothingMeasured, match="found 0"):
        method.scores(model, job)
    method.finish(model)
