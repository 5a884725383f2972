"""PFP: sensitivities, the bound, and the allocation among layers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import decide, task_of

from orchestrator.methods.base import PruneTask
from orchestrator.methods.one_shot.pfp.input_sensitivity import input_sensitivity
from orchestrator.methods.one_shot.pfp.method import PFP, image_sample
from orchestrator.methods.one_shot.pfp.sensitivity_bounds import (
    error_constant,
    errors_kept_to,
    expected_distinct,
    sample_size,
    samples,
)
from orchestrator.surgery.selection import ChannelSelection

torch.set_num_threads(1)
DELTA = 1e-16


def task(model: nn.Module, images: Tensor, **target: object) -> PruneTask:
    batches = [(part, torch.zeros(len(part))) for part in images.split(3)]
    return task_of(model, batches, size=4, **{"quantity": "macs", "sparsity": 0.5, **target})


def small(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer


@torch.no_grad()
def test_sensitivity_is_the_largest_share_of_a_sum_of_one_sign() -> None:
    layer = small([[1, -2, 3], [2, 1, -1]])
    sensitivity, patches = input_sensitivity(layer, torch.ones(1, 3))
    torch.testing.assert_close(sensitivity, torch.tensor([2 / 3, 1, 1]))
    assert patches == 1
    scaled = small([[1, -2, 3], [20, 10, -10]])
    torch.testing.assert_close(input_sensitivity(scaled, 7 * torch.ones(1, 3))[0], sensitivity)
    assert input_sensitivity(layer, torch.zeros(1, 3))[0].tolist() == [0, 0, 0]


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2])
def test_sensitivity_of_a_convolution_by_loops(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=groups)
    inputs = torch.randn(2, 4, 5, 6)  # negative values, too
    columns = F.unfold(inputs, (3, 2), padding=(1, 0), stride=(1, 2)).view(2, 4, 6, -1)
    expected = torch.zeros(4)
    for image, f, sign, half, patch in itertools.product(range(2), range(6), (1, -1), (1, -1), range(columns.shape[3])):
        read = range(4) if groups == 1 else range(2 * (f // 3), 2 * (f // 3) + 2)
        parts = {
            c: (sign * layer.weight[f, c - read[0]].flatten()).relu() * (half * columns[image, c, :, patch]).relu()
            for c in read
        }
        total = sum(float(p.sum()) for p in parts.values())
        for c, values in parts.items():
            if total > torch.finfo(torch.float32).eps:
                expected[c] = max(float(expected[c]), float(values.max()) / total)
    sensitivity, patches = input_sensitivity(layer, inputs)
    torch.testing.assert_close(sensitivity, expected)
    assert patches == layer(inputs)[0, 0].numel()


def test_the_bound_and_its_samples() -> None:
    sensitivity = np.array([2 / 3, 1, 1])
    bound = error_constant(sensitivity.sum(), patches=1, kernel=1, delta=DELTA)
    assert bound == pytest.approx(633.82, abs=0.01)
    assert [samples(500, bound), samples(1000, bound)] == [8, 4]
    shares = sensitivity / sensitivity.sum()
    assert shares.tolist() == pytest.approx([0.25, 0.375, 0.375])
    assert expected_distinct(shares, 2) == pytest.approx(1.656, abs=1e-3)
    assert expected_distinct(shares, 4) == pytest.approx(2.378, abs=1e-3)


def test_images_of_the_resnets() -> None:
    def activations(blocks: int) -> list[int]:
        convolutions = [16 * 32 * 32] * (2 * blocks + 1) + [32 * 16 * 16] * 2 * blocks + [64 * 8 * 8] * 2 * blocks
        return [*convolutions, 10]

    assert sample_size(activations(3), DELTA) == 183
    assert sample_size(activations(9), DELTA) == 186


def test_image_sample_images_are_at_most_half() -> None:
    batches = [(torch.arange(4.0)[:, None] + 4 * i, torch.zeros(4)) for i in range(5)]
    assert torch.cat(image_sample(iter(batches), 7)).flatten().tolist() == list(range(7))
    assert torch.cat(image_sample(iter(batches), 100)).flatten().tolist() == list(range(10))


@pytest.mark.parametrize(("patches", "kernel"), [(1, 1), (256, 9)])
def test_a_score_is_the_error_at_which_a_channel_goes(patches: int, kernel: int) -> None:
    """At any error as many channels have a larger score as the paper's formula keeps: those of largest s."""
    sensitivity = np.random.default_rng(0).uniform(0.05, 1, 24)
    errors = errors_kept_to(sensitivity, patches, kernel, DELTA)
    bound = error_constant(sensitivity.sum(), patches, kernel, DELTA)
    shares = sensitivity / sensitivity.sum()
    before = 25
    for error in np.geomspace(1, 1e6, 200):
        kept = max(1, min(24, math.ceil(expected_distinct(shares, samples(float(error), bound)) - 1e-9)))
        assert int((errors > error).sum()) == kept
        assert set(np.flatnonzero(errors > error)) == set(np.argsort(-sensitivity)[:kept])
        assert kept <= before  # a larger error keeps fewer
        before = kept
    assert before == 1  # and never none
    assert errors_kept_to(np.zeros(3), 1, 1, DELTA).tolist() == [0, 0, 0]


