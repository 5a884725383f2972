"""The promises every pruning method keeps, as tests to inherit."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.data.images import batches, calibration_batches
from orchestrator.methods import METHODS
from orchestrator.methods.base import Method, PruneTask
from orchestrator.metrics.macs import count_macs
from orchestrator.plugins import Registry
from orchestrator.spec.trial import Baseline, Target
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import apply_weight_masks, cut
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.masks import mask_channels
from orchestrator.surgery.selection import ChannelSelection, Selection, WeightSelection
from orchestrator.testing.networks import CHANNELS, NETWORKS, SIZE, images, network
from orchestrator.training.loop import Recipe, steps_per_epoch, train
from orchestrator.training.rng import generator_for
from orchestrator.training.schedule import dense_schedule

EXAMPLE = torch.zeros(1, CHANNELS, SIZE, SIZE)
SPARSITY = 0.5


@dataclass(frozen=True)
class Decided:
    """What a method decided on one network, and the network as the method left it."""

    model: nn.Module
    task: PruneTask
    selection: Selection


@cache
def decide(registry: Registry, name: str, kind: str, granularity: str, again: int = 0) -> Decided:
    """Run a method with its defaults on a tiny network as a trial does: prepare, train, select, finish."""
    method: Method = registry.load(name)()
    model = network(kind)
    task = task_for(model, granularity)
    if method.trains:
        data = images()
        recipe = Recipe(dense_schedule(Baseline(epochs=2, lr=0.05, batch_size=16), 6), 16, 1e-4)
        assert steps_per_epoch(data, 16) == 6
        method.prepare(model, task)
        train(
            model, data, recipe, stage="sparse_training", generator=generator_for(0, "suite"),
            report=lambda row, epochs: None, hook=method,
        )  # fmt: skip
    selection = method.select(model, task)
    method.finish(model)
    return Decided(model.eval(), task, selection)


def task_for(model: nn.Module, granularity: str) -> PruneTask:
    """A task at half of the MACs, or of the weights."""
    groups = channel_groups(model, EXAMPLE) if granularity == "channels" else []
    data, dense = images(), copy.deepcopy(model)
    return PruneTask(
        target=Target(quantity="macs" if granularity == "channels" else "weights", sparsity=SPARSITY),
        groups=groups,
        costs=Costs(model, EXAMPLE, groups),
        calibration=lambda: calibration_batches(data, 48, 16, seed=0),
        loss=F.cross_entropy,
        training_size=96,
        generator=generator_for(0, "method"),
        example=EXAMPLE,
        training=lambda: batches(data.train, 16, data=data, generator=None, augment=False),
        validation=lambda: batches(data.val, 16, data=data, generator=generator_for(0, "validation"), augment=False),
        held_out=lambda: batches(data.val, 16, data=data, generator=generator_for(0, "held_out"), augment=False),
        dense=lambda: copy.deepcopy(dense),
        steps=12,
    )


class MethodSuite:
    """Inherit it as ``Test...`` and parametrize the class over ``method_name``, or set ``name``.

    The name is looked up in ``registry``. Every promise is checked on a chain, a residual, a concatenating and a
    depthwise network, for each granularity the method has; every parameter has its default.
    """

    registry: ClassVar[Registry] = METHODS
    name: ClassVar[str] = ""

    @pytest.fixture
    def method_name(self) -> str:
        return self.name

    @pytest.fixture(params=["channels", "weights"])
    def granularity(self, request: pytest.FixtureRequest, method_name: str) -> str:
        wanted: str = request.param
        if wanted not in self.registry.load(method_name).granularities:
            pytest.skip(f"{method_name} does not remove {wanted}")
        return wanted

    @pytest.fixture(params=list(NETWORKS))
    def kind(self, request: pytest.FixtureRequest) -> str:
        kind: str = request.param
        return kind

    @pytest.fixture
    def decided(self, method_name: str, kind: str, granularity: str) -> Decided:
        return decide(self.registry, method_name, kind, granularity)

    def test_the_target_is_met(self, decided: Decided) -> None:
        pruned = smaller(decided)
        if isinstance(decided.selection, WeightSelection):
            total = sum(mask.numel() for mask in decided.selection.masks.values())
            gone = sum(int((~mask).sum()) for mask in decided.selection.masks.values())
            assert abs(gone / total - SPARSITY) <= 0.01
            return
        dense, kept = count_macs(decided.model, EXAMPLE), count_macs(pruned, EXAMPLE)
        assert 1 - kept / dense == pytest.approx(decided.selection.achieved)
        assert decided.selection.within == (abs(1 - kept / dense - SPARSITY) <= 0.01)
        # Tiny networks have filters that are worth more than 1 %: as near as one allows.
        full = {group.name: group.size for group in decided.task.groups}
        filter_share = max(1 - decided.task.costs.macs({**full, name: n - 1}) / dense for name, n in full.items())
        assert abs(1 - kept / dense - SPARSITY) <= max(0.01, filter_share)

    def test_the_same_seed_decides_the_same(self, method_name: str, kind: str, granularity: str) -> None:
        one, two = (decide(self.registry, method_name, kind, granularity, again).selection for again in (0, 1))
        if isinstance(one, ChannelSelection) and isinstance(two, ChannelSelection):
            assert one.kept == two.kept
        else:
            assert isinstance(one, WeightSelection)
            assert isinstance(two, WeightSelection)
            assert all(torch.equal(mask, two.masks[name]) for name, mask in one.masks.items())

    def test_no_layer_is_emptied(self, decided: Decided) -> None:
        if isinstance(decided.selection, ChannelSelection):
            assert all(len(kept) > 0 for kept in decided.selection.kept.values())
        else:
            assert all(bool(mask.any()) for mask in decided.selection.masks.values())

    def test_cut_equals_masked(self, decided: Decided) -> None:
        inputs = some_inputs()
        pruned = smaller(decided).eval()
        if isinstance(decided.selection, ChannelSelection):
            masked = mask_channels(decided.model, decided.task.groups, decided.selection).eval()
            torch.testing.assert_close(pruned(inputs), masked(inputs), atol=1e-4, rtol=1e-4)
        else:
            for name, mask in decided.selection.masks.items():
                assert not pruned.get_parameter(name)[~mask].any()

    def test_forward_and_backward_after_the_cut(self, decided: Decided) -> None:
        pruned = smaller(decided).train()
        loss = F.cross_entropy(pruned(some_inputs()), torch.arange(8) % 4)
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in pruned.parameters())

    def test_nothing_is_left_on_the_network(self, decided: Decided, kind: str) -> None:
        for module in decided.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
        fresh = network(kind)
        assert [type(m) for m in decided.model.modules()] == [type(m) for m in fresh.modules()]
        assert decided.model.state_dict().keys() == fresh.state_dict().keys()
        pickle.loads(pickle.dumps(decided.model))

    def test_the_method_travels(self, method_name: str) -> None:
        method = self.registry.load(method_name)()
        assert pickle.loads(pickle.dumps(method)) == method

    def test_what_the_source_says_is_what_it_is(self, method_name: str) -> None:
        """A plan reads parameters and attributes from the source, without importing it."""
        described = self.registry.describe(method_name)
        loaded = self.registry.load(method_name)
        assert described.doc
        assert {p.name: p.default for p in described.parameters} == {
            field.name: field.default for field in dataclasses.fields(loaded)
        }
        for name, value in described.attributes.items():
            assert getattr(loaded, name) == value
        assert loaded.paper
        assert set(loaded.granularities) <= {"channels", "weights"}


def smaller(decided: Decided) -> nn.Module:
    if isinstance(decided.selection, ChannelSelection):
        return cut(decided.model, EXAMPLE, decided.selection)
    return apply_weight_masks(decided.model, decided.selection)


def some_inputs() -> Tensor:
    return torch.randn(8, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
