"""Second-order statistics of layers: of their inputs, and of the gradients at their outputs.

A convolution is treated as a linear layer on patches: one row for every image and position. All statistics are by
block: a grouped convolution has one for every group, a linear layer has one. Where a layer has a bias, a 1 is appended
to its input, and the bias is the last column of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.base import PruneTask

Batches = Iterable[tuple[Tensor, Tensor]]
Layer = nn.Conv2d | nn.Linear

_VALUES_AT_ONCE = 1 << 24
"""Values of the largest temporary tensor: 128 MB."""


@dataclass(frozen=True)
class KroneckerFactors:
    """Kronecker factors of the Fisher matrix of one layer's weights: about ``inputs`` (x) ``gradients``, for the loss
    of an image. In float64.
    """

    inputs: Tensor
    """A, shape (groups, in, in): sum over positions, mean over images of a a^T."""
    gradients: Tensor
    """G, shape (groups, out, out): mean over positions and images of g g^T, scaled as `kronecker_factors` says."""


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Yield the layers whose weights can be removed, with the names of their weights."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield f"{name}.weight" if name else "weight", module


def some_images(task: PruneTask, images: int) -> Batches:
    """Yield training images: all in order, or ``images`` of them drawn by a copy of the task's generator."""
    if images >= task.training_size:
        yield from task.training()
        return
    chosen = torch.randperm(task.training_size, generator=task.generator.clone_state())[:images].sort().values
    start = 0
    pending: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in task.training():
        rows = chosen[(chosen >= start) & (chosen < start + len(targets))] - start
        start += len(targets)
        index = rows.to(targets.device)
        pending.append((inputs.index_select(0, index), targets.index_select(0, index)))
        # Collected to the training's batch size: a batch of the few drawn images would waste the device.
        if sum(len(labels) for _, labels in pending) >= len(targets):
            yield _joined(pending)
            pending = []
    if sum(len(labels) for _, labels in pending):
        yield _joined(pending)


def input_covariances(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """Return E[a a^T] of every layer: sum over positions, mean over images. Shape (groups, in, in), float64."""
    totals = {name: _square(layer, "in") for name, layer in layers(model)}
    images = 0
    with _observed(model) as calls, torch.no_grad():
        for inputs, targets in batches:
            model(inputs)
            images += len(targets)
            for call in calls:
                totals[call.name] += _covariance(_input_rows, call.layer, call.inputs)
            calls.clear()
    return {name: total / max(images, 1) for name, total in totals.items()}


def kronecker_factors(model: nn.Module, batches: Batches, generator: torch.Generator) -> dict[str, KroneckerFactors]:
    """Return the factors of every layer's Fisher matrix, with labels drawn from the network's softmax.

    ``generator``: on the CPU; a copy of it draws the labels. Convolutions as in KFC (Grosse and Martens 2016), which
    takes the gradients of different positions as uncorrelated. They are not, least of all before global pooling (in a
    ResNet-20 its diagonal was 5 to 20 times too small), and neither are inputs and gradients, so each layer's G is
    scaled until the trace is that of single images' gradients.
    """
    inputs_total = {name: _square(layer, "in") for name, layer in layers(model)}
    gradients_total = {name: _square(layer, "out") for name, layer in layers(model)}
    energy = {name: total.new_zeros(()) for name, total in inputs_total.items()}
    generator = generator.clone_state()
    images = 0

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, _drawn(logits.detach(), generator), reduction="sum")

    for size, call_gradients in _gradients(model, batches, loss):
        images += size
        for call, gradient in call_gradients:
            inputs_total[call.name] += _covariance(_input_rows, call.layer, call.inputs)
            covariance = _covariance(_output_rows, call.layer, gradient)
            gradients_total[call.name] += covariance / _positions(call.layer, gradient)
            energy[call.name] += _squares(call, gradient).sum()
    factors = {}
    for name, total in inputs_total.items():
        a, g = total / max(images, 1), gradients_total[name] / max(images, 1)
        estimate = (_traces(a) * _traces(g)).sum()
        factors[name] = KroneckerFactors(a, g * (energy[name] / max(images, 1) / estimate.clamp_min(1e-150)))
    return factors