def test_like_layers_keep_like_numbers() -> None:
    """Weights u v^T on inputs that are multiples of u: both readers see shares u_j v_j / sum u v."""
    u, v = torch.rand(2, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    model = nn.Sequential(
        nn.Conv2d(1, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 1, bias=False), nn.Flatten(), nn.Linear(8, 2)
    )
    with torch.no_grad():
        model[0].weight.copy_(u.view(8, 1, 1, 1))
        model[2].weight.copy_(torch.outer(u, v).view(8, 8, 1, 1))
        model[4].weight.copy_(v.expand(2, 8))
    scores = PFP().scores(model, task(model, torch.rand(8, 1, 1, 1) + 0.1))
    torch.testing.assert_close(scores["0"], scores["2"])
    assert scores["0"].argsort().tolist() == (u * v).argsort().tolist()
    assert scores["0"].isinf().sum() == 1


def test_the_scores_of_a_chain_are_those_of_its_readers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(80, 3),
    )  # fmt: skip
    images = torch.rand(9, 2, 4, 4)
    job = task(model, images)
    scores = PFP().scores(model, job)
    with torch.no_grad():
        first = input_sensitivity(model[2], model[:2](images[:4]))[0]  # half of nine
        last = input_sensitivity(model[5], model[:5](images[:4]))[0].view(5, 16).amax(1)
    expected = errors_kept_to(first.double().numpy(), 16, 9, DELTA)
    assert scores["0"].numpy() == pytest.approx(expected)
    assert scores["2"].numpy() == pytest.approx(errors_kept_to(last.double().numpy(), 1, 1, DELTA))
    selection = decide(PFP(), model, job)
    assert isinstance(selection, ChannelSelection)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_channel_that_two_layers_read_follows_the_stricter() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 1)
            self.left = nn.Linear(4, 2)
            self.right = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            mean = F.relu(self.stem(images)).mean((2, 3))
            return torch.cat([self.left(mean), self.right(mean)], 1)

    torch.manual_seed(0)
    model, images = Fork(), torch.rand(6, 1, 2, 2)
    nn.init.uniform_(model.stem.weight, 0.1, 1.0)
    nn.init.uniform_(model.stem.bias, 0.1, 1.0)
    scores = PFP().scores(model, task(model, images))["stem"]
    with torch.no_grad():
        mean = F.relu(model.stem(images[:3])).mean((2, 3))
        both = [input_sensitivity(layer, mean)[0].double().numpy() for layer in (model.left, model.right)]
    each = [np.sort(errors_kept_to(s, 1, 1, DELTA)) for s in both]
    assert np.sort(scores.numpy()) == pytest.approx(np.maximum(*each))
    assert np.argsort(scores.numpy()).tolist() == np.argsort(np.maximum(*both), kind="stable").tolist()
