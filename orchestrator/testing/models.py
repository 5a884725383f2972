"""Conformance suite of models: tests to inherit."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from orchestrator.metrics.macs import count_macs
from orchestrator.models import MODELS
from orchestrator.models.build import ModelError, build
from orchestrator.plugins import Registry
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import cut
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.masks import mask_channels
from orchestrator.surgery.selection import select_channels
from orchestrator.testing.networks import randomize_norms

CLASSES = 7
SIZES = (32, 64, 128, 224)


@cache
def built(name: str, channels: int) -> tuple[nn.Module, torch.Tensor]:
    """Return the network for the smallest of `SIZES` that it takes, and an empty image."""
    for size in SIZES:
        torch.manual_seed(0)
        try:
            model = build(name, {}, classes=CLASSES, channels=channels, size=size)
        except ModelError:
            continue
        return randomize_norms(model), torch.zeros(1, channels, size, size)
    raise AssertionError(f"{name} takes none of {SIZES} pixels")


class ModelSuite:
    """Inherit it as ``Test...`` and parametrize the class over ``model_name``, or set ``name``."""

    registry: ClassVar[Registry] = MODELS
    name: ClassVar[str] = ""

    @pytest.fixture
    def model_name(self) -> str:
        return self.name

    @pytest.mark.parametrize("channels", [1, 3])
    def test_it_follows_the_data(self, model_name: str, channels: int) -> None:
        model, example = built(model_name, channels)
        with torch.no_grad():
            assert model.eval()(example.repeat(2, 1, 1, 1)).shape == (2, CLASSES)

    def test_the_same_seed_makes_the_same_weights(self, model_name: str) -> None:
        _, example = built(model_name, 3)
        states = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            size = example.shape[-1]
            states.append(build(model_name, {}, classes=CLASSES, channels=3, size=size).state_dict())
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
        assert not all(torch.equal(value, states[2][key]) for key, value in states[0].items())

    def test_its_channels_can_be_cut(self, model_name: str) -> None:
        """Half of the MACs are removed, by random scores; the cut network computes what the masked one does."""
        model, example = built(model_name, 3)
        groups = channel_groups(model, example)
        assert groups
        generator = torch.Generator().manual_seed(0)
        scores = {group.name: torch.rand(group.size, generator=generator) for group in groups}
        costs = Costs(model, example, groups)
        selection = select_channels(scores, groups, costs, quantity="macs", sparsity=0.5, scope="uniform")
        pruned = cut(model, example, selection).eval()
        assert 1 - count_macs(pruned, example) / count_macs(model, example) == pytest.approx(0.5, abs=0.01)
        inputs = torch.randn(2, *example.shape[1:], generator=generator)
        with torch.no_grad():
            expected, actual = mask_channels(model, groups, selection).eval()(inputs), pruned(inputs)
        assert float((actual - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))

    def test_what_the_source_says_is_what_it_is(self, model_name: str) -> None:
        described = self.registry.describe(model_name)
        assert described.doc
        signature: dict[str, Any] = {
            name: inspect.Parameter.empty if p.default is inspect.Parameter.empty else p.default
            for name, p in inspect.signature(self.registry.load(model_name)).parameters.items()
            if name not in self.registry.supplied and p.kind is not inspect.Parameter.VAR_KEYWORD
        }
        assert {p.name: p.default for p in described.parameters} == signature
