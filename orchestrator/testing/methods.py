"""Conformance suite of pruning methods: tests to inherit."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.data.images import ImageData, Split, hold_out
from orchestrator.methods import METHODS
from orchestrator.methods.base import Method, PruneTask
from orchestrator.metrics.macs import count_macs
from orchestrator.plugins import Registry
from orchestrator.spec.trial import Baseline, Target
from orchestrator.surgery.groups import channel_groups
from orchestrator.surgery.masks import mask_channels
from orchestrator.surgery.selection import ChannelSelection, Selection, WeightSelection
from orchestrator.testing.networks import CHANNELS, NETWORKS, SIZE, images, network
from orchestrator.training.loop import Recipe, steps_per_epoch
from orchestrator.training.rng import generator_for
from orchestrator.training.schedule import dense_schedule
from orchestrator.trial.pruning import prune_network, prune_task, stored, train_with_method
from orchestrator.trial.stage_cache import state_of

EXAMPLE = torch.zeros(1, CHANNELS, SIZE, SIZE)
SPARSITY = 0.5
BATCH_SIZE = 16


@dataclass(frozen=True)
class Decided:
    """A method's decision on one network."""

    model: nn.Module
    """The network just before it was pruned, in evaluation mode."""
    trained: nn.Module
    """The network that the sparse training left; `model` where there is none."""
    pruned: nn.Module
    task: PruneTask
    selection: Selection
    analysis: dict[str, Any]


@cache
def decide(registry: Registry, name: str, kind: str, granularity: str, again: int = 0) -> Decided:
    """Prune a tiny network by a method with its defaults, on the path of a trial.

    As there, a sparse training and the selection that follows it have a network and an instance of the method each:
    what passes between them are the stored weights and scores. The sparse training lasts two epochs.
    """
    method: Method = registry.load(name)()
    model = network(kind)
    data, dense = images(), network(kind)
    baseline = Baseline(epochs=2, lr=0.05, batch_size=BATCH_SIZE)
    if method.trains:
        training_data, held_out = hold_out(data, method.held_out())
        schedule = dense_schedule(baseline, steps_per_epoch(training_data, BATCH_SIZE))
        task = task_for(model, granularity, data, dense, schedule.steps, held_out)
        recipe = Recipe(schedule, BATCH_SIZE, weight_decay=1e-4)
        scores, _ = train_with_method(
            method,
            model,
            task,
            training_data,
            recipe,
            generator=generator_for(0, "suite"),
            report=lambda row, epochs: None,
        )
        trained, method, model = model, registry.load(name)(), network(kind)
        model.load_state_dict(state_of(trained))
        task = task_for(model, granularity, data, dense)
    else:
        trained = model
        task = task_for(model, granularity, data, dense)
        scores = stored(method.scores(model, task))
    pruned = prune_network(method, model, scores, task)
    method = registry.load(name)()
    analysis = method.analyse(dense, pruned.network, copy.deepcopy(pruned.network), task, scores)
    return Decided(model.eval(), trained, pruned.network, task, pruned.selection, pruned.analysis | analysis)


def task_for(
    model: nn.Module,
    granularity: str,
    data: ImageData,
    dense: nn.Module,
    steps: int = 0,
    held_out: Split | None = None,
) -> PruneTask:
    """Return a task that asks for half of the MACs, or of the weights."""
    return prune_task(
        model,
        channel_groups(model, EXAMPLE) if granularity == "channels" else [],
        target=Target(quantity="macs" if granularity == "channels" else "weights", sparsity=SPARSITY),
        data=data,
        example=EXAMPLE,
        batch_size=BATCH_SIZE,
        seed=0,
        dense=lambda: copy.deepcopy(dense),
        steps=steps,
        held_out=held_out,
    )