def squared_gradients(
    model: nn.Module, batches: Batches, loss: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return E[(dL/dw)^2] over single images, biases included. Shape (groups, out, in), float64.

    ``loss`` is the mean over a batch of the images' losses; batch-norm uses its running statistics.
    """
    totals = {name: torch.zeros_like(weights_by_block(layer)) for name, layer in layers(model)}
    images = 0
    for size, call_gradients in _gradients(
        model, batches, lambda logits, targets: loss(logits, targets) * len(targets)
    ):
        images += size
        for call, gradient in call_gradients:
            totals[call.name] += _squares(call, gradient)
    return {name: total / max(images, 1) for name, total in totals.items()}


def weights_by_block(layer: Layer) -> Tensor:
    """Return a layer's weights, and its bias as the last column. Shape (groups, out, in), float64."""
    weight = layer.weight.detach().double().flatten(1)
    matrix = weight if layer.bias is None else torch.cat([weight, layer.bias.detach().double()[:, None]], 1)
    return matrix.reshape(_groups(layer), -1, matrix.shape[1])


def from_blocks(layer: Layer, matrix: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias, in the layer's shapes and type, of a matrix (groups, out, in)."""
    rows = matrix.flatten(0, 1).to(layer.weight.dtype)
    if layer.bias is None:
        return rows.reshape(layer.weight.shape), None
    return rows[:, :-1].reshape(layer.weight.shape), rows[:, -1]


def mask_by_block(layer: Layer, mask: Tensor) -> Tensor:
    """Return a mask of a layer's weights in the shape of `weights_by_block`; biases stay (True)."""
    rows = mask.to(layer.weight.device).flatten(1)
    if layer.bias is not None:
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
    return rows.reshape(_groups(layer), -1, rows.shape[1])


def damped_inverse(matrices: Tensor, damping: float) -> Tensor:
    """Invert symmetric matrices with ``damping`` times their mean eigenvalue on the diagonal. Shape (n, d, d)."""
    mean = matrices.diagonal(dim1=-2, dim2=-1).mean()
    # The matrix of a layer without input or gradient is zero; its inverse is large, and finite.
    ridge = (damping * mean).clamp_min(1e-150)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(matrices + ridge * identity))


@dataclass(frozen=True)
class _Call:
    """One forward call of a layer. ``probe``: zeros added to its output, to differentiate by."""

    name: str
    layer: Layer
    inputs: Tensor
    probe: Tensor


@contextmanager
def _observed(model: nn.Module) -> Iterator[list[_Call]]:
    """Record every forward call of every layer, in evaluation mode, for as long as the context lasts."""
    calls: list[_Call] = []
    training = {module: module.training for module in model.modules()}
    handles = []

    def observer(name: str, layer: Layer) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def observe(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            # Not the output itself: an activation may overwrite it in place.
            probe = torch.zeros_like(output).requires_grad_()
            calls.append(_Call(name, layer, inputs[0].detach(), probe))
            return output + probe

        return observe

    try:
        handles = [layer.register_forward_hook(observer(name, layer)) for name, layer in layers(model)]
        model.eval()
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode


def _gradients(
    model: nn.Module, batches: Batches, loss: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[tuple[int, list[tuple[_Call, Tensor]]]]:
    """Yield every batch's size and layer calls, with the gradient of its summed loss at each call's output."""
    with _observed(model) as calls, torch.enable_grad():
        for inputs, targets in batches:
            total = loss(model(inputs), targets)
            at_probes = torch.autograd.grad(total, [call.probe for call in calls], allow_unused=True)
            gradients = [call.probe if g is None else g for call, g in zip(calls, at_probes, strict=True)]
            yield len(targets), [(call, g.detach()) for call, g in zip(calls, gradients, strict=True)]
            calls.clear()


def _squares(call: _Call, gradient: Tensor) -> Tensor:
    """Return the sum over images of the squared gradients by the weights. Shape (groups, out, in)."""
    if _positions(call.layer, gradient) == 1:
        g, x = (
            rows.flatten(1, 2).square()
            for rows in (_output_rows(call.layer, gradient), _input_rows(call.layer, call.inputs))
        )
        return g.transpose(1, 2) @ x
    blocks = weights_by_block(call.layer)
    per_image = blocks.numel() + _positions(call.layer, gradient) * len(blocks) * blocks.shape[2]
    step = max(1, _VALUES_AT_ONCE // per_image)
    total = torch.zeros_like(blocks)
    for inputs, part in zip(torch.split(call.inputs, step), torch.split(gradient, step), strict=True):
        total += (_output_rows(call.layer, part).transpose(-1, -2) @ _input_rows(call.layer, inputs)).square().sum(1)
    return total


def _traces(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw labels from the softmax of logits by Gumbel noise, the same on every device. Shape (B,)."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return (logits.double() - (-uniform.log()).log().to(logits.device)).argmax(1)


def _groups(layer: Layer) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def _square(layer: Layer, axis: str) -> Tensor:
    blocks = weights_by_block(layer)
    edge = blocks.shape[2 if axis == "in" else 1]
    return blocks.new_zeros(len(blocks), edge, edge)


def _input_rows(layer: Layer, inputs: Tensor) -> Tensor:
    """Return a layer's input as rows, (groups, images, positions, in), float64."""
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        patches = F.unfold(padded.double(), layer.kernel_size, layer.dilation, stride=layer.stride)
        rows = patches.view(len(patches), layer.groups, -1, patches.shape[2]).permute(1, 0, 3, 2)
    else:
        rows = inputs.double().flatten(1, -2)[None] if inputs.dim() > 2 else inputs.double()[None, :, None]
    return rows if layer.bias is None else torch.cat([rows, torch.ones_like(rows[..., :1])], -1)


def _output_rows(layer: Layer, outputs: Tensor) -> Tensor:
    """Return outputs, or gradients at them, as rows, (groups, images, positions, out), float64."""
    if isinstance(layer, nn.Conv2d):
        return outputs.double().reshape(len(outputs), layer.groups, -1, outputs[0, 0].numel()).permute(1, 0, 3, 2)
    return outputs.double().flatten(1, -2)[None] if outputs.dim() > 2 else outputs.double()[None, :, None]


def _positions(layer: Layer, outputs: Tensor) -> int:
    channels = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
    return max(1, outputs.numel() // (max(1, len(outputs)) * channels))


def _covariance(rows_of: Callable[[Layer, Tensor], Tensor], layer: Layer, values: Tensor) -> Tensor:
    """Return the sum over images and positions of x x^T, computed a few images at a time. Shape (groups, d, d)."""
    step = max(1, _VALUES_AT_ONCE // max(1, rows_of(layer, values[:1]).numel()))
    pieces = (rows_of(layer, piece).flatten(1, 2) for piece in torch.split(values, step))
    total = sum(rows.transpose(1, 2) @ rows for rows in pieces)
    assert isinstance(total, Tensor)
    return total


def _joined(pieces: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([inputs for inputs, _ in pieces]), torch.cat([targets for _, targets in pieces])
