"""Networks that do not accept their images are recognised without training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.spec.trial import TrialSpec
from orchestrator.sweep.space.resolve import resolve
from orchestrator.trial.shape_check import shape_error


def spec(model: Any, data: Any = "digits") -> TrialSpec:
    return resolve({"model": model, "data": data, "method": "l1_norm", "target": {"sparsity": 0.5}})


def test_networks_that_accept_their_images_pass() -> None:
    assert shape_error(spec("lenet_300_100")) is None
    assert shape_error(spec("lenet5", {"name": "digits", "size": 28})) is None


def test_a_model_error_is_repeated() -> None:
    reason = "lenet5 needs images of at least 16x16 pixels, data has 8x8"
    assert shape_error(spec("lenet5")) == f"the 8x8 images of 'digits': {reason}"


@pytest.mark.parametrize("size", [8, 160])
def test_a_failing_forward_pass_is_reported(size: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU for small images, on the meta device first for large ones."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wide_nets.py").write_text(
        "from torch import nn\n\n\n"
        "def wide(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 200), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    error = shape_error(spec("wide_nets:wide", {"name": "digits", "size": size}))
    assert error is not None
    assert error.startswith(f"the {size}x{size} images of 'digits': RuntimeError: Calculated padded input size")


def test_a_network_for_photographs_draws_no_weights() -> None:
    state = torch.get_rng_state()
    assert shape_error(spec("torchvision:resnet18", {"name": "digits", "size": 224})) is None
    assert torch.equal(torch.get_rng_state(), state)
