"""Parameters and MACs of every network in the table, against arithmetic from the papers' widths alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from orchestrator.models import MODELS
from orchestrator.models.build import build
from orchestrator.models.vgg import vgg_of_widths

torch.set_num_threads(1)


def counted_macs(model: nn.Module, channels: int, size: int, types: tuple[type, ...] = (nn.Conv2d, nn.Linear)) -> int:
    """Count the MACs of one image from the shapes of the layers' inputs and outputs."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            total += output[0].numel() * height * width * inputs[0].shape[1] // module.groups
        else:
            total += output[0].numel() * inputs[0].shape[1]

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, types)]
    with torch.no_grad():
        model.eval()(torch.zeros(1, channels, size, size))
    for hook in hooks:
        hook.remove()
    return total


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def chain_macs(widths: list[int], maps: list[int]) -> int:
    """Return the MACs of a chain of 3x3 convolutions on three-channel images; ``maps`` are edges of their outputs."""
    inputs = [3, *widths[:-1]]
    return sum(9 * i * o * m * m for i, o, m in zip(inputs, widths, maps, strict=True))


def chain_weights(widths: list[int]) -> int:
    return sum(9 * i * o for i, o in zip([3, *widths[:-1]], widths, strict=True))


@pytest.mark.parametrize(
    ("name", "expected_parameters", "expected_macs"),
    [
        ("lenet_300_100", 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10, 784 * 300 + 300 * 100 + 100 * 10),
        (
            "lenet5",
            (25 * 20 + 20) + (25 * 20 * 50 + 50) + (800 * 500 + 500) + (500 * 10 + 10),
            24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10,
        ),
    ],
)
def test_lenets_on_mnist(name: str, expected_parameters: int, expected_macs: int) -> None:
    model = build(name, {}, classes=10, channels=1, size=28)
    assert parameters(model) == expected_parameters == {"lenet_300_100": 266_610, "lenet5": 431_080}[name]
    assert counted_macs(model, 1, 28) == expected_macs


VGG16 = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG16_MAPS = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
REMOVED_A = [19, 3, 8, 17, 21, 18, 36, 146, 313, 223, 398, 395, 218]
REMOVED_B = [36, 19, 38, 26, 64, 64, 77, 329, 424, 438, 483, 432, 384]


def test_vgg16() -> None:
    model = build("vgg16", {}, classes=10, channels=3, size=32)
    classifier = 512 * 512 + 512 + 2 * 512 + 512 * 10 + 10
    assert parameters(model) == chain_weights(VGG16) + 2 * sum(VGG16) + classifier == 14_987_722
    assert counted_macs(model, 3, 32) == chain_macs(VGG16, VGG16_MAPS) + 512 * 512 + 512 * 10 == 313_463_808


def test_vgg19_is_that_of_network_slimming() -> None:
    widths = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    maps = [32] * 2 + [16] * 2 + [8] * 4 + [4] * 4 + [2] * 4
    model = build("vgg19", {}, classes=10, channels=3, size=32)
    assert parameters(model) == chain_weights(widths) + 2 * sum(widths) + 512 * 10 + 10
    assert round(parameters(model) / 1e6, 2) == 20.04
    assert counted_macs(model, 3, 32) == chain_macs(widths, maps) + 512 * 10
    assert round(counted_macs(model, 3, 32) / 1e8, 3) == 3.981