class MethodSuite:
    """Inherit it as ``Test...`` and parametrize the class over ``method_name``, or set ``name``.

    The name is looked up in ``registry``. The tests run on a chain, a residual, a concatenating and a depthwise
    network, for each granularity the method has, with the default of every parameter.
    """

    registry: ClassVar[Registry] = METHODS
    name: ClassVar[str] = ""

    @pytest.fixture
    def method_name(self) -> str:
        return self.name

    @pytest.fixture(params=["channels", "weights"])
    def granularity(self, request: pytest.FixtureRequest, method_name: str) -> str:
        granularity: str = request.param
        if granularity not in self.registry.load(method_name).granularities:
            pytest.skip(f"{method_name} does not remove {granularity}")
        return granularity

    @pytest.fixture(params=list(NETWORKS))
    def kind(self, request: pytest.FixtureRequest) -> str:
        kind: str = request.param
        return kind

    @pytest.fixture
    def decided(self, method_name: str, kind: str, granularity: str) -> Decided:
        return decide(self.registry, method_name, kind, granularity)

    def test_the_target_is_met(self, decided: Decided) -> None:
        if isinstance(decided.selection, WeightSelection):
            total = sum(mask.numel() for mask in decided.selection.masks.values())
            removed = sum(int((~mask).sum()) for mask in decided.selection.masks.values())
            assert abs(removed / total - SPARSITY) <= 0.01
            return
        dense, kept = count_macs(decided.model, EXAMPLE), count_macs(decided.pruned, EXAMPLE)
        assert 1 - kept / dense == pytest.approx(decided.selection.achieved)
        assert decided.selection.within == (abs(1 - kept / dense - SPARSITY) <= 0.01)
        # A filter of a tiny network may be more than 1 % of its MACs: as near as one filter allows.
        full = {group.name: group.size for group in decided.task.groups}
        filter_share = max(1 - decided.task.costs.macs({**full, name: n - 1}) / dense for name, n in full.items())
        assert abs(1 - kept / dense - SPARSITY) <= max(0.01, filter_share)

    def test_the_same_seed_decides_the_same(self, method_name: str, kind: str, granularity: str) -> None:
        first, second = (decide(self.registry, method_name, kind, granularity, again).selection for again in (0, 1))
        if isinstance(first, ChannelSelection) and isinstance(second, ChannelSelection):
            assert first.kept == second.kept
        else:
            assert isinstance(first, WeightSelection)
            assert isinstance(second, WeightSelection)
            assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())

    def test_no_layer_is_emptied(self, decided: Decided) -> None:
        if isinstance(decided.selection, ChannelSelection):
            assert all(len(kept) > 0 for kept in decided.selection.kept.values())
        else:
            assert all(bool(mask.any()) for mask in decided.selection.masks.values())

    def test_cut_equals_masked(self, decided: Decided) -> None:
        inputs = some_inputs()
        pruned = copy.deepcopy(decided.pruned).eval()
        if isinstance(decided.selection, ChannelSelection):
            masked = mask_channels(decided.model, decided.task.groups, decided.selection).eval()
            torch.testing.assert_close(pruned(inputs), masked(inputs), atol=1e-4, rtol=1e-4)
        else:
            for name, mask in decided.selection.masks.items():
                assert not pruned.get_parameter(name)[~mask].any()

    def test_forward_and_backward_after_the_cut(self, decided: Decided) -> None:
        pruned = copy.deepcopy(decided.pruned).train()
        loss = F.cross_entropy(pruned(some_inputs()), torch.arange(8) % 4)
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in pruned.parameters())

    def test_nothing_is_left_on_the_network(self, decided: Decided, kind: str) -> None:
        fresh = network(kind)
        for model in (decided.model, decided.trained):
            for module in model.modules():
                assert not module._forward_hooks
                assert not module._forward_pre_hooks
                assert not module._backward_hooks
            assert [type(m) for m in model.modules()] == [type(m) for m in fresh.modules()]
            assert model.state_dict().keys() == fresh.state_dict().keys()
            pickle.loads(pickle.dumps(model))

    def test_its_analysis_is_plain_json(self, decided: Decided) -> None:
        json.dumps(decided.analysis, allow_nan=False)

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


def some_inputs() -> Tensor:
    return torch.randn(8, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
