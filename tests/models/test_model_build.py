"""Building networks: shapes, seeds, errors, and a user's factory."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from orchestrator.models import MODELS
from orchestrator.models.build import ModelError, build
from orchestrator.models.resnet_cifar import ZeroPadShortcut
from orchestrator.plugins import UnknownName

torch.set_num_threads(1)

SMALLEST = {"lenet5": 16, "cifar_net": 8, "vgg16": 16, "vgg19": 16, "vgg_like": 16, "alexnet": 39}
SMALLEST |= dict.fromkeys(["resnet20", "resnet32", "resnet56", "resnet110", "resnet164", "wrn_28_10"], 4)


def size_for(name: str) -> int:
    return max(16, SMALLEST.get(name, 1))


@pytest.mark.parametrize("name", MODELS.table)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 100), (3, 17, 7)])
def test_output_shape(name: str, channels: int, size: int, classes: int) -> None:
    size = max(size, SMALLEST.get(name, 1))
    model = build(name, {}, classes=classes, channels=channels, size=size)
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, classes)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS.table)
def test_same_seed_same_network(name: str) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build(name, {}, classes=10, channels=1, size=size_for(name)).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS.table)
def test_float32_on_the_cpu_training_and_pickled(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = build(name, {}, classes=10, channels=1, size=size_for(name))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert model.training
    images = torch.randn(1, 1, size_for(name), size_for(name))
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(model)).eval()(images), model.eval()(images))


@pytest.mark.parametrize(("name", "smallest"), SMALLEST.items())
def test_smallest_images(name: str, smallest: int) -> None:
    model = build(name, {}, classes=10, channels=1, size=smallest)
    assert model(torch.randn(2, 1, smallest, smallest)).shape == (2, 10)
    small = smallest - 1
    with pytest.raises(ModelError) as caught:
        build(name, {}, classes=10, channels=1, size=small)
    expected = f"{name} needs images of at least {smallest}x{smallest} pixels, data has {small}x{small}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_convnet_takes_small_images(size: int) -> None:
    model = build("convnet", {"width": 0.1}, classes=10, channels=1, size=size)
    assert model(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_parameters_are_read_without_importing() -> None:
    assert MODELS.parameters("convnet")(width=2).model_dump() == {"batch_norm": False, "width": 2.0}
    assert [p.name for p in MODELS.describe("torchvision:resnet18").parameters] == ["weights"]


def test_caffe_initialisation() -> None:
    model = build("lenet5", {}, classes=10, channels=1, size=28)
    fc1 = model.get_submodule("fc1")
    assert isinstance(fc1, nn.Linear)
    bound = (3 / 800) ** 0.5
    assert 0.999 * bound < fc1.weight.abs().max() <= bound
    assert fc1.bias.count_nonzero() == 0


def test_option_a_shortcut_pads_with_zeros_and_keeps_the_gradient() -> None:
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    y = ZeroPadShortcut()(x)
    assert torch.equal(y[:, :3], x[:, :, [0, 2, 4]][:, :, :, [0, 2]])
    assert y.shape == (2, 6, 3, 2)
    assert y[:, 3:].count_nonzero() == 0
    y.sum().backward()
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2] = 1
    assert torch.equal(x.grad, expected)


def test_dropout_acts_in_training_alone() -> None:
    model = build("alexnet", {"dropout": 0.5}, classes=10, channels=3, size=39)
    images = torch.randn(2, 3, 39, 39)
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        assert torch.equal(model.eval()(images), model(images))
        whole = build("alexnet", {"dropout": 0.0}, classes=10, channels=3, size=39)
        assert torch.equal(whole(images), whole(images))


def test_a_signal_passes_vgg16_without_norms() -> None:
    torch.manual_seed(0)
    model = build("vgg16", {"batch_norm": False}, classes=10, channels=3, size=32)
    with torch.no_grad():
        assert 0.1 < float(model(torch.randn(8, 3, 32, 32)).std()) < 10


def test_alexnet_is_initialised_as_in_caffe() -> None:
    model = build("alexnet", {}, classes=10, channels=3, size=39)
    std = {
        name: round(float(layer.weight.detach().std()), 4)
        for name, layer in model.named_children()
        if name[:2] in "cofc"
    }
    assert std == {
        **dict.fromkeys(["conv1", "conv2", "conv3", "conv4", "conv5", "fc3"], 0.01),
        "fc1": 0.005,
        "fc2": 0.005,
    }
    biases = {name: float(layer.bias.detach().mean()) for name, layer in model.named_children() if name[:2] in "cofc"}
    assert [round(b, 6) for b in biases.values()] == [0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1, 0.0]


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_nets_for_build.py").write_text(
        "import torch\n"
        "def tiny(*, num_classes, in_channels, hidden=4):\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(in_channels, hidden, 1), torch.nn.AdaptiveAvgPool2d(1),\n"
        "                               torch.nn.Flatten(), torch.nn.Linear(hidden, num_classes)).double()\n"
        "def sized(num_classes, in_channels, image_size):\n"
        "    inputs = in_channels * image_size**2\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, num_classes))\n"
        "def open_ended(**given):\n"
        "    module = torch.nn.Identity()\n"
        "    module.given = given\n"
        "    return module\n"
        "def nothing(num_classes, in_channels):\n"
        "    return {'a': 1}\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_nets_for_build"


def test_own_factory(own_package: str) -> None:
    model = build(f"{own_package}:tiny", {"hidden": 6}, classes=5, channels=2, size=8)
    assert model(torch.randn(3, 2, 8, 8)).shape == (3, 5)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert build(f"{own_package}:sized", {}, classes=5, channels=2, size=8)(torch.randn(3, 2, 8, 8)).shape == (3, 5)
    given = build(f"{own_package}:open_ended", {"depth": 2}, classes=5, channels=2, size=8).given
    assert given == {"num_classes": 5, "in_channels": 2, "depth": 2}


@pytest.mark.parametrize(
    ("attribute", "params", "message"),
    [
        ("nothing", {}, "returned dict, not a torch.nn.Module"),
        ("tiny", {"hiden": 6}, "unexpected keyword argument 'hiden'"),
        ("tiny", {"num_classes": 6}, "'num_classes' follows from the data"),
        ("absent", {}, "cannot be loaded: .*absent"),
        ("number", {}, "is int, not a function"),
    ],
)
def test_own_factory_refused(own_package: str, attribute: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build(f"{own_package}:{attribute}", params, classes=5, channels=2, size=8)
    assert f"{own_package}:{attribute}" in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet56'"):
        build("resnet65", {}, classes=10, channels=3, size=32)
    with pytest.raises(ModelError, match="cannot be loaded: No module named 'no_such_package_here'"):
        build("no_such_package_here:net", {}, classes=10, channels=3, size=32)