@pytest.mark.parametrize(("removed", "printed_cut"), [(REMOVED_A, 41.0), (REMOVED_B, 66.9)], ids="AB")
def test_published_counts_cut_vgg16_as_published(removed: list[int], printed_cut: float) -> None:
    """Functionality-oriented pruning, table 4: filters removed of each layer, against the cut in convolutions' MACs."""
    kept = [width - count for width, count in zip(VGG16, removed, strict=True)]
    dense = counted_macs(build("vgg16", {}, classes=10, channels=3, size=32), 3, 32, (nn.Conv2d,))
    blocks = [kept[0:2], kept[2:4], kept[4:7], kept[7:10], kept[10:13]]
    narrow = vgg_of_widths(blocks, hidden=512, num_classes=10, in_channels=3)
    pruned = counted_macs(narrow, 3, 32, (nn.Conv2d,))
    assert (dense, pruned) == (chain_macs(VGG16, VGG16_MAPS), chain_macs(kept, VGG16_MAPS))
    assert round(100 * (1 - pruned / dense), 1) == printed_cut


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_vgg_layers_are_named_as_in_the_tables(name: str) -> None:
    model = build(name, {}, classes=10, channels=3, size=32)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    per_block = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}[name]
    assert names == [f"conv{b}_{i}" for b, n in enumerate(per_block, start=1) for i in range(1, n + 1)]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_convnet(batch_norm: bool) -> None:
    widths, maps = [64, 128, 256, 512, 512], [32, 16, 8, 4, 2]
    model = build("convnet", {"batch_norm": batch_norm}, classes=10, channels=3, size=32)
    norms_or_biases = (2 if batch_norm else 1) * sum(widths)
    assert parameters(model) == chain_weights(widths) + norms_or_biases + 512 * 10 + 10
    assert counted_macs(model, 3, 32) == chain_macs(widths, maps) + 512 * 10
    assert chain_macs(widths, maps) == 67_829_760


def test_convnet_width_multiplies_every_layer() -> None:
    model = build("convnet", {"width": 0.125}, classes=10, channels=3, size=32)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [8, 16, 32, 64, 64]
    assert counted_macs(model, 3, 32) == chain_macs([8, 16, 32, 64, 64], [32, 16, 8, 4, 2]) + 64 * 10


@pytest.mark.parametrize(
    ("depth", "printed_parameters", "millions_of_macs"),
    [(20, 269_722, 40.55), (32, 464_154, 68.86), (56, 853_018, 125.49), (110, 1_727_962, 252.89)],
)
def test_resnets(depth: int, printed_parameters: int, millions_of_macs: float) -> None:
    blocks = (depth - 2) // 6
    weights, macs, channels = 9 * 3 * 16, 9 * 3 * 16 * 32 * 32, 16
    scales = 2 * 16
    for width, side in [(16, 32), (32, 16), (64, 8)]:
        for _ in range(blocks):
            for inputs in (channels, width):
                weights += 9 * inputs * width
                macs += 9 * inputs * width * side * side
                scales += 2 * width
            channels = width
    model = build(f"resnet{depth}", {}, classes=10, channels=3, size=32)
    assert parameters(model) == weights + scales + 64 * 10 + 10 == printed_parameters
    assert counted_macs(model, 3, 32) == macs + 64 * 10
    assert round(macs / 1e6, 2) == millions_of_macs


def test_vgg16_without_batch_norm_has_biases() -> None:
    model = build("vgg16", {"batch_norm": False}, classes=10, channels=3, size=32)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())
    classifier = 512 * 512 + 512 + 512 * 10 + 10
    assert parameters(model) == chain_weights(VGG16) + sum(VGG16) + classifier == 14_982_474
    assert counted_macs(model, 3, 32) == 313_463_808


