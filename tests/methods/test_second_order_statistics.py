"""Covariances and squared gradients against autograd on single images."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weight_tasks import task_of

from orchestrator.methods.one_shot.curvature import (
    damped_inverse,
    from_blocks,
    input_covariances,
    kronecker_factors,
    layers,
    mask_by_block,
    some_images,
    squared_gradients,
    weights_by_block,
)

SHAPES = {
    "linear": (nn.Linear(5, 4), (5,)),
    "linear over tokens": (nn.Linear(5, 4, bias=False), (3, 5)),
    "plain": (nn.Conv2d(3, 4, 3, padding=1), (3, 5, 5)),
    "grouped, strided, dilated": (nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(1, 2), groups=2), (4, 7, 6)),
    "depthwise, reflected": (nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect", groups=4), (4, 5, 5)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_blocks_are_the_layer_as_a_matrix(kind: str) -> None:
    """The energy of a layer's output is tr(W A W^T) of its blocks, bias included."""
    layer, shape = SHAPES[kind]
    torch.manual_seed(0)
    layer.reset_parameters()
    inputs = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    blocks, covariance = weights_by_block(layer), input_covariances(layer, [(inputs, torch.zeros(6))])["weight"]
    energy = layer(inputs).detach().double().square().sum() / 6
    torch.testing.assert_close((blocks @ covariance @ blocks.transpose(1, 2)).diagonal(0, 1, 2).sum(), energy)
    weight, bias = from_blocks(layer, blocks)
    assert torch.equal(weight, layer.weight)
    assert (bias is None) == (layer.bias is None)
    assert bias is None or torch.equal(bias, layer.bias)
    mask = layer.weight > 0
    assert torch.equal(from_blocks(layer, mask_by_block(layer, mask).double())[0].bool(), mask)


class Overwriting(nn.Module):
    """Grouped convolutions, batch-norm, and activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.last = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        images = F.relu(self.norm(F.relu(self.first(images), inplace=True)), inplace=True)
        logits: Tensor = self.last(F.relu(self.second(images), inplace=True).flatten(1))
        return logits


def test_squared_gradients_are_those_of_single_images() -> None:
    torch.manual_seed(0)
    model = Overwriting().eval()
    inputs, targets = torch.randn(6, 2, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = {name: torch.zeros_like(layer.weight) for name, layer in layers(model)}
    for image, target in zip(inputs, targets, strict=True):
        loss = F.cross_entropy(model(image[None]), target[None])
        gradients = torch.autograd.grad(loss, [layer.weight for _, layer in layers(model)])
        for total, gradient in zip(expected.values(), gradients, strict=True):
            total += gradient.square() / 6
    squares = squared_gradients(model.train(), [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])], F.cross_entropy)
    for name, layer in layers(model):
        torch.testing.assert_close(from_blocks(layer, squares[name])[0], expected[name], rtol=1e-4, atol=1e-9)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("pooled", [False, True])
def test_kronecker_factors_have_the_scale_of_the_gradients_in_every_layer(pooled: bool) -> None:
    """mean(diag(A (x) G)) is the mean squared gradient of single images, or one threshold would not fit all layers."""
    torch.manual_seed(0)
    pooling = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
    first, second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 6, 1, groups=3)
    last = nn.Linear(6 if pooled else 54, 4)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), pooling, nn.Flatten(), last)
    batches = [(torch.randn(500, 2, 5, 5) + 0.5, torch.zeros(500, dtype=torch.long)) for _ in range(4)]
    factors = kronecker_factors(model, batches, torch.Generator().manual_seed(0))
    drawn = [torch.distributions.Categorical(logits=model(x)).sample() for x, _ in batches]
    measured = squared_gradients(model, [(x, y) for (x, _), y in zip(batches, drawn, strict=True)], F.cross_entropy)
    for name, factor in factors.items():
        inputs, gradients = (f.diagonal(dim1=1, dim2=2) for f in (factor.inputs, factor.gradients))
        mean = (gradients[:, :, None] * inputs[:, None]).mean()
        assert float(mean / measured[name].mean()) == pytest.approx(1, abs=0.1), name


def test_factors_where_the_fisher_matrix_is_a_kronecker_product() -> None:
    """Positions without correlation, inputs that tell nothing of the gradients: KFC's form is exact as it is."""
    torch.manual_seed(0)
    conv, last = nn.Conv2d(2, 3, 1, bias=False), nn.Linear(12, 2)
    with torch.no_grad():
        last.weight *= 1e-2  # a softmax that hardly depends on the image
    inputs = torch.randn(20000, 2, 2, 2) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    model = nn.Sequential(conv, nn.Flatten(), last)
    factors = kronecker_factors(model, [(inputs, torch.zeros(20000))], torch.Generator().manual_seed(0))["0.weight"]
    p = torch.softmax(last.bias.detach(), 0)
    covariance = p.diag() - p.outer(p)
    by_position = last.weight.detach().view(2, 3, 4)  # logit, channel, position
    gradients = torch.einsum("kct,kl,ldt->cd", by_position, covariance, by_position) / 4
    torch.testing.assert_close(factors.inputs[0].float(), 4 * torch.diag(torch.tensor([1.0, 4.0])), atol=0.3, rtol=0)
    torch.testing.assert_close(factors.gradients[0].float(), gradients, rtol=0.1, atol=0.02 * float(gradients.max()))


def test_drawn_labels_are_of_the_softmax_and_of_the_generator() -> None:
    model = nn.Linear(1, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
    batches = [(torch.ones(20000, 1), torch.zeros(20000, dtype=torch.long))]
    generator = torch.Generator().manual_seed(3)
    first, second = (kronecker_factors(model, batches, generator)["weight"] for _ in range(2))
    probabilities = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    expected = probabilities.diag() - probabilities.outer(probabilities)
    torch.testing.assert_close(first.gradients[0], expected, atol=0.01, rtol=0)
    assert torch.equal(first.gradients, second.gradients)


def test_some_images_are_drawn_once_and_from_everywhere() -> None:
    batches = [(torch.arange(start, start + 10.0)[:, None], torch.arange(start, start + 10)) for start in (0, 10, 20)]
    this = task_of(nn.Linear(1, 1), batches, size=30)
    first, again = (list(some_images(this, 12)) for _ in range(2))
    labels = torch.cat([targets for _, targets in first])
    assert len(labels) == len(labels.unique()) == 12
    assert len({int(label) // 10 for label in labels}) == 3
    assert torch.equal(torch.cat([inputs for inputs, _ in first])[:, 0].long(), labels)
    assert torch.equal(labels, torch.cat([targets for _, targets in again]))
    assert [len(targets) for _, targets in some_images(this, 100)] == [10, 10, 10]


def test_damping_is_in_mean_eigenvalues() -> None:
    matrix = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    inverse = damped_inverse(matrix, 0.5)  # the mean eigenvalue is 2
    torch.testing.assert_close(inverse, torch.tensor([[[1 / 4, 0.0], [0.0, 1 / 2]]], dtype=torch.float64))
    assert damped_inverse(torch.zeros(2, 3, 3, dtype=torch.float64), 0.1).isfinite().all()
