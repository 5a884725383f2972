"""Every channel group of our networks can be cut along torch-pruning's graph, and the cut equals the masked network."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch_pruning as tp
from torch import nn

from orchestrator.models.build import build

torch.set_num_threads(1)

CASES = [
    ("lenet_300_100", {}, 1, 28),
    ("lenet5", {}, 1, 28),
    ("convnet", {"width": 0.25}, 3, 32),
    ("convnet", {"width": 0.25, "batch_norm": True}, 1, 8),
    ("vgg16", {}, 3, 32),
    ("vgg16", {"batch_norm": False}, 3, 32),
    ("vgg19", {}, 3, 32),
    ("vgg_like", {}, 3, 32),
    ("cifar_net", {}, 3, 32),
    ("resnet20", {}, 3, 32),
    ("resnet56", {}, 3, 32),
]


def dense(name: str, params: dict[str, object], channels: int, size: int) -> nn.Module:
    torch.manual_seed(0)
    model = build(name, params, classes=10, channels=channels, size=size)
    for module in model.modules():
        # New batch norms have zero shifts, which would hide a wrongly cut channel.
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def groups(model: nn.Module, example: torch.Tensor) -> Iterator[tuple[tp.DependencyGraph, tp.Group]]:
    """Iterate over all groups but the logits; traces the model anew each time, so that earlier cuts are included."""
    roots = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)][:-1]
    visited: set[str] = set()
    for root in roots:
        if root in visited:
            continue
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
        layer = model.get_submodule(root)
        width = layer.weight.shape[0]
        group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, range(width))
        names = {module: name for name, module in model.named_modules()}
        visited |= {names[d.target.module] for d, _ in group if is_output(d) and d.target.module in names}
        removed = list(range(0, width, 4))
        handler = graph.get_pruner_of_module(layer).prune_out_channels
        yield graph, graph.get_pruning_group(layer, handler, removed)


def is_output(dependency: tp.Dependency) -> bool:
    return dependency.handler.__name__ == "prune_out_channels"


def mask(group: tp.Group) -> None:
    """Set to zero what the group would cut: weights, biases, batch-norm scales and shifts of its output channels."""
    for dependency, index in group:
        module = dependency.target.module
        if is_output(dependency) and isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[index] = 0
                if module.bias is not None:
                    module.bias[index] = 0


@pytest.mark.parametrize(("name", "params", "channels", "size"), CASES)
def test_every_group_can_be_cut_and_the_cut_network_equals_the_masked_one(
    name: str, params: dict[str, object], channels: int, size: int
) -> None:
    model = dense(name, params, channels, size)
    images = torch.randn(3, channels, size, size)
    with torch.no_grad():
        before = model(images)
    for graph, group in groups(model, images[:1]):
        mask(group)
        with torch.no_grad():
            masked = model(images)
        assert graph.check_pruning_group(group)
        group.prune()
        with torch.no_grad():
            torch.testing.assert_close(model(images), masked, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, masked)
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
    logits = model.train()(images)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_residual_stream_of_a_cifar_resnet_is_one_group() -> None:
    """Channel i of the first stage goes with i, 16 + i of the second and i, 16 + i, 32 + i, 48 + i of the third."""
    model = dense("resnet20", {}, 3, 32)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 3, 32, 32))
    names = {module: name for name, module in model.named_modules()}
    widths = {}
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        root = names[group[0].dep.target.module]
        widths[root] = len(group[0].idxs)
    inner = {f"layer{s}.{b}.conv1": 8 << s for s in (1, 2, 3) for b in range(3)}
    assert widths == {"conv1": 16, "fc": 10, **inner}

    group = graph.get_pruning_group(model.get_submodule("conv1"), tp.prune_conv_out_channels, [5])
    cut = {names[d.target.module]: sorted(index) for d, index in group if d.target.module in names}
    assert cut["layer1.2.conv2"] == [5]
    assert cut["layer2.0.conv2"] == [5, 21]
    assert cut["layer3.2.bn2"] == cut["fc"] == [5, 21, 37, 53]


@pytest.mark.parametrize("root", ["layer2.1.conv2", "layer3.0.conv2"])
def test_stream_can_be_cut_from_any_stage(root: str) -> None:
    model = dense("resnet20", {}, 3, 32)
    images = torch.randn(2, 3, 32, 32)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=images)
    group = graph.get_pruning_group(model.get_submodule(root), tp.prune_conv_out_channels, [20])
    masked = copy.deepcopy(model)
    group.prune()
    widths = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert (widths["conv1"], widths["layer2.0.conv2"], widths["layer3.0.conv2"]) == (15, 30, 60)
    for width, stage in [(16, "layer1"), (32, "layer2"), (64, "layer3")]:
        removed = list(range(20 % 16, width, 16))
        for name, module in [("bn1", masked.get_submodule("bn1")), *masked.named_modules()]:
            if (name == "bn1" and stage == "layer1") or (name.startswith(stage) and name.endswith("bn2")):
                with torch.no_grad():
                    module.weight[removed] = 0
                    module.bias[removed] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(images), masked(images), rtol=1e-4, atol=1e-5)