def test_vgg_like_of_autoprune() -> None:
    model = build("vgg_like", {}, classes=10, channels=3, size=32)
    weights = {n: m.weight.numel() for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    convolutions = sum(count for name, count in weights.items() if name.startswith("conv"))
    assert convolutions == chain_weights(VGG16) == 14_710_464
    assert weights["fc1"] + weights["fc2"] == 512 * 512 + 512 * 10 == 267_264
    assert counted_macs(model, 3, 32) == chain_macs(VGG16, VGG16_MAPS) + 267_264


def test_cifar_net_is_caffes_quick_network() -> None:
    model = build("cifar_net", {}, classes=10, channels=3, size=32)
    weights = [25 * 3 * 32, 25 * 32 * 32, 25 * 32 * 64, 4 * 4 * 64 * 64, 64 * 10]
    assert parameters(model) == sum(weights) + 32 + 32 + 64 + 64 + 10 == 145_578
    maps = [32, 16, 8, 1, 1]
    assert counted_macs(model, 3, 32) == sum(w * m * m for w, m in zip(weights, maps, strict=True)) == 12_354_176


@pytest.mark.parametrize(("size", "first_map"), [(227, 55), (224, 54)])
def test_alexnet_has_caffes_weights(size: int, first_map: int) -> None:
    """Paper 002, table 4: the weights of each layer, and 61M in all."""
    model = build("alexnet", {}, classes=1000, channels=3, size=size)
    weights = {n: m.weight.numel() for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    expected = {
        "conv1": 96 * 3 * 11 * 11,
        "conv2": 256 * 48 * 5 * 5,
        "conv3": 384 * 256 * 3 * 3,
        "conv4": 384 * 192 * 3 * 3,
        "conv5": 256 * 192 * 3 * 3,
        "fc1": 6 * 6 * 256 * 4096,
        "fc2": 4096 * 4096,
        "fc3": 4096 * 1000,
    }
    assert weights == expected
    assert sum(weights.values()) == 60_954_656
    assert parameters(model) == 60_954_656 + 96 + 256 + 384 + 384 + 256 + 4096 + 4096 + 1000 == 60_965_224
    maps = dict(zip(expected, [first_map, 27, 13, 13, 13, 1, 1, 1], strict=True))
    assert counted_macs(model, 3, size) == sum(count * maps[name] ** 2 for name, count in expected.items())
    if size == 227:
        assert round(counted_macs(model, 3, size) / 1e6, 1) == 724.4


def test_resnet164_is_that_of_network_slimming() -> None:
    weights, macs, channels, norms, selected = 9 * 3 * 16, 9 * 3 * 16 * 32 * 32, 16, 0, 0
    for width, side in [(16, 32), (32, 16), (64, 8)]:
        for block in range(18):
            unstrided = side * (2 if width > 16 and block == 0 else 1)  # the 1x1 convolution precedes the stride
            inner = [(channels * width, unstrided), (9 * width * width, side), (width * 4 * width, side)]
            if block == 0:
                inner.append((channels * 4 * width, side))
            weights += sum(count for count, _ in inner)
            macs += sum(count * pixels**2 for count, pixels in inner)
            norms += channels + width + width
            selected += channels
            channels = 4 * width
    norms, selected = norms + channels, selected + channels
    model = build("resnet164", {}, classes=10, channels=3, size=32)
    assert parameters(model) == weights + 2 * norms + 256 * 10 + 10 == 1_703_258
    assert counted_macs(model, 3, 32) == macs + 256 * 10 == 247_646_720
    # The 1.71M of its README include a 0 or 1 for each channel of its channel-selection layers.
    assert selected == 8_080
    assert round((parameters(model) + selected) / 1e6, 2) == 1.71


def test_wide_resnet() -> None:
    weights, macs, channels, norms = 9 * 3 * 16, 9 * 3 * 16 * 32 * 32, 16, 0
    for width, side in [(160, 32), (320, 16), (640, 8)]:
        for block in range(4):
            inner = 9 * channels * width + 9 * width * width + (channels * width if block == 0 else 0)
            weights, macs, norms = weights + inner, macs + inner * side * side, norms + channels + width
            channels = width
    norms += channels
    model = build("wrn_28_10", {}, classes=10, channels=3, size=32)
    assert parameters(model) == weights + 2 * norms + 640 * 10 + 10 == 36_479_194
    assert counted_macs(model, 3, 32) == macs + 640 * 10 == 5_243_328_768


@pytest.mark.parametrize(
    ("architecture", "expected_parameters", "millions_of_macs"),
    [
        ("resnet18", 11_689_512, 1814.1),
        ("resnet34", 21_797_672, 3663.8),
        ("resnet50", 25_557_032, 4089.2),
        ("mobilenet_v2", 3_504_872, 300.8),
    ],
)
def test_the_papers_imagenet_networks_are_torchvisions(
    architecture: str, expected_parameters: int, millions_of_macs: float
) -> None:
    model = build(f"torchvision:{architecture}", {}, classes=1000, channels=3, size=224)
    assert parameters(model) == expected_parameters
    assert round(counted_macs(model, 3, 224) / 1e6, 1) == millions_of_macs


def test_every_network_of_the_table_is_counted_here() -> None:
    counted = {"lenet_300_100", "lenet5", "cifar_net", "convnet", "vgg16", "vgg19", "vgg_like", "alexnet"}
    counted |= {"resnet20", "resnet32", "resnet56", "resnet110", "resnet164", "wrn_28_10"}
    assert set(MODELS.table) == counted
