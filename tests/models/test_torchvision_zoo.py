"""torchvision's networks: any channels, any number of classes, no auxiliary heads, clear errors."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from orchestrator.models.build import ModelError, build
from orchestrator.models.torchvision_zoo import drop_auxiliary_heads, replace_classifier

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("architecture", "channels", "size"),
    [
        ("resnet18", 3, 32),
        ("resnet18", 1, 64),
        ("mobilenet_v2", 3, 64),
        ("mobilenet_v2", 1, 32),
        ("squeezenet1_1", 1, 32),
        ("shufflenet_v2_x0_5", 3, 32),
        ("googlenet", 1, 32),
    ],
)
def test_builds_and_trains(architecture: str, channels: int, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build(f"torchvision:{architecture}", {}, classes=7, channels=channels, size=size)
    assert model.training
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    logits.sum().backward()


def test_three_channels_change_nothing() -> None:
    torch.manual_seed(0)
    ours = build("torchvision:resnet18", {}, classes=7, channels=3, size=32).state_dict()
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_first_convolution_keeps_its_geometry() -> None:
    model = build("torchvision:resnet18", {}, classes=7, channels=5, size=32)
    conv = model.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.shape == (64, 5, 7, 7)
    assert (conv.stride, conv.padding, conv.bias) == ((2, 2), (3, 3), None)


def test_parameters_reach_torchvision() -> None:
    model = build("torchvision:mobilenet_v2", {"width_mult": 0.25}, classes=7, channels=3, size=32)
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert first.out_channels == 8
    assert sum(p.numel() for p in model.parameters()) < 300_000


def test_vision_transformer_gets_the_image_size() -> None:
    small = {"hidden_dim": 24, "mlp_dim": 24, "num_layers": 1, "num_heads": 2, "patch_size": 8}
    with pytest.raises(ModelError, match=r"vit_b_16 cannot be built: .*hidden_dim"):
        build("torchvision:vit_b_16", small, classes=7, channels=1, size=32)
    model = build("torchvision:vit_b_16", {}, classes=7, channels=1, size=32)
    assert model.get_parameter("encoder.pos_embedding").shape == (1, 2 * 2 + 1, 768)


@pytest.mark.parametrize(
    ("architecture", "params", "message"),
    [
        ("resnet81", {}, "unknown torchvision architecture 'resnet81'; did you mean 'resnet"),
        ("resnet18", {"widht": 3}, "torchvision:resnet18 cannot be built: .*'widht'"),
        ("resnet18", {"weights": "NO_SUCH"}, "torchvision:resnet18 cannot be built: .*NO_SUCH"),
        ("googlenet", {"aux_logits": True}, "without auxiliary heads"),
        ("alexnet", {}, "torchvision:alexnet cannot take images of 32x32 pixels: "),
    ],
)
def test_errors(architecture: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(f"torchvision:{architecture}", params, classes=7, channels=3, size=32)


def test_trained_weights_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are a file in torch's cache, where a download would put it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trained = torchvision.models.squeezenet1_1()
    url = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    checkpoint = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    checkpoint.parent.mkdir(parents=True)
    torch.save(trained.state_dict(), checkpoint)
    model = build("torchvision:squeezenet1_1", {"weights": "DEFAULT"}, classes=7, channels=3, size=32)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    expected = trained.state_dict()
    differing = {key for key, value in model.state_dict().items() if not torch.equal(value, expected[key])}
    assert differing == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_trained_networks_get_a_new_last_layer(architecture: str) -> None:
    model = torchvision.models.get_model(architecture)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    replace_classifier(model, 7)
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 7)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.rpartition(".")[2] for key in changed} == {"weight", "bias"}
    assert len(changed) == 2


def test_a_last_layer_that_fits_stays() -> None:
    model = torchvision.models.resnet18()
    last = model.fc
    replace_classifier(model, 1000)
    assert model.fc is last


def test_trained_googlenet_loses_its_auxiliary_heads() -> None:
    model = torchvision.models.googlenet(num_classes=7, aux_logits=True, init_weights=False)
    drop_auxiliary_heads(model)
    assert isinstance(model.train()(torch.randn(2, 3, 64, 64)), torch.Tensor)
    assert not any(name.startswith("aux") for name, _ in model.named_parameters())
